"""Groups acquisition times into imaging rounds: a microscope needs minutes from the first well to the last."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

MAX_ROUND_SPREAD_H = 0.5  # between the first and the last image of one round
MAX_SPREAD_SHARE = 0.25  # of the shortest interval between two images of one well
_ROUNDING_H = 1e-6


def compute_round_tolerance(series: Iterable[Sequence[float]]) -> float:
    """Return the maximum difference in hours between the images of one round.

    series: for each well and site, the times of its images in hours.
    """
    shortest = min(
        (later - earlier for times in series for earlier, later in pairwise(sorted(times)) if later > earlier),
        default=float("inf"),
    )
    return max(_ROUNDING_H, min(MAX_ROUND_SPREAD_H, MAX_SPREAD_SHARE * shortest))


def group_into_rounds(times: Iterable[float], tolerance_h: float) -> dict[float, float]:
    """Return the first time of its round for each time (h)."""
    round_starts: dict[float, float] = {}
    start = None
    for time in sorted(set(times)):
        if start is None or time - start > tolerance_h:
            start = time
        round_starts[time] = start
    return round_starts
