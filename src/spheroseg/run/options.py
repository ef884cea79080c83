"""The options of a run."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from spheroseg.errors import BadParameters
from spheroseg.export.formats import ExportFormat
from spheroseg.plate.options import PlateOptions
from spheroseg.run.output_names import STATE_FOLDER
from spheroseg.segmentation.model import KnownModel
from spheroseg.segmentation.parameters import Parameters, check_pixel_size
from spheroseg.segmentation.planes import NO_CHOICE, PlaneChoice


class Only(StrEnum):
    """Which part of an earlier run to repeat."""

    FAILED = "failed"  # images that failed, also those whose error is permanent
    CHANGED = "changed"  # images that are new, or whose file has changed


@dataclass(frozen=True)
class RunOptions:
    """What to segment with, and what to write.

    out: the output folder. pixel_size_um: µm per pixel of all images; None: as each file states. workers: the number
    of images segmented at the same time. exports: files to write for other programs. choice: which pages of stacks to
    use. only: repeat only this part of an earlier run; None: both, but not the images whose error is permanent.

    Raise BadParameters for a pixel size or a number of workers that is not positive.
    """

    out: Path
    model: KnownModel
    parameters: Parameters
    pixel_size_um: float | None = None
    workers: int = 1
    exports: frozenset[ExportFormat] = frozenset({ExportFormat.ROIS})
    choice: PlaneChoice = NO_CHOICE
    only: Only | None = None
    plate: PlateOptions = field(default_factory=PlateOptions)

    def __post_init__(self) -> None:
        check_pixel_size(self.pixel_size_um)
        if self.workers < 1:
            raise BadParameters(f"the number of workers is {self.workers!r}; it must be 1 or more")

    @property
    def state_dir(self) -> Path:
        return self.out / STATE_FOLDER

    @property
    def storage_dir(self) -> Path:
        return self.state_dir / "storage"
