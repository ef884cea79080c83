"""From the bytes of an image to measured objects."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.errors import BadParameters, ModelUnusable
from spheroseg.segmentation.contours import Outline, trace
from spheroseg.segmentation.image import Image, PixelSize, decode
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.measure import Measurements, measure
from spheroseg.segmentation.model import Model

NO_OBJECT_FOUND = "no_object_found"
SEVERAL_OBJECTS = "several_objects"
TOUCHES_EDGE = "touches_edge"

# Without a wish of the user's: 0.02 % of the picture (an object of 20 px across in 1500 × 1125), but 8 px across at
# least.
MIN_AREA_FRACTION = 0.0002
MIN_AREA_FLOOR_PX = 50.0


@dataclass(frozen=True)
class Parameters:
    """What a user may set: the probability at the outline, and the least net area in px² (None: by image size).

    Raises `BadParameters` for what is not finite or out of range.
    """

    threshold: float = 0.5
    min_area_px: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.threshold) or not 0 < self.threshold < 1:
            raise BadParameters(f"threshold is {self.threshold!r}; it must lie between 0 and 1, without them")
        if self.min_area_px is not None and not (_is_number(self.min_area_px) and self.min_area_px >= 0):
            raise BadParameters(f"min_area_px is {self.min_area_px!r}; it must be a number of px², 0 or more")

    def resolved(self, width: int, height: int) -> dict[str, Any]:
        """The values that are used for an image of this size (px), ready for a record of the run."""
        area = self.min_area_px
        if area is None:
            area = max(MIN_AREA_FLOOR_PX, MIN_AREA_FRACTION * width * height)
        return {"threshold": float(self.threshold), "min_area_px": float(area)}


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """`flags`: `touches_edge` when part of the object may lie outside the picture."""

    outline: Outline
    measurements: Measurements
    flags: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """`labels` is uint16 (height, width), 0 the ground; pixels of `objects[i]` have i + 1.

    `flags`: `no_object_found` or `several_objects`. `parameters` are those used, `durations_ms` has `decode`,
    `inference`, `outlines` (tracing and measuring).
    """

    width: int
    height: int
    pixel_size: PixelSize | None
    objects: tuple[SegmentedObject, ...]
    labels: npt.NDArray[np.uint16]
    flags: tuple[str, ...]
    model_name: str
    model_version: str
    model_sha256: str
    parameters: dict[str, Any]
    durations_ms: dict[str, float]


def segment(
    file: BinaryIO,
    model: Model,
    parameters: Parameters,
    page: int = 0,
    pixel_size_um: float | None = None,
) -> tuple[Segmentation, Image]:
    """Decode one page, find the objects and measure them: `read`, the model and `outlined` in one.

    Raises what they raise.
    """
    started = time.perf_counter()
    image = read(file, page, pixel_size_um)
    decoded = time.perf_counter()
    (maps,) = model.maps([image.pixels])
    inferred = time.perf_counter()
    segmentation = outlined(image, maps, model, parameters)
    durations = {"decode": 1000 * (decoded - started), "inference": 1000 * (inferred - decoded)}
    return replace(segmentation, durations_ms={**durations, **segmentation.durations_ms}), image


def read(file: BinaryIO, page: int = 0, pixel_size_um: float | None = None) -> Image:
    """One page with its pixel size, where `pixel_size_um` (µm) wins over the file's.

    Raises `BadImage` and its kind (see `decode`), and `BadParameters` for a pixel size that is not a positive number.
    """
    if pixel_size_um is not None and not (_is_number(pixel_size_um) and pixel_size_um > 0):
        raise BadParameters(f"the pixel size is {pixel_size_um!r}; it must be a positive number of µm")
    image = decode(file, page)
    return image if pixel_size_um is None else Image(image.pixels, PixelSize(float(pixel_size_um), "option"))


def outlined(image: Image, maps: Maps, model: Model, parameters: Parameters) -> Segmentation:
    """Find the objects in the maps of `image` and measure them.

    Raises `ModelUnusable` when the maps are not probabilities, and `BadParameters`.
    """
    started = time.perf_counter()
    probability = _full_size(maps.probability, image.pixels.shape, model.name)
    height, width = image.pixels.shape
    used = parameters.resolved(width, height)
    labels, outlines = trace(probability, used["threshold"], used["min_area_px"])
    objects = tuple(_measured(outline, width, height) for outline in outlines)
    return Segmentation(
        width=width,
        height=height,
        pixel_size=image.pixel_size,
        objects=objects,
        labels=labels,
        flags=_flags(objects),
        model_name=model.name,
        model_version=model.version,
        model_sha256=model.sha256,
        parameters=used,
        durations_ms={"outlines": 1000 * (time.perf_counter() - started)},
    )


def _full_size(probability: npt.NDArray[np.float32], shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32]:
    if probability.ndim != 2 or not np.isfinite(probability).all():
        raise ModelUnusable(f"model {name} answered with something else than a map of probabilities")
    probability = probability.astype(np.float32, copy=False)
    if probability.shape == shape:
        return probability
    # Before any threshold: resizing a mask instead would give its staircase, and a circularity that depends on the
    # camera.
    resized: npt.NDArray[np.float32] = cv2.resize(
        probability, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR
    ).astype(np.float32, copy=False)
    return resized


def _measured(outline: Outline, width: int, height: int) -> SegmentedObject:
    x, y = outline.outer.T
    at_edge = x.min() <= 0 or y.min() <= 0 or x.max() >= width or y.max() >= height
    return SegmentedObject(outline, measure(outline), (TOUCHES_EDGE,) if at_edge else ())


def _flags(objects: tuple[SegmentedObject, ...]) -> tuple[str, ...]:
    if not objects:
        return (NO_OBJECT_FOUND,)
    return (SEVERAL_OBJECTS,) if len(objects) > 1 else ()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
