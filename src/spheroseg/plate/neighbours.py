"""Images whose size is nothing like that of the same spheroid before and after."""

import math
from collections.abc import Sequence
from itertools import combinations

UNLIKE_NEIGHBOURS = "unlike_neighbours"

# Of the natural logarithm of the area. Noise of 5 % hardly ever gets to the first (28 % up, 22 % down), two spheroids
# taken for one (+0.69) always get past it.
LIMIT = 0.25
# Where less than two images are on one side, growth that bends and growth that ends look like a bad outline.
LIMIT_AT_ENDS = 0.5
LEAST = 4  # images: of three, none can be told from the others
FARTHEST = 2.0  # spans of two images beyond which their line says nothing


def unlike_neighbours(series: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the (time, area) of one spheroid no two of its neighbours explain; in the order given.

    The areas are above 0. Images of the same time are judged each against those of other times.
    """
    times = sorted({time for time, _ in series})
    level = {at: _mean([math.log(area) for time, area in series if time == at]) for at in times}
    if len(times) < LEAST:
        return [False] * len(series)
    places = {time: place for place, time in enumerate(times)}
    return [_is_unlike(times, level, places[time], math.log(area)) for time, area in series]


def _is_unlike(times: Sequence[float], level: dict[float, float], place: int, log_area: float) -> bool:
    before, after = times[max(0, place - 2) : place], times[place + 1 : place + 3]
    limit = LIMIT if len(before) == len(after) == 2 else LIMIT_AT_ENDS
    if not before or not after:
        before, after = times[max(0, place - 3) : place], times[place + 1 : place + 4]
    at = times[place]
    explained = [
        abs(log_area - (level[a] + (level[b] - level[a]) * (at - a) / (b - a)))
        for a, b in combinations([*before, *after], 2)
        if max(a - at, at - b) <= FARTHEST * (b - a)
    ]
    return bool(explained) and min(explained) > limit


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
