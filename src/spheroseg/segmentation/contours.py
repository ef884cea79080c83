"""Traces the outlines of the objects in a probability map, at sub-pixel precision.

Coordinates are x, y in px. The origin is the outer corner of the top-left pixel, as in ImageJ and QuPath, so the
centre of that pixel is (0.5, 0.5) and the picture spans 0..width, 0..height.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.errors import BadParameters
from spheroseg.segmentation.borders import Borders
from spheroseg.segmentation.instances import Instances
from spheroseg.segmentation.marching_squares import contour_lines, pixels_inside
from spheroseg.segmentation.splitting import split_components

MAX_OBJECTS = 65_535  # the largest number in a uint16 label image
MIN_AREA_PX2 = 1.0  # applies to every minimum: a smaller object has no shape to measure
MIN_HOLE_PX2 = 4.0  # a smaller hole is noise of the map, and is filled

Polygon = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outline:
    """One object: polygons of shape (n, 2) whose first point is not repeated.

    `outer` runs clockwise as seen on the screen (y down), which is positive in the shoelace formula. `holes` run
    anticlockwise. So the shoelace sum over all of them is the net area.
    """

    outer: Polygon
    holes: tuple[Polygon, ...] = ()


def trace(
    probability: npt.NDArray[np.float32], threshold: float, min_area_px: float, instances: Instances | None = None
) -> tuple[npt.NDArray[np.uint16], list[Outline]]:
    """Trace the objects where `probability` (height, width) exceeds `threshold`.

    Return a label image (height, width) and the outlines; pixels of `outlines[i]` have label i + 1. Objects are
    numbered from top to bottom by their highest point, then from left to right.

    The method is marching squares (Lorensen and Cline 1987, in two dimensions) on the map itself, linear between
    pixel centres. Pixels that touch at a corner belong together (8-connected). An object that reaches the border is
    closed along the edge of the picture. Objects of less than `min_area_px` (net polygon area, px²) are left out,
    and holes of less than 4 px² are filled.

    With `instances`, an object with several of them is split. Parts that touch have the same points along their
    common border: they do not overlap, and together they cover the area of the whole object.

    Raise `BadParameters` if more than 65,535 objects remain.
    """
    threshold = float(
        np.float32(threshold)
    )  # as in the map: otherwise a pixel could be inside here and outside in the tracer
    inside = (probability > threshold).astype(np.uint8)
    _, raw_components, raw_stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8, ltype=cv2.CV_32S)
    components, stats = np.asarray(raw_components, np.int32), np.asarray(raw_stats, np.int32)
    parts, memberships = split_components(components, stats, instances) if instances else ([], None)
    borders = None
    if memberships:
        instance_of = np.array([part.instance for part in parts], np.int32)
        borders = Borders(probability, threshold, components, len(stats), instance_of, memberships)
    boxes = [(number, *box) for number, box in enumerate(stats.tolist())]
    boxes += [(part.number, part.left, part.top, part.width, part.height, part.width * part.height) for part in parts]
    traced: list[tuple[int, Outline]] = []
    filled: list[tuple[int, Polygon]] = []
    for component, left, top, width, height, count in boxes:
        # A pixel adds at most 4 px² to its polygon, so most specks are dropped without being traced.
        if component == 0 or count == 0 or 4 * count < min_area_px:
            continue
        window = np.s_[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1]
        corner = np.array([window[1].start, window[0].start])
        is_part = component >= len(stats)
        polygons = _trace_component(probability[window], components[window], component, threshold, between=is_part)
        polygons = [polygon + corner for polygon in polygons]
        if borders and is_part:
            polygons = [borders.align(polygon, component) for polygon in polygons]
        polygons = [_to_picture(polygon, probability.shape) for polygon in polygons]
        gaps = [polygon for polygon in polygons[1:] if abs(signed_area(polygon)) < MIN_HOLE_PX2]
        outline = Outline(polygons[0], tuple(polygons[1 : len(polygons) - len(gaps)])) if polygons else None
        if outline is not None and net_area(outline) >= max(min_area_px, MIN_AREA_PX2):
            traced.append((component, outline))
            if len(traced) > MAX_OBJECTS:
                raise BadParameters(
                    f"more than {MAX_OBJECTS} objects found, which is all that a label image can number: "
                    "raise the threshold or the minimum area"
                )
            filled += [(component, gap) for gap in gaps]
    # Holes are filled last, because the borders of other parts are computed from the unfilled label image.
    for component, gap in filled:
        components[pixels_inside(gap[:, ::-1] - 0.5, components.shape)] = component
    traced.sort(key=lambda item: (item[1].outer[:, 1].min(), item[1].outer[:, 0].min()))
    return _renumber(components, len(stats) + len(parts), traced), [outline for _, outline in traced]


def signed_area(polygon: Polygon) -> float:
    """Return the area of a polygon (n, 2), px², by the shoelace formula. Clockwise on the screen is positive."""
    x, y = (polygon - polygon[0]).T
    return float(0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def net_area(outline: Outline) -> float:
    """Return the area inside the outer outline less that of its holes, px²."""
    return signed_area(outline.outer) + sum(signed_area(hole) for hole in outline.holes)


def _trace_component(
    probability: npt.NDArray[np.float32],
    components: npt.NDArray[np.int32],
    component: int,
    threshold: float,
    *,
    between: bool,
) -> list[Polygon]:
    """Trace one component in its window. Return its polygons, the largest first.

    Coordinates are relative to the window, with whole numbers at pixel centres. With `between`, each point lies
    between two pixels and never on one.
    """
    # Set all other components to -1. They never share a cell of four pixels with this one, so this does not move
    # its outline. Other parts of a split component do; their points are moved to the common border afterwards.
    alone = np.where((components == component) | (components == 0), probability, np.float32(-1))
    if between:
        alone = np.where(alone == np.float32(threshold), alone - np.float32(1e-6), alone)
    # A copy of the edge pixels continues the outline straight to the border. The frame of -1 closes it there.
    alone = np.pad(np.pad(alone.astype(np.float64), 1, mode="edge"), 1, constant_values=-1.0)
    polygons = [_remove_repeats(line[:-1, ::-1] - 2.0) for line in contour_lines(alone, threshold)]
    polygons = sorted((p for p in polygons if len(p) >= 3), key=lambda p: -abs(signed_area(p)))
    # The largest is the outer outline. Make it clockwise and the holes anticlockwise.
    return [p if (signed_area(p) > 0) == (i == 0) else p[::-1] for i, p in enumerate(polygons)]


def _to_picture(polygon: Polygon, shape: tuple[int, ...]) -> Polygon:
    """Move the origin from a pixel centre to the corner of the picture, and clip to the picture."""
    return _remove_repeats(np.clip(polygon + 0.5, 0.0, (shape[1], shape[0])))


def _remove_repeats(polygon: Polygon) -> Polygon:
    return polygon[np.any(polygon != np.roll(polygon, 1, axis=0), axis=1)]


def _renumber(
    components: npt.NDArray[np.int32], count: int, traced: list[tuple[int, Outline]]
) -> npt.NDArray[np.uint16]:
    lookup = np.zeros(count, np.uint16)
    lookup[[component for component, _ in traced]] = np.arange(1, len(traced) + 1)
    return lookup[components]
