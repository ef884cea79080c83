"""Segments an image: `read_image` decodes it, a model computes its maps, `outline_objects` measures the objects."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.contours import Outline, net_area, trace
from spheroseg.segmentation.image import GreyImage, PixelSize, decode
from spheroseg.segmentation.instances import find_instances
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.measure import Measurements, centroid, measure
from spheroseg.segmentation.model import Model
from spheroseg.segmentation.parameters import AppliedParameters, check_pixel_size
from spheroseg.segmentation.parameters import Parameters as Parameters
from spheroseg.segmentation.quality import (
    LOW_CONTRAST,
    NO_OBJECT_FOUND,
    OUT_OF_FOCUS,
    SEVERAL_OBJECTS,
    TOUCHES_EDGE,
    assess_quality,
)


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """An object with its outline and measurements (px).

    `flags`: `touches_edge` if part of the object may lie outside the picture, and the flags of `assess_quality`.
    """

    outline: Outline
    measurements: Measurements
    flags: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The objects of an image.

    `width`, `height`: px. `labels`: uint16 (height, width); 0 is background, pixels of `objects[i]` have i + 1.
    `flags`: `no_object_found` or `several_objects`, `low_contrast` and `out_of_focus` if the largest object has
    them, and the flags of the image. `parameters`: the values that were used. `durations_ms`: the time of each step,
    by name. `outline_objects` records only `outlines` (tracing and measuring); the caller adds its own steps.
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
    parameters: AppliedParameters
    durations_ms: dict[str, float]


def read_image(file: BinaryIO, page: int = 0, pixel_size_um: float | None = None) -> GreyImage:
    """Decode one page with its pixel size; `pixel_size_um` (µm) takes precedence over the file's.

    Raise `BadImage` and its subclasses as `decode` does, and `BadParameters` if the pixel size is not a positive
    number.
    """
    check_pixel_size(pixel_size_um)
    return decode(file, page, pixel_size_um=None if pixel_size_um is None else float(pixel_size_um))


def outline_objects(image: GreyImage, maps: Maps, model: Model, parameters: Parameters) -> Segmentation:
    """Find the objects in the maps of `image` and measure them.

    Raise `ModelUnusable` if the maps are not probabilities, and `BadParameters` as `Parameters.resolve` and `trace`
    do.
    """
    started = time.perf_counter()
    height, width = image.pixels.shape
    used = parameters.resolve(width, height, image.pixel_size.um if image.pixel_size else None)
    _check_maps(maps, model.name)
    probability = _resize_map(maps.probability, image.pixels.shape)
    instances = find_instances(maps, used["threshold"], (height, width)) if used["separate"] else None
    labels, outlines = trace(probability, used["threshold"], used["min_area_px"], instances)
    chosen = _choose(outlines, used, width, height)
    # The quality is assessed with the labels of all objects, because those that are left out are not background.
    objects = tuple(
        SegmentedObject(
            outlines[i],
            measure(outlines[i]),
            (TOUCHES_EDGE,) * _touches_edge(outlines[i], width, height)
            + assess_quality(image.pixels, probability, labels, i + 1, outlines[i]).flags,
        )
        for i in chosen
    )
    return Segmentation(
        width=width,
        height=height,
        pixel_size=image.pixel_size,
        objects=objects,
        labels=_keep_labels(labels, chosen, len(outlines)),
        flags=_flags(objects) + image.flags,
        model_name=model.name,
        model_version=model.version,
        model_sha256=model.sha256,
        parameters=used,
        durations_ms={"outlines": 1000 * (time.perf_counter() - started)},
    )


def _check_maps(maps: Maps, name: str) -> None:
    if maps.probability.ndim != 2 or not np.isfinite(maps.probability).all():
        raise ModelUnusable(f"model {name} answered with something else than a map of probabilities")
    if maps.distance is not None and (
        maps.distance.shape != maps.probability.shape or not np.isfinite(maps.distance).all()
    ):
        raise ModelUnusable(
            f"model {name} answered with something else than a map of distances beside the probabilities"
        )


def _resize_map(probability: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    probability = probability.astype(np.float32, copy=False)
    if probability.shape == shape:
        return probability
    # Resize the map and not the mask: a resized mask has steps, so its circularity would depend on the camera.
    resized: npt.NDArray[np.float32] = cv2.resize(
        probability, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR
    ).astype(np.float32, copy=False)
    return resized


def _choose(outlines: Sequence[Outline], used: AppliedParameters, width: int, height: int) -> list[int]:
    """Return the indices of the outlines that the parameters keep, in their order."""
    kept = [
        i for i, outline in enumerate(outlines) if used["edge"] == "keep" or not _touches_edge(outline, width, height)
    ]
    if used["objects"] == "all" or not kept:
        return kept
    areas = {i: net_area(outlines[i]) for i in kept}
    if used["objects"] == "largest":
        return [max(kept, key=areas.__getitem__)]
    middle = np.array([width / 2, height / 2])
    distances = {i: float(np.hypot(*(centroid(outlines[i]) - middle))) for i in kept}
    return [min(kept, key=lambda i: (distances[i], -areas[i]))]


def _keep_labels(labels: npt.NDArray[np.uint16], chosen: Sequence[int], count: int) -> npt.NDArray[np.uint16]:
    if len(chosen) == count:
        return labels
    lookup = np.zeros(count + 1, np.uint16)
    lookup[np.array(chosen, int) + 1] = np.arange(1, len(chosen) + 1)
    return lookup[labels]


def _touches_edge(outline: Outline, width: int, height: int) -> bool:
    x, y = outline.outer.T
    return bool(x.min() <= 0 or y.min() <= 0 or x.max() >= width or y.max() >= height)


def _flags(objects: tuple[SegmentedObject, ...]) -> tuple[str, ...]:
    if not objects:
        return (NO_OBJECT_FOUND,)
    largest = max(objects, key=lambda candidate: candidate.measurements.area)
    several = (SEVERAL_OBJECTS,) if len(objects) > 1 else ()
    return several + tuple(flag for flag in (LOW_CONTRAST, OUT_OF_FOCUS) if flag in largest.flags)
