"""The measure that a chart shows, with its unit, and numbers that are short enough to read."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from spheroseg.plate.numbers import finite_number

# A row of a table, see plate/rows.py.
Row = Mapping[str, Any]

# For each column its title, its unit, and the column to use instead if no pixel size is known.
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
# Powers of ten in words, because the font has no superscript 6 and would be replaced by another one.
POWERS = {0: "", 3: "thousand", 6: "million", 9: "billion"}


@dataclass(frozen=True)
class ChartMeasure:
    """A column of the rows, with its title and unit. The axis is in units of ten to the `power`: 0, 3, 6 or 9."""

    column: str
    title: str
    unit: str
    power: int = 0

    @property
    def label(self) -> str:
        """The title of the axis."""
        unit = " ".join(part for part in (POWERS[self.power], self.unit) if part)
        return f"{self.title} ({unit})" if unit else self.title

    @property
    def relative(self) -> bool:
        """Whether the values are relative to t0, so that 1 is a reference."""
        return self.column.startswith("rel_")

    def axis(self, **more: Any) -> alt.Axis:
        """Return the axis. The data stay in the unit of the tables, and only the labels are divided."""
        label = f"format(datum.value / 1e{self.power}, '~g')"
        options: dict[str, Any] = {"title": self.label, "labelExpr": label, "tickCount": 6} | more
        return alt.Axis(**options)

    def scale(self, values: Collection[float]) -> alt.Scale:
        """Return a scale that includes zero, because people compare sizes by eye."""
        if not values:
            return alt.Scale(domain=[0, 1])
        if self.column in SHAPES:
            return alt.Scale(domain=[min([0.0, *values]), max([1.0, *values])])
        return alt.Scale(zero=True, nice=True)

    def format(self, value: float) -> str:
        """Return the value with three significant figures, in the unit of the axis."""
        return format_figures(value / 10.0**self.power)


def choose_measure(rows: Sequence[Row], requested: str | None = None, *, suffix: str = "") -> ChartMeasure:
    """Return the measure to draw.

    requested: a column of well rows, by default the volume. If no row has it in µm, the column in px is drawn.
    suffix: "_mean" for condition rows. Raises ValueError if the column is unknown.
    """
    column = requested or DEFAULT
    if column not in MEASURES:
        raise ValueError(f"no such measure: {column}; choose one of {', '.join(MEASURES)}")
    title, unit, px_column = MEASURES[column]
    values = list_numbers(rows, column + suffix)
    if not values and px_column and (in_px := list_numbers(rows, px_column + suffix)):
        column, values = px_column, in_px
        title, unit, _ = MEASURES[px_column]
    largest = max((abs(value) for value in values), default=0.0)
    # Numbers up to 9999 are as short as those with a factor.
    power = min(9, 3 * math.floor(math.log10(largest) / 3 + 1e-12)) if largest >= 1e4 else 0
    return ChartMeasure(column, title, unit, power)


def list_numbers(rows: Iterable[Row], column: str) -> list[float]:
    """Return the finite values of a column."""
    return [value for row in rows if (value := finite_number(row.get(column))) is not None]


def format_figures(value: float) -> str:
    """Return the value with three significant figures, with an exponent only if it is very small or large."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    # Round first: 9.996 becomes 10.0, which has one decimal less.
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}".replace("-", "−")
