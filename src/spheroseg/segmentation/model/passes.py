"""A pass: a picture at one size, seen by the network window by window, and the maps that its answers fill in."""

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

# Objects that touch have to be seen larger to be separated: they count as if they had this share of their diameter.
# They touch if separating them lowers the typical diameter below this share of what it was.
TOUCHING_SHARE = 0.8


class Pass:
    """A picture at one size, and its maps, which are complete once every window was put.

    `side`: longer side, px. `is_aimed`: whether the size was chosen so that objects get a chosen diameter.
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
        """Yield the windows that the network has to see: none if the picture has a single grey value."""
        if self._low != self._high:
            yield from split_picture(self._pixels.shape, self._input.multiple, self._input.margin, self._tile)

    def cut(self, window: Window) -> Grey:
        """Return the normalised grey values of a window; beyond the picture, its reflection."""
        bottom, right = window.top + window.height, window.left + window.width
        part = self._pixels[window.top : bottom, window.left : right]
        grey = np.clip((part - self._low) / (self._high - self._low), -1, 2)
        missing = window.height - grey.shape[0], window.width - grey.shape[1]
        if any(missing):
            grey = cv2.copyMakeBorder(grey, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT_101)
        return np.asarray(grey, np.float32)

    def put(self, window: Window, probability: Grey, distance: Grey | None) -> None:
        """Store the part that is kept of the network's answer for a window."""
        rows, columns = window.kept
        within = np.s_[
            rows.start - window.top : rows.stop - window.top,
            columns.start - window.left : columns.stop - window.left,
        ]
        self.probability[window.kept] = probability[within]
        if self.distance is not None and distance is not None:
            self.distance[window.kept] = distance[within]

    # Only confident pixels count in both: what a coarse pass doubts, the background between tiny objects for one, says
    # nothing about the size of objects.
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
