"""Finds images in which a spheroid has another size than before and after, which suggests a bad outline."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

UNLIKE_NEIGHBOURS = "unlike_neighbours"

# In the natural logarithm of the area: 28 % larger or 22 % smaller. Noise of 5 % hardly ever exceeds it, but two
# spheroids that are outlined as one (+0.69) always do.
MAX_LOG_AREA_DEVIATION = 0.25
# For images with fewer than two neighbours on one side, because growth that changes there looks like a bad outline.
MAX_LOG_AREA_DEVIATION_AT_ENDS = 0.5
MIN_TIMES = 4  # with three, it is unclear which image deviates
MAX_EXTRAPOLATION_SPANS = 2.0  # distance to which a line through two images is used, in distances of these two


def find_unlike_neighbours(series: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (time, area) pair of one spheroid whether it fits no line through two neighbours in time.

    The lines go through the logarithms of the areas, which must be above 0. Results are in the order of
    `series`. Images of the same time are each compared with images of other times.
    """
    times = sorted({time for time, _ in series})
    log_areas = {at: _mean([math.log(area) for time, area in series if time == at]) for at in times}
    if len(times) < MIN_TIMES:
        return [False] * len(series)
    indices = {time: index for index, time in enumerate(times)}
    return [_is_unlike(times, log_areas, indices[time], math.log(area)) for time, area in series]


def _is_unlike(times: Sequence[float], log_areas: Mapping[float, float], index: int, log_area: float) -> bool:
    before, after = times[max(0, index - 2) : index], times[index + 1 : index + 3]
    limit = MAX_LOG_AREA_DEVIATION if len(before) == len(after) == 2 else MAX_LOG_AREA_DEVIATION_AT_ENDS
    if not before or not after:
        before, after = times[max(0, index - 3) : index], times[index + 1 : index + 4]
    time = times[index]
    deviations = [
        abs(log_area - (log_areas[a] + (log_areas[b] - log_areas[a]) * (time - a) / (b - a)))
        for a, b in combinations([*before, *after], 2)
        if max(a - time, time - b) <= MAX_EXTRAPOLATION_SPANS * (b - a)
    ]
    return bool(deviations) and min(deviations) > limit


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
