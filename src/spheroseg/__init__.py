"""Microscope images of tumour spheroids in, calibrated outlines and growth curves out.

`run_images` segments and measures files and writes tables, as `spheroseg run` does. `segment` finds the spheroids in
one image, `measure` measures objects that are already outlined. All three raise children of `SpherosegError`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spheroseg.errors import SpherosegError as SpherosegError
    from spheroseg.plate.options import GrowthOptions as GrowthOptions
    from spheroseg.plate.options import PlateOptions as PlateOptions
    from spheroseg.run.process import RunProgress as RunProgress
    from spheroseg.run.result import ImageOutcome as ImageOutcome
    from spheroseg.run.result import RunResult as RunResult
    from spheroseg.run.run_images import run_images as run_images
    from spheroseg.run.single_image import ImageSegmentation as ImageSegmentation
    from spheroseg.run.single_image import measure as measure
    from spheroseg.run.single_image import segment as segment
    from spheroseg.segmentation.contours import Outline as Outline
    from spheroseg.segmentation.parameters import Parameters as Parameters
    from spheroseg.segmentation.planes import PlaneChoice as PlaneChoice

__version__ = version("spheroseg")

# Where each public name is defined. It is imported when it is first used (PEP 562), because all of them together take
# seconds to load and most programs need few.
_MODULES = {
    "GrowthOptions": "spheroseg.plate.options",
    "ImageOutcome": "spheroseg.run.result",
    "ImageSegmentation": "spheroseg.run.single_image",
    "Outline": "spheroseg.segmentation.contours",
    "Parameters": "spheroseg.segmentation.parameters",
    "PlaneChoice": "spheroseg.segmentation.planes",
    "PlateOptions": "spheroseg.plate.options",
    "RunProgress": "spheroseg.run.process",
    "RunResult": "spheroseg.run.result",
    "SpherosegError": "spheroseg.errors",
    "measure": "spheroseg.run.single_image",
    "run_images": "spheroseg.run.run_images",
    "segment": "spheroseg.run.single_image",
}
__all__ = [  # noqa: RUF022 - functions first
    "run_images",
    "segment",
    "measure",
    "__version__",
    "GrowthOptions",
    "ImageOutcome",
    "ImageSegmentation",
    "Outline",
    "Parameters",
    "PlaneChoice",
    "PlateOptions",
    "RunProgress",
    "RunResult",
    "SpherosegError",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
