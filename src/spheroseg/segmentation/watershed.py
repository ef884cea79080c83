"""Basins of a height map: one for each peak that stands out from the ground between it and its neighbours."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

# Where objects lie in a clump, two of them are likelier than one with lobes, and the map of a small one is flat.
CROWD = 4  # objects that are sure
LEAST_PEAK_IN_CROWD = 0.3
PERSISTENCE_IN_CROWD = 0.15
LEAST_PEAK = 0.5  # a part that is never half as deep as an object is at its deepest belongs to a neighbour
# By how much the lower of two peaks must rise above the pass between them. Two disks that touch have a pass near 0, a
# blurred map one of up to .5; the lobes of one object differ by less than .2 as a rule, by more than .3 where a fibre
# runs through it, and the noise of a map is about .05.
PERSISTENCE = 0.35

Labels = npt.NDArray[np.int32]

_HALF = ((0, 1), (1, -1), (1, 0), (1, 1))
_NEIGHBOURS = (*_HALF, *((-down, -right) for down, right in _HALF))


def basins(height: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> tuple[Labels, list[tuple[int, int]]]:
    """Number each place of `inside` by the peak that it runs up to, from 1; and row and column of the peaks.

    The watershed of the steepest ascent, with basins merged by topological persistence (Edelsbrunner, Letscher and
    Zomorodian 2002): over the highest pass first, a peak below `LEAST_PEAK`, or one less than `PERSISTENCE` above the
    pass, goes to the higher of the two. Each 8-connected part of `inside` has one basin at least; one that has
    `CROWD` is looked at again with the lower limits of a crowd. What it takes grows with the number of places inside,
    not with the size of the map or the number of objects.
    """
    # A frame of ground saves the test for the border.
    framed = np.pad(np.where(inside, height, np.float32(-1)).astype(np.float32), 1, constant_values=-1)
    width = framed.shape[1]
    level = framed.ravel()
    places = np.flatnonzero(np.pad(inside, 1))
    peak_of, tops = _climbed(level, places, width)
    merged = _told_apart(level[tops], list(_passes(level, places, peak_of, width)))
    numbers, final = np.unique(merged, return_inverse=True)
    labels = np.zeros(framed.shape, np.int32)
    labels.ravel()[places] = final.astype(np.int32)[peak_of] + 1
    peaks = [divmod(int(tops[number]), width) for number in numbers]
    return labels[1:-1, 1:-1], [(row - 1, column - 1) for row, column in peaks]


def _climbed(
    level: npt.NDArray[np.float32], places: npt.NDArray[np.intp], width: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which of the peaks each place runs up to, and the places of the peaks."""
    own = level[places]
    steepest = np.zeros(len(places), np.float32)
    up = places.copy()
    for down, right in _NEIGHBOURS:
        step = down * width + right
        gain = level[places + step] - own
        if down and right:
            gain *= np.float32(0.5**0.5)
        # On a plateau always to the later place, so that no two point at each other.
        better = (gain > steepest) | ((gain == steepest) & (gain == 0) & (places + step > up) & (up >= places))
        steepest = np.where(better, gain, steepest)
        up = np.where(better, places + step, up)
    number = np.empty(len(level), np.intp)
    number[places] = np.arange(len(places))
    root = number[up]
    while not np.array_equal(further := root[root], root):
        root = further
    found, peak_of = np.unique(root, return_inverse=True)
    return peak_of, places[found]


def _passes(
    level: npt.NDArray[np.float32], places: npt.NDArray[np.intp], peak_of: npt.NDArray[np.intp], width: int
) -> Iterator[tuple[int, int, float]]:
    """The highest pass between each two basins that touch, the highest of all first."""
    owner = np.full(len(level), -1, np.intp)
    owner[places] = peak_of
    lower, upper, heights = [], [], []
    for down, right in _HALF:
        others = places + (down * width + right)
        touching = (owner[others] >= 0) & (owner[others] != peak_of)
        here, there = peak_of[touching], owner[others[touching]]
        lower.append(np.minimum(here, there))
        upper.append(np.maximum(here, there))
        heights.append(np.minimum(level[places[touching]], level[others[touching]]))
    first, second, height = (np.concatenate(parts) for parts in (lower, upper, heights))
    pair = first * len(level) + second
    order = np.argsort(pair)
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    highest = np.maximum.reduceat(height[order], starts) if len(starts) else height
    first, second = first[order][starts], second[order][starts]
    falling = np.argsort(-highest, kind="stable")
    return zip(first[falling].tolist(), second[falling].tolist(), highest[falling].tolist(), strict=True)


def _told_apart(peaks: npt.NDArray[np.float32], passes: Sequence[tuple[int, int, float]]) -> npt.NDArray[np.intp]:
    """For each peak the one that it goes to, by the limits for its part of the map."""
    sure = _merged(peaks, passes, LEAST_PEAK, PERSISTENCE)
    clump = _merged(peaks, passes, np.inf, np.inf)
    crowded = np.bincount(clump[np.unique(sure)], minlength=len(peaks)) >= CROWD
    if not crowded.any():
        return sure
    return np.where(crowded[clump], _merged(peaks, passes, LEAST_PEAK_IN_CROWD, PERSISTENCE_IN_CROWD), sure)


def _merged(
    peaks: npt.NDArray[np.float32], passes: Iterable[tuple[int, int, float]], least: float, persistence: float
) -> npt.NDArray[np.intp]:
    """For each peak the one that it goes to: itself, where it stands out."""
    height = peaks.tolist()
    goes_to = list(range(len(height)))

    def top(peak: int) -> int:
        while goes_to[peak] != peak:
            goes_to[peak] = goes_to[goes_to[peak]]
            peak = goes_to[peak]
        return peak

    for first, second, between in passes:
        high, low = sorted((top(first), top(second)), key=lambda peak: (-height[peak], peak))
        if high != low and (height[low] < least or height[low] - between < persistence):
            goes_to[low] = high
    return np.array([top(peak) for peak in range(len(height))], np.intp)
