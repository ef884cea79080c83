"""Finds the instances in a map: a watershed on the distances separates touching objects.

A map is usually smaller than its picture. Instances are found at the size of the map; `membership` and `splitting`
transfer them to the picture.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.watershed import Labels, basins

SMOOTHING = 1.0  # px of the map, standard deviation; the distances are smoothed, so that noise makes no peaks
# px. A map is reduced before the watershed, because one of 4096 × 3000 px would take several seconds. All but the
# smallest objects keep this radius, which moves the line between two of them by less than half a pixel.
MIN_RADIUS_PX = 24.0
SMALLEST_SHARE = 0.1  # of the area of all objects: the smallest ones, up to this share, may become smaller

Grey = npt.NDArray[np.float32]
Coordinates = npt.NDArray[np.float64]
Areas = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances in a picture of `shape` (height, width, px), numbered from 1.

    `labels`: int32 label image of the map; 0 is background. `peaks`: row and column (px of the map) of the deepest
    pixel of each instance.
    """

    shape: tuple[int, int]
    labels: Labels
    peaks: list[tuple[int, int]]

    def map_rows(self, rows: npt.NDArray[np.intp]) -> Coordinates:
        """Convert rows of the picture to rows of the map, as if the map were stretched to the picture."""
        return _stretch(rows, self.labels.shape[0], self.shape[0])

    def map_columns(self, columns: npt.NDArray[np.intp]) -> Coordinates:
        """Convert columns of the picture to columns of the map."""
        return _stretch(columns, self.labels.shape[1], self.shape[1])


def find_instances(maps: Maps, threshold: float, shape: tuple[int, int]) -> Instances | None:
    """Find the instances in a picture of `shape` (height, width); None if the model computes no distances.

    They lie where the probability exceeds `threshold` (0..1).
    """
    if maps.distance is None:
        return None
    labels, peaks = _separate(maps.probability, maps.distance, threshold)
    return Instances(shape, labels, peaks)


def object_areas(maps: Maps, threshold: float) -> Areas:
    """Return the areas, px² of the map, of all objects where the probability exceeds `threshold`, shape (n,).

    Touching objects count separately if the model computes distances, and as one otherwise.
    """
    if maps.distance is None:
        inside = (maps.probability > np.float32(threshold)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        return np.asarray(stats[1:, cv2.CC_STAT_AREA], np.float64)
    labels, _ = _separate(maps.probability, maps.distance, threshold)
    return np.asarray(np.bincount(labels.ravel())[1:] * (maps.probability.size / labels.size), np.float64)


def _separate(probability: Grey, distance: Grey, threshold: float) -> tuple[Labels, list[tuple[int, int]]]:
    """Return the label image and the peaks of the instances. It may be smaller than the maps."""
    probability, distance = _reduce(probability, distance)
    depth = cv2.GaussianBlur(np.clip(distance, 0, 1), (0, 0), SMOOTHING)
    return basins(np.asarray(depth, np.float32), probability > np.float32(threshold))


def _reduce(probability: Grey, distance: Grey) -> tuple[Grey, Grey]:
    """Return both maps, reduced as far as all but the smallest objects keep MIN_RADIUS_PX."""
    core = (distance > 0.5).astype(np.uint8)  # in a disk, the core is the disk of half its radius
    _, _, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])
    if not len(areas):
        return probability, distance.astype(np.float32)
    # A share of the area, not of the number, because most of the cores in a noisy map are specks.
    area = areas[np.searchsorted(np.cumsum(areas), SMALLEST_SHARE * areas.sum())]
    factor = 2 * math.sqrt(area / math.pi) / MIN_RADIUS_PX
    if factor < 1.25:
        return probability, distance.astype(np.float32)
    size = (max(1, round(core.shape[1] / factor)), max(1, round(core.shape[0] / factor)))
    first, second = (
        np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_AREA), np.float32)
        for grid in (probability, distance)
    )
    return first, second


def _stretch(indices: npt.NDArray[np.intp], map_size: int, picture_size: int) -> Coordinates:
    return np.clip((indices + 0.5) * (map_size / picture_size) - 0.5, 0, map_size - 1)
