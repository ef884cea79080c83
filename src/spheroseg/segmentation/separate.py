"""Touching objects told apart: which part of a map each one owns, and so which part of the picture.

The map is smaller than the picture as a rule. Owners are found at its own size; how much each owns of a place is then
a smooth function, and the line between two objects runs where both own as much, at whatever size the picture has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.watershed import Labels, basins

NOISE = 1.0  # px of the map, standard deviation: what the distances are smoothed by, as single pixels have no shape
# px of the map, standard deviation. A line along pixels has steps; this takes them out and bends nothing longer.
STEPS = 1.5
REACH = 7  # px of the map: further from it an owner has no share
# px: the radius that all but the smallest objects keep when a map is reduced first. It puts the line between two of
# them within half a pixel of that, and a watershed of 4096 × 3000 would take several seconds.
ENOUGH = 24.0
SMALLEST = 0.1  # of the area of all
ROWS = 256  # of the picture that are shared out at once, so that the memory taken is small

Values = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int32]
Boxes = Sequence[tuple[slice, ...] | None]


@dataclass(frozen=True, eq=False)
class Owners:
    """Who owns what of a picture of `shape` (height, width, px), numbered from 1.

    labels: of the map, 0 the ground. peaks: row and column (px of the map) of the deepest place of each.
    """

    shape: tuple[int, int]
    labels: Labels
    peaks: list[tuple[int, int]]

    def rows(self, rows: npt.NDArray[np.intp]) -> Values:
        """Where rows of the picture lie in the map: as when the map is stretched to the picture."""
        return _stretched(rows, self.labels.shape[0], self.shape[0])

    def columns(self, columns: npt.NDArray[np.intp]) -> Values:
        return _stretched(columns, self.labels.shape[1], self.shape[1])


def find_owners(maps: Maps, threshold: float, shape: tuple[int, int]) -> Owners | None:
    """The owners of a picture of `shape`; None where the model tells no distances."""
    if maps.distance is None:
        return None
    labels, peaks = _told_apart(maps.probability, maps.distance, threshold)
    return Owners(shape, labels, peaks)


def object_areas(maps: Maps, threshold: float) -> Values:
    """The areas, px² of the map, of all objects where the probability exceeds `threshold`.

    Objects that touch count each for itself, where the model tells distances.
    """
    if maps.distance is None:
        inside = (maps.probability > np.float32(threshold)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        return np.asarray(stats[1:, cv2.CC_STAT_AREA], np.float64)
    labels, _ = _told_apart(maps.probability, maps.distance, threshold)
    return np.asarray(np.bincount(labels.ravel())[1:] * (maps.probability.size / labels.size), np.float64)


def _told_apart(
    probability: npt.NDArray[np.float32], distance: npt.NDArray[np.float32], threshold: float
) -> tuple[Labels, list[tuple[int, int]]]:
    """The owner of each place, and the deepest place of each: in maps that may be smaller than those given."""
    probability, distance = _reduced(probability, distance)
    depth = cv2.GaussianBlur(np.clip(distance, 0, 1), (0, 0), NOISE)
    return basins(np.asarray(depth, np.float32), probability > np.float32(threshold))


def _reduced(
    probability: npt.NDArray[np.float32], distance: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Both maps, smaller where all but the smallest objects keep their shape."""
    core = (distance > 0.5).astype(np.uint8)  # of a disk, one of half its radius
    _, _, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])
    if not len(areas):
        return probability, distance.astype(np.float32)
    # By area, as most of the cores in a noisy map are specks.
    area = areas[np.searchsorted(np.cumsum(areas), SMALLEST * areas.sum())]
    factor = 2 * math.sqrt(area / math.pi) / ENOUGH
    if factor < 1.25:
        return probability, distance.astype(np.float32)
    size = (max(1, round(core.shape[1] / factor)), max(1, round(core.shape[0] / factor)))
    first, second = (
        np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_AREA), np.float32)
        for grid in (probability, distance)
    )
    return first, second


