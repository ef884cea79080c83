"""What a run returns: the outcome of each image, the growth tables and where the files are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spheroseg.plate.layout import PlateLayout
from spheroseg.run.options import RunOptions
from spheroseg.tasks import TaskState

if TYPE_CHECKING:
    # The module that draws charts takes longer to load than the whole command line.
    from spheroseg.run.growth import GrowthResult

Row = dict[str, Any]
TABLES = ("results", "growth", "wells", "conditions", "fits", "endpoint", "ic50")


@dataclass(frozen=True)
class ImageOutcome:
    """What became of one image.

    label: its path, with the page number if the file has several pages.
    state: `completed` or `failed`, or `queued` if the run was stopped before.
    reason, error: the error code and the sentence of a failed image.
    objects: one row per object, with the columns of results.csv.
    flags: quality flags of the image.
    pixel_size: `um`, `source` and, if other sources disagree, `contradicted_by`. None if it is not known.
    mask, overlay: the label image (uint16 TIFF) and the picture with outlines. None unless completed.
    """

    label: str
    state: str
    reason: str | None = None
    error: str | None = None
    objects: tuple[Row, ...] = ()
    flags: tuple[str, ...] = ()
    pixel_size: Mapping[str, Any] | None = None
    mask: Path | None = None
    overlay: Path | None = None

    @property
    def is_completed(self) -> bool:
        return self.state == TaskState.COMPLETED

    @property
    def is_failed(self) -> bool:
        return self.state == TaskState.FAILED


@dataclass(frozen=True)
class RunResult:
    """What `spheroseg run` or `run_images` has done, and where it is.

    images: in the order of the inputs. growth: the tables of the plate, its fits and the names of edited files.
    layout: the well and time of each image. skipped: names of files that are not images.
    """

    options: RunOptions
    images: tuple[ImageOutcome, ...]
    growth: "GrowthResult"
    layout: PlateLayout
    skipped: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        """The folder with all results."""
        return self.options.out

    @property
    def completed(self) -> tuple[ImageOutcome, ...]:
        return tuple(image for image in self.images if image.is_completed)

    @property
    def failed(self) -> tuple[ImageOutcome, ...]:
        return tuple(image for image in self.images if image.is_failed)

    @property
    def is_finished(self) -> bool:
        """False if the run was stopped before every image was completed or failed. Run it again to continue."""
        return all(image.is_completed or image.is_failed for image in self.images)

    @property
    def objects(self) -> list[Row]:
        """All measured objects: one row per object, with the columns of results.csv."""
        return [row for image in self.images for row in image.objects]

    @property
    def tables(self) -> dict[str, Path]:
        """The CSV tables that were written, by name: `results` and `growth` always, of a plate also `wells`, ..."""
        paths = {name: self.out / f"{name}.csv" for name in TABLES}
        return {name: path for name, path in paths.items() if path.is_file()}
