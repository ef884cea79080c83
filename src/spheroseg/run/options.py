"""What a person asks of a run."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from spheroseg.export.formats import ExportFormat
from spheroseg.plate.options import PlateOptions
from spheroseg.run.inputs import STATE_FOLDER
from spheroseg.segmentation.model import KnownModel
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.planes import NO_CHOICE, PlaneChoice


class Only(StrEnum):
    """What of an earlier run to do again: what failed, even for good, or what is new or another file now."""

    FAILED = "failed"
    CHANGED = "changed"


@dataclass(frozen=True)
class RunOptions:
    """What a person asked for. `pixel_size_um` in µm. `exports`: what to write for other programs. `choice`: of the
    pages of stacks. `only`: nothing but this part of the work; None is both."""

    out: Path
    model: KnownModel
    parameters: Parameters
    pixel_size_um: float | None = None
    workers: int = 1
    exports: frozenset[ExportFormat] = frozenset({ExportFormat.ROIS})
    choice: PlaneChoice = NO_CHOICE
    only: Only | None = None
    plate: PlateOptions = field(default_factory=PlateOptions)

    @property
    def state_dir(self) -> Path:
        return self.out / STATE_FOLDER

    @property
    def storage_dir(self) -> Path:
        return self.state_dir / "storage"
