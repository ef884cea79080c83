"""Computes the watershed of a height map: one basin for each peak that is high enough above its passes."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

MIN_PEAK = 0.5  # a basin with a lower peak belongs to a neighbour; objects are 1 where they are deepest
# The lower of two peaks must rise this much above the pass between them. Between two disks that touch, the pass is
# near 0, in a blurred map up to .5. The lobes of one object rise by less than .2 as a rule, but by more than .3 if a
# fibre runs through the object. The noise of a map is about .05.
MIN_PERSISTENCE = 0.35
# A region with this many objects by the limits above is a crowd, with the lower limits below: there, several objects
# are more likely than one with lobes, and the maps of small objects are flat.
MIN_CROWD_SIZE = 4
MIN_PEAK_IN_CROWD = 0.3
MIN_PERSISTENCE_IN_CROWD = 0.15

Labels = npt.NDArray[np.int32]

_HALF = ((0, 1), (1, -1), (1, 0), (1, 1))
_NEIGHBOURS = (*_HALF, *((-down, -right) for down, right in _HALF))


def basins(height: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> tuple[Labels, list[tuple[int, int]]]:
    """Divide the pixels of `inside` (height, width) into basins. Return their labels and their peaks.

    Labels count from 1; 0 is outside. A peak is the row and column of the highest pixel of its basin.

    The method is the watershed of steepest ascent, with basins merged by topological persistence (Edelsbrunner,
    Letscher and Zomorodian 2002): from the highest pass to the lowest, a peak below `MIN_PEAK`, or less than
    `MIN_PERSISTENCE` above the pass, is merged into the higher one. Each 8-connected region of `inside` keeps at
    least one basin. Regions with `MIN_CROWD_SIZE` basins are divided again by the lower limits of a crowd. The time
    grows with the number of pixels inside, not with the size of the map or the number of objects.
    """
    # With a frame of background, no pixel has to be tested for being at the border.
    framed = np.pad(np.where(inside, height, np.float32(-1)).astype(np.float32), 1, constant_values=-1)
    width = framed.shape[1]
    level = framed.ravel()
    pixels = np.flatnonzero(np.pad(inside, 1))
    peak_of, tops = _climb(level, pixels, width)
    merged = _merge_by_limits(level[tops], list(_find_passes(level, pixels, peak_of, width)))
    numbers, final = np.unique(merged, return_inverse=True)
    labels = np.zeros(framed.shape, np.int32)
    labels.ravel()[pixels] = final.astype(np.int32)[peak_of] + 1
    peaks = [divmod(int(tops[number]), width) for number in numbers]
    return labels[1:-1, 1:-1], [(row - 1, column - 1) for row, column in peaks]


def _climb(
    level: npt.NDArray[np.float32], pixels: npt.NDArray[np.intp], width: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return for each pixel the index of the peak at the end of its steepest ascent, and the pixels of the peaks."""
    own = level[pixels]
    steepest = np.zeros(len(pixels), np.float32)
    up = pixels.copy()
    for down, right in _NEIGHBOURS:
        step = down * width + right
        gain = level[pixels + step] - own
        if down and right:
            gain *= np.float32(0.5**0.5)
        # On a plateau, go to the later pixel, so that no two pixels point at each other.
        better = (gain > steepest) | ((gain == steepest) & (gain == 0) & (pixels + step > up) & (up >= pixels))
        steepest = np.where(better, gain, steepest)
        up = np.where(better, pixels + step, up)
    number = np.empty(len(level), np.intp)
    number[pixels] = np.arange(len(pixels))
    root = number[up]
    while not np.array_equal(further := root[root], root):
        root = further
    peaks, peak_of = np.unique(root, return_inverse=True)
    return peak_of, pixels[peaks]


def _find_passes(
    level: npt.NDArray[np.float32], pixels: npt.NDArray[np.intp], peak_of: npt.NDArray[np.intp], width: int
) -> Iterator[tuple[int, int, float]]:
    """Return the highest pass between any two basins that touch, as two peaks and a height; the highest first."""
    basin = np.full(len(level), -1, np.intp)
    basin[pixels] = peak_of
    lower, upper, heights = [], [], []
    for down, right in _HALF:
        others = pixels + (down * width + right)
        touching = (basin[others] >= 0) & (basin[others] != peak_of)
        here, there = peak_of[touching], basin[others[touching]]
        lower.append(np.minimum(here, there))
        upper.append(np.maximum(here, there))
        heights.append(np.minimum(level[pixels[touching]], level[others[touching]]))
    first, second, height = (np.concatenate(parts) for parts in (lower, upper, heights))
    pair = first * len(level) + second
    order = np.argsort(pair)
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    highest = np.maximum.reduceat(height[order], starts) if len(starts) else height
    first, second = first[order][starts], second[order][starts]
    falling = np.argsort(-highest, kind="stable")
    return zip(first[falling].tolist(), second[falling].tolist(), highest[falling].tolist(), strict=True)


def _merge_by_limits(
    peaks: npt.NDArray[np.float32], passes: Sequence[tuple[int, int, float]]
) -> npt.NDArray[np.intp]:
    """Return for each peak the one that it is merged into, with the limits for its region of the map."""
    merged = _merge(peaks, passes, MIN_PEAK, MIN_PERSISTENCE)
    region = _merge(peaks, passes, np.inf, np.inf)
    is_crowded = np.bincount(region[np.unique(merged)], minlength=len(peaks)) >= MIN_CROWD_SIZE
    if not is_crowded.any():
        return merged
    crowd = _merge(peaks, passes, MIN_PEAK_IN_CROWD, MIN_PERSISTENCE_IN_CROWD)
    return np.where(is_crowded[region], crowd, merged)


def _merge(
    peaks: npt.NDArray[np.float32],
    passes: Iterable[tuple[int, int, float]],
    min_peak: float,
    min_persistence: float,
) -> npt.NDArray[np.intp]:
    """Return for each peak the one that it is merged into: itself if it stands out."""
    height = peaks.tolist()
    merged_into = list(range(len(height)))

    def find_top(peak: int) -> int:
        while merged_into[peak] != peak:
            merged_into[peak] = merged_into[merged_into[peak]]
            peak = merged_into[peak]
        return peak

    for first, second, between in passes:
        high, low = sorted((find_top(first), find_top(second)), key=lambda peak: (-height[peak], peak))
        if high != low and (height[low] < min_peak or height[low] - between < min_persistence):
            merged_into[low] = high
    return np.array([find_top(peak) for peak in range(len(height))], np.intp)
