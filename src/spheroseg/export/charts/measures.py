"""What a picture shows: the measure with its unit, the axis of time, and numbers short enough to be read."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from spheroseg.export.charts.style import ticks

Row = Mapping[str, Any]

# Title, unit, and the column to take where no pixel size is known.
MEASURES = {
    "volume_um3": ("Volume", "µm³", "volume_px3"),
    "area_um2": ("Area", "µm²", "area_px2"),
    "eq_diameter_um": ("Equivalent diameter", "µm", "eq_diameter_px"),
    "perimeter_um": ("Perimeter", "µm", None),
    "volume_px3": ("Volume", "px³", None),
    "area_px2": ("Area", "px²", None),
    "eq_diameter_px": ("Equivalent diameter", "px", None),
    "rel_volume": ("Volume relative to t0", "", None),
    "rel_area": ("Area relative to t0", "", None),
    "circularity": ("Circularity", "", None),
    "solidity": ("Solidity", "", None),
}
SHAPES = frozenset({"circularity", "solidity"})  # between 0 and 1
DEFAULT = "volume_um3"
# In words: the font that is always there has no small 6, and a text with one would come in another font.
POWERS = {0: "", 3: "thousand", 6: "million", 9: "billion"}


@dataclass(frozen=True)
class Measure:
    """`column` is that of the rows; `power` of ten is what the axis is divided by: 0, 3, 6 or 9."""

    column: str
    title: str
    unit: str
    power: int = 0

    @property
    def label(self) -> str:
        unit = " ".join(part for part in (POWERS[self.power], self.unit) if part)
        return f"{self.title} ({unit})" if unit else self.title

    @property
    def relative(self) -> bool:
        return self.column.startswith("rel_")

    def axis(self, **more: Any) -> alt.Axis:
        # The data stay in the unit of the tables; only what is written at the axis is divided.
        shown = f"format(datum.value / 1e{self.power}, '~g')"
        options: dict[str, Any] = {"title": self.label, "labelExpr": shown, "tickCount": 6} | more
        return alt.Axis(**options)

    def scale(self, values: Collection[float]) -> alt.Scale:
        """From zero, as sizes are compared by eye; below only where values are."""
        if not values:
            return alt.Scale(domain=[0, 1])
        if self.column in SHAPES:
            return alt.Scale(domain=[min([0.0, *values]), max([1.0, *values])])
        return alt.Scale(zero=True, nice=True)

    def shown(self, value: float) -> str:
        """Three figures, in the unit of the axis."""
        return figures(value / 10.0**self.power)


def measure_of(rows: Sequence[Row], asked: str | None = None, *, suffix: str = "") -> Measure:
    """The measure to draw: what was asked for (volume if nothing was); its twin in px where nothing is calibrated.

    `suffix` is "_mean" for condition rows. Raises ValueError for a measure that rows do not have.
    """
    column = asked or DEFAULT
    if column not in MEASURES:
        raise ValueError(f"no such measure: {column}; choose one of {', '.join(MEASURES)}")
    title, unit, twin = MEASURES[column]
    found = numbers(rows, column + suffix)
    if not found and twin and (in_px := numbers(rows, twin + suffix)):
        column, found = twin, in_px
        title, unit, _ = MEASURES[twin]
    largest = max((abs(value) for value in found), default=0.0)
    # Up to 9999 a number is as short as one with a factor.
    power = min(9, 3 * math.floor(math.log10(largest) / 3 + 1e-12)) if largest >= 1e4 else 0
    return Measure(column, title, unit, power)


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    return [value for row in rows if (value := number(row.get(column))) is not None]


def number(value: Any) -> float | None:
    """None for what is missing, and for NaN and infinity, which no picture can show."""
    if value is None or isinstance(value, str):
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def figures(value: float) -> str:
    """Three significant figures, without an exponent where people would not write one."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    # Rounded first, as 9.996 has one place less than it seems to have.
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}".replace("-", "−")


@dataclass(frozen=True)
class Times:
    """The axis of time: hours where every row knows them, else the numbers of the time points."""

    column: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Times":
        hours = bool(rows) and all(number(row.get("time_h")) is not None for row in rows)
        column = "time_h" if hours else "time_point"
        return cls(column, tuple(sorted(set(numbers(rows, column)))))

    @classmethod
    def needed(cls, rows: Sequence[Row]) -> "Times":
        """Raises ValueError where no row has a time."""
        times = cls.of(rows)
        if not times.values:
            raise ValueError("no row has a time: there is nothing to draw")
        return times

    @property
    def in_hours(self) -> bool:
        return self.column == "time_h"

    @property
    def title(self) -> str:
        return "Time (h)" if self.in_hours else "Time point"

    def at(self, row: Row) -> float | None:
        return number(row.get(self.column))

    def called(self, value: float) -> str:
        return f"{value:g} h" if self.in_hours else f"time point {value:g}"

    def axis(self, *, most: int = 8, **more: Any) -> alt.Axis:
        options: dict[str, Any] = {"title": self.title, "values": self._ticks(most), "format": ".6~g"} | more
        return alt.Axis(**options)

    def scale(self) -> alt.Scale:
        low, high = self.domain
        return alt.Scale(domain=[low, high], nice=False, zero=False, padding=6)

    @property
    def domain(self) -> tuple[float, float]:
        if not self.values:
            return 0.0, 1.0
        low, high = self.values[0], self.values[-1]
        # A picture of one time point alone still has a width.
        return (low, high) if high > low else (low - 1, high + 1)

    def _ticks(self, most: int) -> list[float]:
        low, high = self.domain
        if len(self.values) < 2:
            return list(self.values)
        if self.in_hours and high - low < 2:
            return list(self.values)[:most]
        if not self.in_hours:
            step = max(1, -(-int(high - low + 1) // most))
            return [float(point) for point in range(int(low), int(high) + 1, step)]
        return ticks(low, high, most=most)
