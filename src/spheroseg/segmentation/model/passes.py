"""A pass: one picture at one size, which the network processes window by window, and the maps that it fills in."""

import math
from collections.abc import Iterator
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.instances import object_areas
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model.card import Card, NetworkInput
from spheroseg.segmentation.model.cleaning import CONFIDENT_PROBABILITY
from spheroseg.segmentation.model.windows import Grey, Window, split_picture

Areas = npt.NDArray[np.float64]

# Touching objects must be shown larger to be separated, so they count as if they had this share of their diameter.
# Objects count as touching if separating them reduces the typical diameter below this share.
TOUCHING_SHARE = 0.8


class Pass:
    """A picture at one size, and its maps, which are complete once `put` was called for every window.

    `side`: longer side, px. `is_aimed`: whether the size was chosen to give the objects a certain diameter.
    """

    def __init__(
        self,
        pixels: Grey,
        grey_range: tuple[np.float32, np.float32],
        card: Card,
        tile: int,
        *,
        is_aimed: bool = False,
    ) -> None:
        self.side: int = max(pixels.shape)
        self.is_aimed = is_aimed
        self._pixels = pixels
        self._low, self._high = grey_range
        self._input: NetworkInput = card.input
        self._tile = tile
        self._threshold = max(CONFIDENT_PROBABILITY, card.threshold)
        self.probability = np.zeros(pixels.shape, np.float32)
        self.distance = np.zeros(pixels.shape, np.float32) if card.output.distance is not None else None

    def windows(self) -> Iterator[Window]:
        """Yield the windows to run the network on: none if the picture has a single grey value."""
        if self._low != self._high:
            yield from split_picture(self._pixels.shape, self._input.multiple, self._input.margin, self._tile)

    def cut(self, window: Window) -> Grey:
        """Return the normalised grey values of a window. Beyond its border, the picture is reflected."""
        bottom, right = window.top + window.height, window.left + window.width
        part = self._pixels[window.top : bottom, window.left : right]
        grey = np.clip((part - self._low) / (self._high - self._low), -1, 2)
        missing = window.height - grey.shape[0], window.width - grey.shape[1]
        if any(missing):
            grey = cv2.copyMakeBorder(grey, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT_101)
        return np.asarray(grey, np.float32)

    def put(self, window: Window, probability: Grey, distance: Grey | None) -> None:
        """Store the network's answer for a window, without the margins."""
        rows, columns = window.kept
        within = np.s_[
            rows.start - window.top : rows.stop - window.top,
            columns.start - window.left : columns.stop - window.left,
        ]
        self.probability[window.kept] = probability[within]
        if self.distance is not None and distance is not None:
            self.distance[window.kept] = distance[within]

    # The areas hold only confident pixels. Pixels that a coarse pass is unsure of, such as the background between
    # tiny objects, say nothing about the size of the objects.
    @cached_property
    def clump_areas(self) -> Areas:
        """The areas, px², of all objects, where those that touch count as one. Needs a filled pass."""
        return object_areas(Maps(self.probability), self._threshold)

    @cached_property
    def areas(self) -> Areas:
        """The areas, px², of all objects, those that touch separated. Needs a filled pass."""
        return object_areas(Maps(self.probability, self.distance), self._threshold)

    @property
    def clump_diameter(self) -> float | None:
        """The typical diameter, px, where objects that touch count as one; None without an object."""
        return typical_diameter(self.clump_areas)

    @property
    def is_touching(self) -> bool:
        """Whether most of the area belongs to objects that touch. True if there is no object."""
        clump, single = self.clump_diameter, typical_diameter(self.areas)
        return clump is None or single is None or single < TOUCHING_SHARE * clump

    @property
    def visible_diameter(self) -> float | None:
        """The typical diameter, px, reduced if objects touch; None without an object."""
        clump, single = self.clump_diameter, typical_diameter(self.areas)
        if clump is None or single is None:
            return clump
        return TOUCHING_SHARE * single if self.is_touching else clump


def typical_diameter(areas: Areas) -> float | None:
    """Return the diameter, px, up to which objects hold half of all area; None without objects.

    `areas`: px², one per object, shape (n,). The diameter is that of a disk of the same area, 2√(A/π).
    """
    areas = np.sort(areas)
    if not areas.size:
        return None
    median = areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]
    return 2 * math.sqrt(float(median) / math.pi)
