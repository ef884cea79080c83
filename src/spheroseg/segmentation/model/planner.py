"""Chooses the passes over one picture: a coarse one first, then finer ones while the objects are small.

If the objects are large, a coarser pass is averaged with the first one: inside a large object there is no edge.
"""

import math

import cv2
import numpy as np

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model.card import Card, Scale
from spheroseg.segmentation.model.cleaning import remove_doubtful
from spheroseg.segmentation.model.passes import Pass, typical_diameter
from spheroseg.segmentation.model.windows import MAX_PASS_SIDE_PX, TILE_SIDE_PX, Grey

RETRY_BELOW_SIDE_PX = 1024  # after a smaller pass in which no object was found, a finer one follows
AIMED_DIAMETER = 1.5  # diameter that a finer pass aims at, in units of `object_px`
MAX_ENLARGEMENT = 4.0  # of a pass, compared with the one before
# If a pass aimed at AIMED_DIAMETER and the diameter is still below this, in units of `object_px`, a finer pass
# follows. It costs more than all passes before it, so it is worth while only if the aim was missed by far.
MIN_AIMED_DIAMETER = 0.5
COARSER_DIAMETER = 0.75  # diameter that a coarser pass aims at, in units of `large_px`
MAX_REDUCTION = 2.5  # of the coarser pass, compared with the first
# The coarser pass counts only if it shows the object at least this large, as a share of its diameter in the first:
# from too far away, a cloud of cells around a spheroid looks like background.
MIN_COARSER_SHARE = 0.8
# Several objects that touch may in fact be one object that is too large for the pass. They are one if together they
# would span this share of the picture, and if in a coarser pass one object has this share of all area.
MIN_SPAN_SHARE = 0.7
MIN_LARGEST_AREA_SHARE = 0.9
STEPS_PER_OCTAVE = (
    4  # factors are rounded to these steps, so that pictures of one plate have windows of the same size
)
MAX_SAMPLED_PIXELS = 2**22  # for percentiles


class PassPlanner:
    """Chooses the passes over one picture, each from the answers to the one before.

    Fill `current` (`windows`, `cut`, `put`) and call `next_pass` until it returns None. Then `maps` is the result.
    """

    def __init__(self, picture: Grey, card: Card, tile: int = TILE_SIDE_PX) -> None:
        """`picture`: float32 grey values (height, width) of any size. `tile`: longest side of a window, px."""
        self._picture = picture
        self._card = card
        self._tile = tile
        self._own_side = max(picture.shape)
        side = card.scale.side if card.scale else min(self._own_side, MAX_PASS_SIDE_PX)
        pixels = _resize(picture, side)
        # All passes use the grey range of the first one.
        self._grey_range = _find_grey_range(pixels, card.input.low, card.input.high)
        self._waiting_first: Pass | None = None  # the first pass, while a coarser one is running
        self.current = Pass(pixels, self._grey_range, card, tile)

    def _make_pass(self, side: int, *, is_aimed: bool = False) -> Pass:
        pixels = _resize(self._picture, side)
        return Pass(pixels, self._grey_range, self._card, self._tile, is_aimed=is_aimed)

    def next_pass(self) -> Pass | None:
        """Start the pass that is needed after `current`, and return it. Return None if the maps are final."""
        scale = self._card.scale
        if scale is None or self._grey_range[0] == self._grey_range[1]:
            return None
        first, current = self._waiting_first, self.current
        if first is not None:
            self._waiting_first, self.current = None, first
            if _is_confirmed(first, current):
                self.current = self._average(first, current)
                return None
        elif current.side == scale.side:
            coarser_side = _coarser_side(current, scale)
            if coarser_side is not None:
                self._waiting_first, self.current = current, self._make_pass(coarser_side)
                return self.current
        finer = _finer_side(self.current, scale, min(self._own_side, scale.finest or 0))
        if finer is None:
            return None
        side, is_aimed = finer
        self.current = self._make_pass(side, is_aimed=is_aimed)
        return self.current

    def _average(self, first: Pass, coarser: Pass) -> Pass:
        average = self._make_pass(first.side)
        average.probability = _mean(first.probability, coarser.probability)
        if first.distance is not None and coarser.distance is not None:
            average.distance = _mean(first.distance, coarser.distance)
        return average

    def maps(self) -> Maps:
        """Return the maps of the current pass, without the debris and doubtful regions that the card excludes."""
        card, final = self._card, self.current
        diameter = (typical_diameter(final.areas) if card.debris else None) or 0.0
        min_area = card.debris * math.pi / 4 * diameter**2
        remove_doubtful(final.probability, card.threshold, min_area, card.least_sure)
        return Maps(final.probability, final.distance)


