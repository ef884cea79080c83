"""The waits between two tries: they double, have a limit, and are spread at random."""

import random

import pytest

from spheroseg.backoff import Backoff, full_jitter

BACKOFF = Backoff(first=0.5, maximum=15.0)


def test_the_longest_wait_doubles_up_to_its_maximum_however_many_tries_there_were() -> None:
    assert [BACKOFF.ceiling(n) for n in (1, 2, 3, 5, 6, 5000)] == [0.5, 1.0, 2.0, 8.0, 15.0, 15.0]


@pytest.mark.parametrize("n", [1, 4, 5000])
def test_full_jitter_draws_between_nothing_and_the_longest_wait(n: int) -> None:
    assert full_jitter(BACKOFF.ceiling(n), draw=lambda low, high: low) == 0.0
    assert full_jitter(BACKOFF.ceiling(n), draw=lambda low, high: high) == BACKOFF.ceiling(n)


@pytest.mark.parametrize("n", [1, 4, 5000])
def test_equal_jitter_waits_at_least_half_of_the_longest_wait(n: int) -> None:
    draw = random.Random(1).uniform
    waits = [BACKOFF.equal_jitter(n, draw) for _ in range(200)]
    assert BACKOFF.ceiling(n) / 2 <= min(waits) < max(waits) <= BACKOFF.ceiling(n)
