"""Which times of a plate are one and the same: a camera needs minutes to get from the first well to the last."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

LONGEST_H = 0.5  # that the images of one round may lie apart
SHARE = 0.25  # of the shortest interval between two images of one well, that they may lie apart
_ROUNDING_H = 1e-6


def tolerance_h(series: Iterable[Sequence[float]]) -> float:
    """How far apart times may lie and still be one; `series` are the times (h) of each well and site."""
    shortest = min(
        (later - earlier for times in series for earlier, later in pairwise(sorted(times)) if later > earlier),
        default=float("inf"),
    )
    return max(_ROUNDING_H, min(LONGEST_H, SHARE * shortest))


def rounds(times: Iterable[float], tolerance: float) -> dict[float, float]:
    """For each time the first of its round."""
    first: dict[float, float] = {}
    start = None
    for time in sorted(set(times)):
        if start is None or time - start > tolerance:
            start = time
        first[time] = start
    return first
