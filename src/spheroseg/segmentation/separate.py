"""Touching objects told apart: which part of a map each one owns, and the line between two of them.

The map is smaller than the picture as a rule. Owners are found at its own size; how much each owns of a place is then
a smooth function, and the line between two objects runs where both own as much, at whatever size the picture has.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.watershed import Labels, basins

NOISE = 1.0  # px of the map, standard deviation: what the distances are smoothed by, as single pixels have no shape
# px of the map, standard deviation. A line drawn along pixels has steps; this takes them out and bends nothing longer.
STEPS = 1.5
REACH = 6  # px of the map: further from it an owner has no share
ROWS = 256  # of the picture that are shared out at once, so that the memory taken is small

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Share:
    """How much of each place one owner has, 0..1: a piece of the map, at `top`, `left`."""

    top: int
    left: int
    values: npt.NDArray[np.float32]

    def at(self, rows: Values, columns: Values) -> Values:
        """At single places of the map, linear between its pixels."""
        height, width = self.values.shape
        y = np.clip(rows - self.top, 0, height - 1)
        x = np.clip(columns - self.left, 0, width - 1)
        above, before = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
        v, u = y - above, x - before
        upper = self.values[above, before] * (1 - u) + self.values[above, before + 1] * u
        lower = self.values[above + 1, before] * (1 - u) + self.values[above + 1, before + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    def over(self, rows: Values, columns: Values) -> npt.NDArray[np.float32]:
        """The same on a grid of `rows` and `columns`, each rising."""
        height, width = self.values.shape
        y = np.clip(rows - self.top, 0, height - 1)
        x = np.clip(columns - self.left, 0, width - 1)
        above, before = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
        v, u = (y - above).astype(np.float32)[:, None], (x - before).astype(np.float32)
        across = self.values[:, before] * (1 - u) + self.values[:, before + 1] * u
        return np.asarray(across[above] * (1 - v) + across[above + 1] * v)


@dataclass(frozen=True, eq=False)
class Owners:
    """Who owns what of a picture of `shape` (height, width, px).

    labels: of the map, 0 the ground. peaks: row and column (px of the map) of the deepest place of each.
    """

    shape: tuple[int, int]
    labels: Labels
    peaks: list[tuple[int, int]]
    _boxes: list[tuple[int, int, int, int]]
    _shares: dict[int, Share] = field(default_factory=dict)

    def rows(self, rows: npt.NDArray[np.intp]) -> Values:
        """Where rows of the picture lie in the map: as when the map is stretched to the picture."""
        return _stretched(rows, self.labels.shape[0], self.shape[0])

    def columns(self, columns: npt.NDArray[np.intp]) -> Values:
        return _stretched(columns, self.labels.shape[1], self.shape[1])

    def share(self, owner: int) -> Share:
        if owner not in self._shares:
            top, bottom, left, right = self._boxes[owner - 1]
            mine = (self.labels[top:bottom, left:right] == owner).astype(np.float32)
            # The border of the map is no border of the object.
            margin = [
                (min(REACH, top), min(REACH, self.labels.shape[0] - bottom)),
                (min(REACH, left), min(REACH, self.labels.shape[1] - right)),
            ]
            wide = np.pad(mine, margin)
            smooth = cv2.GaussianBlur(wide, (0, 0), STEPS, borderType=cv2.BORDER_REPLICATE)
            values = np.pad(np.asarray(smooth, np.float32), [(0, 2 if size < 2 else 0) for size in smooth.shape])
            self._shares[owner] = Share(top - margin[0][0], left - margin[1][0], values)
        return self._shares[owner]

    def box(self, owner: int) -> tuple[slice, slice]:
        """What of the picture the owner may have a share in."""
        top, bottom, left, right = self._boxes[owner - 1]
        down, across = (picture / size for picture, size in zip(self.shape, self.labels.shape, strict=True))
        return (
            slice(max(0, int((top - REACH) * down)), int((bottom + REACH) * down) + 1),
            slice(max(0, int((left - REACH) * across)), int((right + REACH) * across) + 1),
        )


def find_owners(maps: Maps, threshold: float, shape: tuple[int, int]) -> Owners | None:
    """The owners of a picture of `shape`; None where the model tells no distances."""
    if maps.distance is None:
        return None
    inside = maps.probability > np.float32(threshold)
    depth = cv2.GaussianBlur(np.clip(maps.distance, 0, 1).astype(np.float32), (0, 0), NOISE)
    labels, peaks = basins(np.asarray(depth, np.float32), inside)
    from scipy import ndimage

    boxes = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in ndimage.find_objects(labels)]
    return Owners(shape, labels, peaks, boxes)


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a component that was divided: its number in the label image, its owner, box and size (px)."""

    number: int
    owner: int
    left: int
    top: int
    width: int
    height: int
    count: int