def _coarser_side(first: Pass, scale: Scale) -> int | None:
    """Return the longer side, px, of a coarser pass after the first; None if the objects are not that large."""
    diameter = first.clump_diameter
    if scale.large_px is None or diameter is None or diameter <= scale.large_px:
        return None
    if first.is_touching and diameter < MIN_SPAN_SHARE * first.side:
        return None
    factor = max(_round_factor(COARSER_DIAMETER * scale.large_px / diameter), 1 / MAX_REDUCTION)
    return round(first.side * factor)


def _is_confirmed(first: Pass, coarser: Pass) -> bool:
    """Return whether the coarser pass shows the same objects as the first."""
    first_diameter, coarser_diameter = first.clump_diameter, coarser.clump_diameter
    if first_diameter is None or coarser_diameter is None or coarser.is_touching:
        return False
    if first.side / coarser.side * coarser_diameter < MIN_COARSER_SHARE * first_diameter:
        return False
    areas = coarser.areas
    return not first.is_touching or bool(areas.max() >= MIN_LARGEST_AREA_SHARE * areas.sum())


def _finer_side(current: Pass, scale: Scale, max_side: int) -> tuple[int, bool] | None:
    """Return the longer side, px, of a finer pass, and whether it aims at AIMED_DIAMETER; None if none is needed."""
    if scale.object_px is None or current.side >= max_side:
        return None
    diameter = current.visible_diameter
    if diameter is None:
        if current.side >= RETRY_BELOW_SIDE_PX:
            return None
        factor = MAX_ENLARGEMENT
    elif diameter >= scale.object_px * (MIN_AIMED_DIAMETER if current.is_aimed else 1):
        return None
    else:
        factor = min(_round_factor(AIMED_DIAMETER * scale.object_px / diameter), MAX_ENLARGEMENT)
    return min(round(current.side * factor), max_side), factor < MAX_ENLARGEMENT


def _round_factor(factor: float) -> float:
    return float(2.0 ** (math.floor(math.log2(factor) * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE))


def _mean(first: Grey, coarser: Grey) -> Grey:
    enlarged = cv2.resize(coarser, first.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray((first + enlarged) / 2, np.float32)


def _resize(picture: Grey, side: int) -> Grey:
    """Return the picture with a longer side of `side` px."""
    height, width = picture.shape
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return picture
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.float32)


def _find_grey_range(grey: Grey, low: float, high: float) -> tuple[np.float32, np.float32]:
    """Return the two percentiles that become 0 and 1. They are equal if the picture is flat."""
    # Use a sample of the pixels, because computing percentiles copies them, which would take half of our memory.
    step = math.ceil(math.sqrt(grey.size / MAX_SAMPLED_PIXELS))
    ends = np.percentile(grey[::step, ::step], (low, high))
    if _is_flat(*ends):
        # Nearly all pixels have the same grey, but the others may show an object: one bright spot in a dark picture.
        ends = np.array([grey.min(), grey.max()])
    if _is_flat(*ends):
        ends[1] = ends[0]
    return np.float32(ends[0]), np.float32(ends[1])


def _is_flat(low: float, high: float) -> bool:
    return bool(high - low <= 1e-6 * max(abs(low), abs(high)))
