"""Which images of a time-lapse differ in size from their neighbours in time."""

import math
import random
from collections.abc import Sequence

import pytest

from spheroseg.plate.neighbours import find_unlike_neighbours

DAYS = [24.0 * day for day in range(8)]


def list_flagged(areas: Sequence[float], times: Sequence[float] | None = None) -> list[int]:
    times = times or [24.0 * index for index in range(len(areas))]
    return [
        index
        for index, is_unlike in enumerate(find_unlike_neighbours(list(zip(times, areas, strict=True))))
        if is_unlike
    ]


def gompertz(hours: float, rate: float = 0.02, size: float = 20.0) -> float:
    """Area of a spheroid whose volume grows to `size` times its first; it doubles in 12 h in the beginning."""
    return 10_000 * math.exp(2 / 3 * math.log(size) * (1 - math.exp(-rate * hours)))


@pytest.mark.parametrize("step", [6.0, 24.0])
@pytest.mark.parametrize("doubling", [12.0, 24.0, 48.0])
def test_fast_growth_is_not_flagged(step: float, doubling: float) -> None:
    times = [step * index for index in range(12)]
    assert list_flagged([10_000 * 2 ** (2 / 3 * time / doubling) for time in times], times) == []
    assert list_flagged([gompertz(time) for time in times], times) == []
    assert list_flagged([10_000 * 2 ** (-time / doubling) for time in times], times) == []


@pytest.mark.parametrize(("rate", "most"), [(0.005, 0), (0.01, 0), (0.02, 40)])
def test_noise_of_five_percent_is_hardly_ever_flagged(rate: float, most: int) -> None:
    chance = random.Random(5)
    series = [[gompertz(time, rate) * math.exp(chance.gauss(0, 0.05)) for time in DAYS] for _ in range(1000)]
    assert sum(len(list_flagged(areas)) for areas in series) <= most  # of 8,000


def test_a_spheroid_that_a_drug_kills_between_two_images_is_not_flagged() -> None:
    assert list_flagged([10_000, 13_000, 17_000, 6_000, 5_000, 4_500, 4_300]) == []
    assert list_flagged([10_000, 13_000, 17_000, 3_000, 1_000, 1_100, 1_200]) == []


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("factor", [2.0, 0.5, 0.02])
def test_an_image_with_a_wrong_outline_is_flagged_and_its_neighbours_are_not(index: int, factor: float) -> None:
    areas = [10_000 * 2 ** (2 / 3 * time / 36) for time in DAYS]
    areas[index] *= factor
    assert list_flagged(areas) == [index]


def test_uneven_times_are_not_flagged() -> None:
    chance = random.Random(6)
    times = [0.0, 1.0, 2.0, 24.0, 48.0, 120.0, 121.0, 240.0]
    for _ in range(200):
        areas = [10_000 * math.exp(0.005 * time) * math.exp(chance.gauss(0, 0.03)) for time in times]
        assert list_flagged(areas, times) == []


def test_too_few_images_are_not_flagged() -> None:
    assert list_flagged([10_000, 50_000, 10_000]) == []
    assert list_flagged([]) == []


def test_two_images_of_one_time_are_judged_separately() -> None:
    times = [0.0, 24.0, 48.0, 72.0, 96.0, 96.0, 120.0, 144.0]
    assert list_flagged([10_000] * 4 + [10_000, 60_000] + [10_000] * 2, times) == [5]
