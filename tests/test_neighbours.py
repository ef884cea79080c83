"""Which images of a time-lapse show something else than their neighbours in time."""

import math
import random
from collections.abc import Sequence

import pytest

from spheroseg.plate.neighbours import find_unlike_neighbours

DAYS = [24.0 * day for day in range(8)]


def which(areas: Sequence[float], times: Sequence[float] | None = None) -> list[int]:
    times = times or [24.0 * place for place in range(len(areas))]
    return [
        place
        for place, is_unlike in enumerate(find_unlike_neighbours(list(zip(times, areas, strict=True))))
        if is_unlike
    ]


def gompertz(hours: float, rate: float = 0.02, size: float = 20.0) -> float:
    """Area of a spheroid whose volume grows to `size` times its first; it doubles in 12 h in the beginning."""
    return 10_000 * math.exp(2 / 3 * math.log(size) * (1 - math.exp(-rate * hours)))


@pytest.mark.parametrize("step", [6.0, 24.0])
@pytest.mark.parametrize("doubling", [12.0, 24.0, 48.0])
def test_growth_however_fast_is_like_its_neighbours(step: float, doubling: float) -> None:
    times = [step * place for place in range(12)]
    assert which([10_000 * 2 ** (2 / 3 * time / doubling) for time in times], times) == []
    assert which([gompertz(time) for time in times], times) == []
    assert which([10_000 * 2 ** (-time / doubling) for time in times], times) == []


@pytest.mark.parametrize(("rate", "most"), [(0.005, 0), (0.01, 0), (0.02, 40)])
def test_noise_of_five_percent_is_hardly_ever_a_reason(rate: float, most: int) -> None:
    chance = random.Random(5)
    series = [[gompertz(time, rate) * math.exp(chance.gauss(0, 0.05)) for time in DAYS] for _ in range(1000)]
    assert sum(len(which(areas)) for areas in series) <= most  # of 8,000


def test_a_spheroid_that_a_drug_kills_between_two_images_is_no_reason() -> None:
    assert which([10_000, 13_000, 17_000, 6_000, 5_000, 4_500, 4_300]) == []
    assert which([10_000, 13_000, 17_000, 3_000, 1_000, 1_100, 1_200]) == []


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("factor", [2.0, 0.5, 0.02])
def test_an_image_in_which_something_else_was_outlined_stands_out_and_its_neighbours_do_not(
    place: int, factor: float
) -> None:
    areas = [10_000 * 2 ** (2 / 3 * time / 36) for time in DAYS]
    areas[place] *= factor
    assert which(areas) == [place]


def test_uneven_times_are_no_reason() -> None:
    chance = random.Random(6)
    times = [0.0, 1.0, 2.0, 24.0, 48.0, 120.0, 121.0, 240.0]
    for _ in range(200):
        areas = [10_000 * math.exp(0.005 * time) * math.exp(chance.gauss(0, 0.03)) for time in times]
        assert which(areas, times) == []


def test_too_few_images_say_nothing() -> None:
    assert which([10_000, 50_000, 10_000]) == []
    assert which([]) == []


def test_two_images_of_one_time_are_judged_each_for_itself() -> None:
    times = [0.0, 24.0, 48.0, 72.0, 96.0, 96.0, 120.0, 144.0]
    assert which([10_000] * 4 + [10_000, 60_000] + [10_000] * 2, times) == [5]
