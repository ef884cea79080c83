"""Rows as series in time, in which what is missing stays visible, and their facts in words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from spheroseg.export.charts.measures import Measure, Row, Times, figures, number

NAMELESS = "no condition"
SAME = ("plate", "well", "sample")  # what tells one well (or sample, where there are no wells) from another


def well_key(row: Row) -> str:
    return " ".join(str(row[name]) for name in SAME if row.get(name))


def condition_of(row: Row) -> str:
    return str(row.get("condition") or NAMELESS)


def by_well(rows: Iterable[Row]) -> dict[str, list[Row]]:
    wells: dict[str, list[Row]] = {}
    for row in rows:
        wells.setdefault(well_key(row), []).append(row)
    return wells


def common_times(wells: Iterable[Sequence[Row]], times: Times) -> list[float]:
    """The times that at least half of the wells have: a well without one of these lacks it.

    Where each well was photographed at minutes of its own, there are none.
    """
    wells = list(wells)
    seen = Counter(time for rows in wells for time in {times.at(row) for row in rows} if time is not None)
    return sorted(time for time, count in seen.items() if 2 * count >= len(wells))


def series(rows: Sequence[Row], measure: Measure, times: Times, expected: Sequence[float]) -> list[dict[str, Any]]:
    """A record (x, y, flags) for each time in order; y is None where there is no value, so that the line breaks."""
    found = {
        time: {
            "x": time,
            "y": number(row.get(measure.column)),
            "flags": str(row.get("qc_flags") or "").replace(";", ", "),
        }
        for row in rows
        if (time := times.at(row)) is not None
    }
    absent = {time: {"x": time, "y": None, "flags": "no image"} for time in expected if time not in found}
    return [record for _, record in sorted((found | absent).items())]


def listed(items: Sequence[str], most: int = 3) -> str:
    rest = len(items) - most
    return "; ".join(items[:most]) + (f"; and {rest} more" if rest > 0 else "")


def interval(row: Row, column: str, name: str, unit: str) -> str:
    """`22.4 h (95 % CI 20.1 to 25.0)`, or "" where there is no value."""
    value, low, high = (number(row.get(key)) for key in (column, f"{name}_ci_low", f"{name}_ci_high"))
    if value is None:
        return ""
    ends = f" (95 % CI {figures(low)} to {figures(high)})" if low is not None and high is not None else ""
    return f"{figures(value)} {unit}".rstrip() + ends
