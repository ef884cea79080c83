"""The passes over one picture: a look at all of it, then finer ones while the objects are small.

Where they are large, one from further away joins the first instead: too close, a network sees only their inside.

Each pass is cut into windows of at most 1024 px, whose margins are thrown away, so that no seam is seen and the
memory is bounded however large the picture is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.separate import areas_apart

if TYPE_CHECKING:
    from spheroseg.segmentation.model.card import Card, Scale

Grey = npt.NDArray[np.float32]
Areas = npt.NDArray[np.float64]

TILE = 1024  # px, the most that a network sees at once on either side
LARGEST_SIDE = 4096  # px, the longer side of any pass: bounds the memory
BLIND_BELOW = 1024  # px: where nothing was found on fewer, a finer pass looks again
SURE = 0.75  # probability from which a pixel counts for the size of the objects, and for an object's being there
TARGET = 1.5  # diameter after a finer pass, in parts of `object_px`
STEP = 4.0  # the most by which one pass is finer than the last
# Objects that touch have to be seen larger to be told apart: they count as if they had this part of their diameter.
# They touch where, told apart, the typical diameter is below this part of what it is together.
TOUCHING = 0.8
# Diameter after a pass that aimed at TARGET, in parts of `object_px`, below which a still finer one follows: it would
# cost more than all before it, so only where the aim was missed by far.
FAR_BELOW = 0.5
FURTHER = 0.75  # diameter in a coarser pass, in parts of `large_px`
FURTHEST = 2.5  # the most by which it is coarser than the first
# It counts only where it sees the object at least this large, in parts of its diameter: from too far away a cloud of
# cells around a spheroid is ground.
SAME = 0.8
# What seems to be several objects that touch may be one that is too large to be seen as one. So it is where together
# they would be as wide as this part of the picture, and a coarser pass has this part of all area in one object.
WIDE = 0.7
ALONE = 0.9
STEPS_PER_OCTAVE = 4  # factors are rounded to these, so that pictures of one plate share their passes
SAMPLE = 2**22  # px that percentiles are taken from, at most


def aligned(length: int, multiple: int) -> int:
    """The least multiple that is not below `length`."""
    return -(-length // multiple) * multiple


@dataclass(frozen=True)
class Window:
    """What the network sees at once, and the part of its answer that is kept: px of a pass."""

    top: int
    left: int
    height: int
    width: int
    kept: tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class _First:
    """What the first pass said: its maps, and the typical diameter, px.

    `is_unclear`: whether what has that diameter is one object or several that touch.
    """

    probability: Grey
    distance: Grey | None
    typical: float
    is_unclear: bool


def spans(length: int, multiple: int, margin: int, tile: int = TILE) -> list[tuple[int, int, slice]]:
    """Begin, length and kept part of the windows along one side; all are of one length, a multiple of `multiple`."""
    padded = aligned(length, multiple)
    size = min(padded, tile // multiple * multiple)
    margin = aligned(margin, multiple)
    found, done, begin = [], 0, 0
    while True:
        begin = min(begin, padded - size)
        is_last = begin + size == padded
        end = length if is_last else begin + size - margin
        found.append((begin, size, slice(done, end)))
        if is_last:
            return found
        done, begin = end, begin + size - 2 * margin


class Look:
    """A picture on its way through the passes; `maps` is there once `goes_on` has said no."""

    def __init__(self, picture: Grey, card: "Card", tile: int = TILE) -> None:
        self._picture = picture
        self._card = card
        self._tile = tile
        self._aimed = False
        self._first: _First | None = None  # while a coarser pass is under way
        self._own = max(picture.shape)
        first = card.scale.side if card.scale else min(self._own, LARGEST_SIDE)
        self._enter(first)
        self._low, self._high = _range(self._pass, card.input.low, card.input.high)

    def _enter(self, side: int) -> None:
        self._side = side
        self._sure_areas: Areas | None = None
        self._pass = _resized(self._picture, side)
        self._probability = np.zeros(self._pass.shape, np.float32)
        has_distance = self._card.output.distance is not None
        self._distance = np.zeros(self._pass.shape, np.float32) if has_distance else None

    def windows(self) -> Iterator[Window]:
        """What the network has to see in this pass: nothing, where the picture is of one grey."""
        if self._low == self._high:
            return
        height, width = self._pass.shape
        takes = self._card.input
        columns = spans(width, takes.multiple, takes.margin, self._tile)
        for top, rows, kept_rows in spans(height, takes.multiple, takes.margin, self._tile):
            for left, size, kept_columns in columns:
                yield Window(top, left, rows, size, (kept_rows, kept_columns))

    def cut(self, window: Window) -> Grey:
        """The normalised grey values in it; beyond the picture its reflection."""
        bottom, right = window.top + window.height, window.left + window.width
        part = self._pass[window.top : bottom, window.left : right]
        grey = np.clip((part - self._low) / (self._high - self._low), -1, 2)
        missing = window.height - grey.shape[0], window.width - grey.shape[1]
        if any(missing):
            grey = cv2.copyMakeBorder(grey, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT_101)
        return np.asarray(grey, np.float32)

    def put(self, window: Window, probability: Grey, distance: Grey | None) -> None:
        """What the network answered for the window."""
        rows, columns = window.kept
        within = np.s_[
            rows.start - window.top : rows.stop - window.top,
            columns.start - window.left : columns.stop - window.left,
        ]
        self._probability[window.kept] = probability[within]
        if self._distance is not None and distance is not None:
            self._distance[window.kept] = distance[within]

    def goes_on(self) -> bool:
        """After a pass: whether another one is wanted, which then has been entered."""
        scale = self._card.scale
        if scale is None or self._low == self._high:
            return False
        if self._first is None:
            if self._side == scale.side and self._goes_back(scale):
                return True
        elif self._joined(self._first, scale.side):
            return False
        return self._goes_closer(scale)

    def _goes_back(self, scale: "Scale") -> bool:
        """After the first pass: whether a coarser one is wanted, which then has been entered."""
        typical = typical_diameter(self._together())
        if scale.large_px is None or typical is None or typical <= scale.large_px:
            return False
        apart = typical_diameter(self._areas())
        is_unclear = apart is None or apart < TOUCHING * typical
        if is_unclear and typical < WIDE * self._side:
            return False
        first = _First(self._probability, self._distance, typical, is_unclear)
        factor = max(_rounded(FURTHER * scale.large_px / typical), 1 / FURTHEST)
        self._enter(round(self._side * factor))
        self._first = first
        return True

    def _joined(self, first: "_First", side: int) -> bool:
        """Enter the first pass again; where the coarser one sees the same, joined with it: whether that was so."""
        areas = self._areas()
        together, apart = typical_diameter(self._together()), typical_diameter(areas)
        probability, distance, factor = self._probability, self._distance, side / self._side
        self._enter(side)
        self._first, self._probability, self._distance = None, first.probability, first.distance
        if together is None or apart is None or apart < TOUCHING * together:
            return False
        if factor * together < SAME * first.typical:
            return False
        if first.is_unclear and areas.max() < ALONE * areas.sum():
            return False
        self._probability = _mean(first.probability, probability)
        if first.distance is not None and distance is not None:
            self._distance = _mean(first.distance, distance)
        return True

    def _goes_closer(self, scale: "Scale") -> bool:
        """Whether a finer pass is wanted, which then has been entered."""
        if scale.object_px is None or scale.finest is None:
            return False
        most = min(self._own, scale.finest)
        if self._side >= most:
            return False
        typical = self._seen_as()
        worth = scale.object_px * (FAR_BELOW if self._aimed else 1)
        if typical is None:
            if self._side >= BLIND_BELOW:
                return False
            factor = STEP
        elif typical >= worth:
            return False
        else:
            factor = min(_rounded(TARGET * scale.object_px / typical), STEP)
        self._aimed = factor < STEP
        self._enter(min(round(self._side * factor), most))
        return True

    def _seen_as(self) -> float | None:
        """The typical diameter of the objects, px of the pass, less where they touch; None where there are none."""
        # What a coarse look is unsure of, ground between tiny objects for one, does not say how large objects are.
        together = typical_diameter(self._together())
        apart = typical_diameter(self._areas())
        if together is None or apart is None:
            return together
        return TOUCHING * apart if apart < TOUCHING * together else together

    def _sure(self) -> float:
        return max(SURE, self._card.threshold)

    def _together(self) -> Areas:
        """Of what is sure, px² of the pass, where objects that touch are one."""
        return areas_apart(Maps(self._probability), self._sure())

    def _areas(self) -> Areas:
        """Of the objects that are sure, touching ones told apart, px² of the pass."""
        if self._sure_areas is None:
            self._sure_areas = areas_apart(Maps(self._probability, self._distance), self._sure())
        return self._sure_areas

    def maps(self) -> Maps:
        card = self._card
        typical = (typical_diameter(self._areas()) if card.debris else None) or 0.0
        clean(self._probability, card.threshold, card.debris * math.pi / 4 * typical**2, card.least_sure)
        return Maps(self._probability, self._distance)


def typical_diameter(areas: Areas) -> float | None:
    """Of objects with these areas (px²), px: half of all area belongs to smaller ones. None where there are none."""
    areas = np.sort(areas)
    if not areas.size:
        return None
    middle = areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]
    return 2 * math.sqrt(float(middle) / math.pi)


def clean(probability: Grey, threshold: float, least_area: float, least_sure: float) -> None:
    """Take out, in place, what is too small or too doubtful to be an object.

    That is: less than `least_area` (px² of the map) above the threshold, or less than `least_sure` (0..1) of that
    sure. Objects that touch are judged as one.
    """
    if not (least_area or least_sure):
        return
    # Down to half of the threshold, so that no rim is left for a user who sets a lower one.
    count, labels = cv2.connectedComponents((probability > threshold / 2).astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[probability > threshold], minlength=count)
    sure = np.bincount(labels[probability > max(SURE, threshold)], minlength=count)
    out = (areas < least_area) | (sure < least_sure * areas)
    out[0] = False
    probability[out[labels]] = 0


def _rounded(factor: float) -> float:
    return float(2.0 ** (math.floor(math.log2(factor) * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE))


def _mean(first: Grey, coarser: Grey) -> Grey:
    grown = cv2.resize(coarser, first.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray((first + grown) / 2, np.float32)


def _resized(picture: Grey, side: int) -> Grey:
    height, width = picture.shape
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return picture
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.float32)


def _range(grey: Grey, low: float, high: float) -> tuple[np.float32, np.float32]:
    """The grey values that become 0 and 1; twice the same where there is only one."""
    # For a pass of the picture's own size: a copy of all of it would be half of the memory that we may take.
    step = math.ceil(math.sqrt(grey.size / SAMPLE))
    ends = np.percentile(grey[::step, ::step], (low, high))
    if _is_flat(*ends):
        # A dark picture with a little light in it: nearly all of it is one grey, and yet it shows something.
        ends = np.array([grey.min(), grey.max()])
    if _is_flat(*ends):
        ends[1] = ends[0]
    return np.float32(ends[0]), np.float32(ends[1])


def _is_flat(low: float, high: float) -> bool:
    return bool(high - low <= 1e-6 * max(abs(low), abs(high)))
