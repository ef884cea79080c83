"""Rows as series in time, in which missing values stay visible, and numbers as text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from spheroseg.export.charts.measures import ChartMeasure, Row, format_figures
from spheroseg.export.charts.time_axis import TimeAxis
from spheroseg.plate.numbers import finite_number

NAMELESS = "no condition"
WELL_COLUMNS = ("plate", "well", "sample")  # identify one well, or one sample if there are no wells


def well_key(row: Row) -> str:
    """Return a text that identifies the well (or sample) of the row."""
    return " ".join(str(row[name]) for name in WELL_COLUMNS if row.get(name))


def condition_label(row: Row) -> str:
    """Return the name of the condition of the row, or `NAMELESS`."""
    return str(row.get("condition") or NAMELESS)


def group_by_well(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each well by its `well_key`."""
    wells: dict[str, list[Row]] = {}
    for row in rows:
        wells.setdefault(well_key(row), []).append(row)
    return wells


def find_common_times(wells: Iterable[Sequence[Row]], times: TimeAxis) -> list[float]:
    """Return the times that at least half of the wells have. A well without one of them lacks an image.

    There are none if each well was imaged at minutes of its own.
    """
    wells = list(wells)
    counts = Counter(time for rows in wells for time in {times.at(row) for row in rows} if time is not None)
    return sorted(time for time, count in counts.items() if 2 * count >= len(wells))


def build_series(
    rows: Sequence[Row], measure: ChartMeasure, times: TimeAxis, expected: Sequence[float]
) -> list[dict[str, Any]]:
    """Return a record (x, y, flags) for each time, in order.

    expected: times at which the well should have an image. y is None if there is no value, so that the line is
    broken.
    """
    measured = {
        time: {
            "x": time,
            "y": finite_number(row.get(measure.column)),
            "flags": str(row.get("qc_flags") or "").replace(";", ", "),
        }
        for row in rows
        if (time := times.at(row)) is not None
    }
    absent = {time: {"x": time, "y": None, "flags": "no image"} for time in expected if time not in measured}
    return [record for _, record in sorted((measured | absent).items())]


def join_first(items: Sequence[str], max_items: int = 3) -> str:
    """Return the first items as text, with the number of the others."""
    rest = len(items) - max_items
    return "; ".join(items[:max_items]) + (f"; and {rest} more" if rest > 0 else "")


def format_estimate(row: Row, column: str, name: str, unit: str) -> str:
    """Return a value with its confidence interval, as in `22.4 h (95 % CI 20.1 to 25.0)`, or "" if there is no value.

    column: the column of the value. name: how the columns of the ends of its interval begin.
    """
    value, low, high = (finite_number(row.get(key)) for key in (column, f"{name}_ci_low", f"{name}_ci_high"))
    if value is None:
        return ""
    ends = (
        f" (95 % CI {format_figures(low)} to {format_figures(high)})" if low is not None and high is not None else ""
    )
    return f"{format_figures(value)} {unit}".rstrip() + ends
