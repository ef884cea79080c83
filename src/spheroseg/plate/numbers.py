"""Numbers of table cells."""

import math


def finite_number(value: object) -> float | None:
    """Return the value as a float, or None if it is not a number, NaN or infinite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
