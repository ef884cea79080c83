"""Exponential backoff with jitter: how long to wait before the next retry.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, which names both kinds of jitter.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

# 2.0**1024 would overflow before min() could cap it.
MAX_EXPONENT = 64

# (low, high) -> a number between them.
Draw = Callable[[float, float], float]


def full_jitter(longest: float, draw: Draw = random.uniform) -> float:
    """Return a wait between 0 and `longest` seconds. It spreads many clients best."""
    return draw(0.0, longest)


@dataclass(frozen=True)
class Backoff:
    """first: the longest wait in seconds before the first retry. maximum: the longest wait before any retry."""

    first: float
    maximum: float

    def ceiling(self, n: int) -> float:
        """Return the longest wait in seconds before retry `n` (1, 2, …). It doubles each time, up to `maximum`."""
        return min(self.maximum, self.first * 2.0 ** min(n - 1, MAX_EXPONENT))

    def equal_jitter(self, n: int, draw: Draw = random.uniform) -> float:
        """Return a wait in seconds between half of `ceiling(n)` and all of it: never retries at once."""
        ceiling = self.ceiling(n)
        return draw(ceiling / 2, ceiling)
