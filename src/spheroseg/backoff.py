"""Exponential backoff with jitter: how long to wait before the next try.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, which names both kinds of jitter.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

# 2.0**1024 would overflow before min() could cap it.
MAX_EXPONENT = 64

# (low, high) -> a number between them.
Draw = Callable[[float, float], float]


@dataclass(frozen=True)
class Backoff:
    """first: the longest wait in seconds before try 1. maximum: the longest wait in seconds before any try."""

    first: float
    maximum: float

    def ceiling(self, n: int) -> float:
        """Return the longest wait in seconds before try `n` (1, 2, …). It doubles with every try, up to `maximum`."""
        return min(self.maximum, self.first * 2.0 ** min(n - 1, MAX_EXPONENT))

    def full_jitter(self, n: int, draw: Draw = random.uniform) -> float:
        """Return a wait in seconds between 0 and `ceiling(n)`: spreads many clients best."""
        return draw(0.0, self.ceiling(n))

    def equal_jitter(self, n: int, draw: Draw = random.uniform) -> float:
        """Return a wait in seconds between half of `ceiling(n)` and all of it: never retries at once."""
        ceiling = self.ceiling(n)
        return draw(ceiling / 2, ceiling)