def divide(components: Labels, stats: npt.NDArray[np.int32], owners: Owners) -> list[Part]:
    """Give the pixels of each component with several owners new numbers, from len(stats) on, in place.

    stats: a row of left, top, width, height, count for each component, as OpenCV has it; the count of one that was
    divided becomes 0.
    """
    among: dict[int, list[int]] = {}
    height, width = owners.shape
    rows = np.array([peak[0] for peak in owners.peaks], float)
    columns = np.array([peak[1] for peak in owners.peaks], float)
    at = (
        np.clip(((rows + 0.5) * height / owners.labels.shape[0]).astype(int), 0, height - 1),
        np.clip(((columns + 0.5) * width / owners.labels.shape[1]).astype(int), 0, width - 1),
    )
    for owner, component in enumerate(components[at].tolist(), start=1):
        if component:
            among.setdefault(component, []).append(owner)
    parts: list[Part] = []
    for component, candidates in among.items():
        if len(candidates) > 1:
            left, top, wide, high, _ = stats[component].tolist()
            window = components[top : top + high, left : left + wide]
            inside = window == component
            local = _shared_out(inside, left, top, candidates, owners)
            _settle(local, inside)
            parts += _numbered(window, local, inside, (left, top), candidates, len(stats) + len(parts))
            stats[component, cv2.CC_STAT_AREA] = 0
    return parts


def _shared_out(
    inside: npt.NDArray[np.bool_], left: int, top: int, candidates: list[int], owners: Owners
) -> npt.NDArray[np.uint16]:
    """For each pixel inside, which of the candidates (from 1) owns most of it; 0 where none owns any."""
    local = np.zeros(inside.shape, np.uint16)
    boxes = [owners.box(owner) for owner in candidates]
    for start in range(0, inside.shape[0], ROWS):
        stop = min(start + ROWS, inside.shape[0])
        most = np.zeros((stop - start, inside.shape[1]), np.float32)
        for number, (owner, (rows, columns)) in enumerate(zip(candidates, boxes, strict=True), start=1):
            first, last = max(rows.start - top, start), min(rows.stop - top, stop)
            begin, end = max(columns.start - left, 0), min(columns.stop - left, inside.shape[1])
            if first >= last or begin >= end:
                continue
            share = owners.share(owner).over(
                owners.rows(np.arange(first + top, last + top)), owners.columns(np.arange(begin + left, end + left))
            )
            best = most[first - start : last - start, begin:end]
            mine = local[first:last, begin:end]
            more = share > best
            np.copyto(best, share, where=more)
            np.copyto(mine, np.uint16(number), where=more)
    local[~inside] = 0
    return local


def _settle(local: npt.NDArray[np.uint16], inside: npt.NDArray[np.bool_]) -> None:
    """See to it that each part is in one piece, owns what lies loose beside it, and crosses no other at a corner."""
    from scipy import ndimage

    for _ in range(8):
        changed = _uncrossed(local)
        for number, box in enumerate(ndimage.find_objects(local), start=1):
            if box is None:
                continue
            mine = (local[box] == number).astype(np.uint8)
            count, pieces, stats, _ = cv2.connectedComponentsWithStats(mine, connectivity=8)
            if count > 2:
                largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
                local[box][(mine > 0) & (pieces != largest)] = 0
                changed = True
        loose = inside & (local == 0)
        if not changed and not loose.any():
            return
        while loose.any():
            near = cv2.dilate(local, np.ones((3, 3), np.uint8))
            local[loose] = near[loose]
            still = inside & (local == 0)
            if still.sum() == loose.sum():
                break
            loose = still


def _uncrossed(local: npt.NDArray[np.uint16]) -> bool:
    """Where two parts cross like the fields of a chess board, give one a pixel of the other. Whether there were any."""
    first, second = local[:-1, :-1], local[:-1, 1:]
    crossing = (first == local[1:, 1:]) & (second == local[1:, :-1]) & (first != second) & (first > 0) & (second > 0)
    if not crossing.any():
        return False
    rows, columns = np.nonzero(crossing)
    local[rows, columns + 1] = local[rows, columns]
    return True


def _numbered(
    window: Labels,
    local: npt.NDArray[np.uint16],
    inside: npt.NDArray[np.bool_],
    corner: tuple[int, int],
    candidates: list[int],
    first: int,
) -> list[Part]:
    from scipy import ndimage

    counts = np.bincount(local.ravel(), minlength=len(candidates) + 1)
    numbers = np.zeros(len(candidates) + 1, np.int32)
    parts: list[Part] = []
    for index, (owner, box) in enumerate(
        zip(candidates, ndimage.find_objects(local, max_label=len(candidates)), strict=True), start=1
    ):
        if box is not None:
            rows, columns = box
            numbers[index] = first + len(parts)
            place = (corner[0] + columns.start, corner[1] + rows.start)
            size = (columns.stop - columns.start, rows.stop - rows.start)
            parts.append(Part(int(numbers[index]), owner, *place, *size, int(counts[index])))
    np.copyto(window, numbers[local], where=inside)
    return parts


def _stretched(places: npt.NDArray[np.intp], size: int, picture: int) -> Values:
    return np.clip((places + 0.5) * (size / picture) - 0.5, 0, size - 1)
