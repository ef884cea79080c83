"""Splits connected components with several instances. Each pixel goes to the instance of its largest membership."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.instances import Instances
from spheroseg.segmentation.membership import Memberships, Numbers

ROWS_AT_ONCE = 256  # of the picture; bounds the memory
MAX_ROUNDS = 8

Boxes = Sequence[tuple[slice, ...] | None]
PartNumbers = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class ComponentPart:
    """A part of a component that was split: its number in the label image, its instance, and its box (px)."""

    number: int
    instance: int
    left: int
    top: int
    width: int
    height: int


def split_components(
    components: Numbers, stats: npt.NDArray[np.int32], instances: Instances
) -> tuple[list[ComponentPart], Memberships | None]:
    """Split each component with several instances: give its pixels new numbers in place, from len(stats) on.

    `components`: label image (height, width). `stats`: left, top, width, height and number of pixels of each
    component, as OpenCV returns it. The number of pixels of a component that was split becomes 0. Return the parts,
    and the memberships of their instances (None if there is no part).
    """
    scale = np.array(instances.shape) / instances.labels.shape
    peaks = ((np.array(instances.peaks, float).reshape(-1, 2) + 0.5) * scale).astype(np.intp)
    rows, columns = np.minimum(peaks, np.array(instances.shape) - 1).T
    instances_of: dict[int, list[int]] = {}
    for instance, component in enumerate(components[rows, columns].tolist(), start=1):
        if component:
            instances_of.setdefault(component, []).append(instance)
    crowded = {component: numbers for component, numbers in instances_of.items() if len(numbers) > 1}
    if not crowded:
        return [], None
    memberships = Memberships(instances, [number for numbers in crowded.values() for number in numbers])
    parts: list[ComponentPart] = []
    for component, candidates in crowded.items():
        left, top, width, height, _ = stats[component].tolist()
        window = components[top : top + height, left : left + width]
        inside = window == component
        local = _assign(inside, left, top, candidates, memberships)
        boxes = _tidy(local, inside, len(candidates))
        numbers = np.zeros(len(candidates) + 1, np.int32)
        for index, (instance, box) in enumerate(zip(candidates, boxes, strict=True), start=1):
            if box is not None:
                y, x = box
                numbers[index] = len(stats) + len(parts)
                rectangle = (left + x.start, top + y.start, x.stop - x.start, y.stop - y.start)
                parts.append(ComponentPart(int(numbers[index]), instance, *rectangle))
        np.copyto(window, numbers[local], where=inside)
        stats[component, cv2.CC_STAT_AREA] = 0
    return parts, memberships


def _assign(
    inside: npt.NDArray[np.bool_], left: int, top: int, candidates: list[int], memberships: Memberships
) -> PartNumbers:
    """Return, for each pixel inside, the candidate (from 1) with the largest membership; 0 if all are 0."""
    local = np.zeros(inside.shape, np.uint16)
    boxes = [memberships.box(instance) for instance in candidates]
    for start in range(0, inside.shape[0], ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, inside.shape[0])
        largest = np.zeros((stop - start, inside.shape[1]), np.float32)
        for number, (instance, (rows, columns)) in enumerate(zip(candidates, boxes, strict=True), start=1):
            first, last = max(rows.start - top, start), min(rows.stop - top, stop)
            begin, end = max(columns.start - left, 0), min(columns.stop - left, inside.shape[1])
            if first < last and begin < end:
                rectangle = slice(first + top, last + top), slice(begin + left, end + left)
                membership = memberships.over(instance, *rectangle)
                largest_there = largest[first - start : last - start, begin:end]
                is_larger = membership > largest_there
                np.copyto(largest_there, membership, where=is_larger)
                np.copyto(local[first:last, begin:end], np.uint16(number), where=is_larger)
    local[~inside] = 0
    return local


def _tidy(local: PartNumbers, inside: npt.NDArray[np.bool_], count: int) -> Boxes:
    """Make each part connected, give it the loose pixels beside it, and remove crossings, in place. Return the boxes.

    The number of rounds is limited: after them, only single pixels may be left.
    """
    from scipy import ndimage

    boxes: Boxes = []
    for _ in range(MAX_ROUNDS):
        is_changed = _remove_crossings(local)
        boxes = ndimage.find_objects(local, max_label=count)
        for number, box in enumerate(boxes, start=1):
            if box is None:
                continue
            own = (local[box] == number).astype(np.uint8)
            piece_count, pieces, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
            if piece_count > 2:
                largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
                local[box][(own > 0) & (pieces != largest)] = 0
                is_changed = True
        loose = inside & (local == 0)
        if not loose.any():
            if not is_changed:
                break
            continue
        while loose.any():
            np.copyto(local, cv2.dilate(local, np.ones((3, 3), np.uint8)), where=loose)
            loose = inside & (local == 0)
    return ndimage.find_objects(local, max_label=count) if is_changed else boxes


def _remove_crossings(local: PartNumbers) -> bool:
    """Where two parts cross at a corner of their pixels, give one a pixel of the other. Return whether any did."""
    first, second = local[:-1, :-1], local[:-1, 1:]
    is_crossing = (first == local[1:, 1:]) & (second == local[1:, :-1]) & (first != second)
    is_crossing &= (first > 0) & (second > 0)
    rows, columns = np.nonzero(is_crossing)
    local[rows, columns + 1] = local[rows, columns]
    return len(rows) > 0
