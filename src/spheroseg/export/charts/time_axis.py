"""The axis of time of a chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import Row, list_numbers
from spheroseg.export.charts.style import choose_hour_ticks
from spheroseg.plate.numbers import finite_number


@dataclass(frozen=True)
class TimeAxis:
    """Hours if every row has them, otherwise the numbers of the time points.

    column: the column of the rows. values: the times in it, each once and in ascending order.
    """

    column: str
    values: tuple[float, ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "TimeAxis":
        """Return the axis of these rows, which may have no times."""
        hours = bool(rows) and all(finite_number(row.get("time_h")) is not None for row in rows)
        column = "time_h" if hours else "time_point"
        return cls(column, tuple(sorted(set(list_numbers(rows, column)))))

    @classmethod
    def from_timed_rows(cls, rows: Sequence[Row]) -> "TimeAxis":
        """Return the axis of these rows. Raises ValueError if no row has a time."""
        times = cls.from_rows(rows)
        if not times.values:
            raise ValueError("no row has a time: there is nothing to draw")
        return times

    @property
    def in_hours(self) -> bool:
        """Whether the times are hours."""
        return self.column == "time_h"

    @property
    def title(self) -> str:
        """The title of the axis."""
        return "Time (h)" if self.in_hours else "Time point"

    def at(self, row: Row) -> float | None:
        """Return the time of the row, or None."""
        return finite_number(row.get(self.column))

    def describe(self, value: float) -> str:
        """Return a time as text: 24 h, time point 3."""
        return f"{value:g} h" if self.in_hours else f"time point {value:g}"

    def axis(self, *, max_ticks: int = 8, **more: Any) -> alt.Axis:
        """Return the axis with at most `max_ticks` labels."""
        options: dict[str, Any] = {"title": self.title, "values": self._ticks(max_ticks), "format": ".6~g"} | more
        return alt.Axis(**options)

    def scale(self) -> alt.Scale:
        """Return a scale over all times."""
        low, high = self.domain
        return alt.Scale(domain=[low, high], nice=False, zero=False, padding=6)

    @property
    def domain(self) -> tuple[float, float]:
        """The first and the last time, which differ even if there is only one time or none."""
        if not self.values:
            return 0.0, 1.0
        low, high = self.values[0], self.values[-1]
        return (low, high) if high > low else (low - 1, high + 1)

    def _ticks(self, max_ticks: int) -> list[float]:
        low, high = self.domain
        if len(self.values) < 2:
            return list(self.values)
        if self.in_hours and high - low < 2:
            return list(self.values)[:max_ticks]
        if not self.in_hours:
            step = max(1, -(-int(high - low + 1) // max_ticks))
            return [float(point) for point in range(int(low), int(high) + 1, step)]
        return choose_hour_ticks(low, high, max_ticks=max_ticks)