class Shares:
    """How much of each place some owners have, 0..1: their parts of the map, with smooth edges.

    They lie one after the other in one row of numbers, so that places of many owners are looked up at once.
    """

    def __init__(self, owners: Owners, wanted: Sequence[int]) -> None:
        from scipy import ndimage

        boxes = ndimage.find_objects(owners.labels)
        self._owners = owners
        self._corner = np.zeros((len(boxes) + 1, 2), np.intp)
        self._size = np.full((len(boxes) + 1, 2), 2, np.intp)
        self._start = np.zeros(len(boxes) + 1, np.intp)
        pieces = [np.zeros(4, np.float32)]
        used = 4
        for owner in wanted:
            (top, left), piece = _softened(owners.labels, owner, boxes[owner - 1])
            self._corner[owner], self._size[owner], self._start[owner] = (top, left), piece.shape, used
            pieces.append(piece.ravel())
            used += piece.size
        self._values = np.concatenate(pieces)

    def at(self, owner: Numbers, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Values:
        """Of single pixels of the picture, each for its own owner; linear between the pixels of the map."""
        height, width = self._size[owner].T
        top, left = self._corner[owner].T
        y = np.clip(self._owners.rows(rows) - top, 0, height - 1)
        x = np.clip(self._owners.columns(columns) - left, 0, width - 1)
        above, before = np.minimum(y.astype(np.intp), height - 2), np.minimum(x.astype(np.intp), width - 2)
        v, u = y - above, x - before
        place = self._start[owner] + above * width + before
        values = self._values
        upper = values[place] * (1 - u) + values[place + 1] * u
        lower = values[place + width] * (1 - u) + values[place + width + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    def over(self, owner: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """The same for a piece of the picture."""
        height, width = self._size[owner]
        top, left = self._corner[owner]
        piece = self._values[self._start[owner] :][: height * width].reshape(height, width)
        y = np.clip(self._owners.rows(np.arange(rows.start, rows.stop)) - top, 0, height - 1)
        x = np.clip(self._owners.columns(np.arange(columns.start, columns.stop)) - left, 0, width - 1)
        above, before = np.minimum(y.astype(np.intp), height - 2), np.minimum(x.astype(np.intp), width - 2)
        v, u = (y - above).astype(np.float32)[:, None], (x - before).astype(np.float32)
        across = piece[:, before] * (1 - u) + piece[:, before + 1] * u
        return np.asarray(across[above] * (1 - v) + across[above + 1] * v)

    def box(self, owner: int) -> tuple[slice, slice]:
        """What of the picture the owner may have a share in."""
        scale = np.array(self._owners.shape) / self._owners.labels.shape
        first = np.maximum(0, np.floor((self._corner[owner] - 1) * scale)).astype(int)
        last = np.minimum(self._owners.shape, np.ceil((self._corner[owner] + self._size[owner] + 1) * scale)).astype(
            int
        )
        return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))


def _softened(labels: Labels, owner: int, box: tuple[slice, ...]) -> tuple[tuple[int, int], npt.NDArray[np.float32]]:
    rows, columns = box
    top, bottom = max(0, rows.start - REACH), min(labels.shape[0], rows.stop + REACH)
    left, right = max(0, columns.start - REACH), min(labels.shape[1], columns.stop + REACH)
    mine = (labels[top:bottom, left:right] == owner).astype(np.float32)
    # The border of the map is no border of the object.
    soft = cv2.GaussianBlur(mine, (0, 0), STEPS, borderType=cv2.BORDER_REPLICATE)
    return (top, left), np.pad(np.asarray(soft, np.float32), [(0, max(0, 2 - n)) for n in soft.shape], mode="edge")


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a component that was divided: its number in the label image, its owner and box (px)."""

    number: int
    owner: int
    left: int
    top: int
    width: int
    height: int


def divide(components: Numbers, stats: npt.NDArray[np.int32], owners: Owners) -> tuple[list[Part], Shares | None]:
    """Give the pixels of each component with several owners new numbers, from len(stats) on, in place.

    stats: a row of left, top, width, height, count for each component, as OpenCV has it; the count of one that was
    divided becomes 0.
    """
    scale = np.array(owners.shape) / owners.labels.shape
    places = ((np.array(owners.peaks, float).reshape(-1, 2) + 0.5) * scale).astype(np.intp)
    rows, columns = np.minimum(places, np.array(owners.shape) - 1).T
    among: dict[int, list[int]] = {}
    for owner, component in enumerate(components[rows, columns].tolist(), start=1):
        if component:
            among.setdefault(component, []).append(owner)
    several = {component: found for component, found in among.items() if len(found) > 1}
    if not several:
        return [], None
    shares = Shares(owners, [owner for found in several.values() for owner in found])
    parts: list[Part] = []
    for component, found in several.items():
        left, top, width, height, _ = stats[component].tolist()
        window = components[top : top + height, left : left + width]
        inside = window == component
        local = _shared_out(inside, left, top, found, shares)
        boxes = _settle(local, inside, len(found))
        numbers = np.zeros(len(found) + 1, np.int32)
        for index, (owner, box) in enumerate(zip(found, boxes, strict=True), start=1):
            if box is not None:
                y, x = box
                numbers[index] = len(stats) + len(parts)
                place = (left + x.start, top + y.start, x.stop - x.start, y.stop - y.start)
                parts.append(Part(int(numbers[index]), owner, *place))
        np.copyto(window, numbers[local], where=inside)
        stats[component, cv2.CC_STAT_AREA] = 0
    return parts, shares


def _shared_out(
    inside: npt.NDArray[np.bool_], left: int, top: int, candidates: list[int], shares: Shares
) -> npt.NDArray[np.uint16]:
    """For each pixel inside, which of the candidates (from 1) owns most of it; 0 where none owns any."""
    local = np.zeros(inside.shape, np.uint16)
    boxes = [shares.box(owner) for owner in candidates]
    for start in range(0, inside.shape[0], ROWS):
        stop = min(start + ROWS, inside.shape[0])
        most = np.zeros((stop - start, inside.shape[1]), np.float32)
        for number, (owner, (rows, columns)) in enumerate(zip(candidates, boxes, strict=True), start=1):
            first, last = max(rows.start - top, start), min(rows.stop - top, stop)
            begin, end = max(columns.start - left, 0), min(columns.stop - left, inside.shape[1])
            if first < last and begin < end:
                share = shares.over(owner, slice(first + top, last + top), slice(begin + left, end + left))
                best = most[first - start : last - start, begin:end]
                more = share > best
                np.copyto(best, share, where=more)
                np.copyto(local[first:last, begin:end], np.uint16(number), where=more)
    local[~inside] = 0
    return local


def _settle(local: npt.NDArray[np.uint16], inside: npt.NDArray[np.bool_], count: int) -> Boxes:
    """See to it that each part is in one piece, owns what lies loose beside it, and crosses no other at a corner.

    What remains after some rounds is a matter of a pixel.
    """
    from scipy import ndimage

    boxes: Boxes = []
    for _ in range(8):
        changed = _uncrossed(local)
        boxes = ndimage.find_objects(local, max_label=count)
        for number, box in enumerate(boxes, start=1):
            if box is None:
                continue
            mine = (local[box] == number).astype(np.uint8)
            found, pieces, stats, _ = cv2.connectedComponentsWithStats(mine, connectivity=8)
            if found > 2:
                largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
                local[box][(mine > 0) & (pieces != largest)] = 0
                changed = True
        loose = inside & (local == 0)
        if not loose.any():
            if not changed:
                break
            continue
        while loose.any():
            np.copyto(local, cv2.dilate(local, np.ones((3, 3), np.uint8)), where=loose)
            loose = inside & (local == 0)
    return ndimage.find_objects(local, max_label=count) if changed else boxes


def _uncrossed(local: npt.NDArray[np.uint16]) -> bool:
    """Where two parts cross like on a chess board, one gets a pixel of the other. Whether there were any."""
    first, second = local[:-1, :-1], local[:-1, 1:]
    crossing = (first == local[1:, 1:]) & (second == local[1:, :-1]) & (first != second)
    crossing &= (first > 0) & (second > 0)
    rows, columns = np.nonzero(crossing)
    local[rows, columns + 1] = local[rows, columns]
    return len(rows) > 0


def _stretched(places: npt.NDArray[np.intp], size: int, picture: int) -> Values:
    return np.clip((places + 0.5) * (size / picture) - 0.5, 0, size - 1)
