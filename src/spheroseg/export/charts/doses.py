"""Dose-response chart of a drug: the wells, their means, and the fitted curve with its IC50."""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import ChartMeasure, Row, choose_measure, format_figures, list_numbers
from spheroseg.export.charts.series import format_estimate, well_key
from spheroseg.export.charts.style import (
    COLOURS,
    GREY,
    INK,
    MARKED,
    ROWS,
    AnyChart,
    chart_of,
    finish_chart,
    wrap_text,
)
from spheroseg.export.charts.time_axis import TimeAxis
from spheroseg.plate.dose_response import evaluate_dose_response
from spheroseg.plate.numbers import finite_number

DEFAULT = "rel_volume"
CURVE_POINTS = 120


def dose_chart(rows: Sequence[Row], ic50: Row | None = None, *, measure: str | None = None) -> AnyChart:
    """Return a chart of the response of each well against the concentration of one drug, on a logarithmic axis.

    rows: endpoint rows of the drug and of the untreated wells. ic50: the IC50 row of the drug, whose measure is
    drawn. Without it `measure` is drawn, by default rel_volume, or the volume if there is none. Wells with the
    concentration 0 are at the left of a break in the axis, because a logarithmic axis has no 0. The curve is drawn
    over the concentrations tested. Raises ValueError if the measure is unknown, and if no row has a concentration.
    """
    drug = ic50.get("drug") if ic50 else next((row["drug"] for row in rows if row.get("drug")), None)
    dosed = {row.get("drug") for row in rows if (finite_number(row.get("concentration")) or 0) > 0}
    used = [row for row in rows if _belongs(row, drug, dosed)]
    if not used:
        raise ValueError("no row has a concentration: there is no dose to draw")
    default = DEFAULT if list_numbers(used, DEFAULT) else None
    chosen = choose_measure(used, (ic50 or {}).get("measure") or measure or default)
    unit = (ic50 or {}).get("unit") or next((row["unit"] for row in used if row.get("unit")), None)
    axis = _DoseAxis([row["concentration"] for row in used])
    records = [record for row in used if (record := _well(row, chosen, axis)) is not None]
    records += _means(records)
    records += _curve(ic50, axis) if ic50 else []
    layers = _layers(records, ic50, axis, chosen, f"{drug or 'Concentration'}{f' ({unit})' if unit else ''}")
    chart = alt.layer(*layers, data=alt.NamedData(ROWS)).properties(width=380, height=270)
    time = TimeAxis.from_rows(used)
    at = f" at {time.describe(time.values[0])}" if len(time.values) == 1 else ""
    return finish_chart(
        chart, f"{drug or 'Dose'}: {chosen.title.lower()}{at}", _notes(records, ic50, unit), rows=records
    )


class _DoseAxis:
    """A logarithmic axis of concentrations, with 0 a step below the lowest one."""

    def __init__(self, concentrations: Sequence[float]) -> None:
        self.tested = sorted({float(value) for value in concentrations if value > 0}) or [1.0]
        self.has_zero = any(value == 0 for value in concentrations)
        self.low, self.high = self.tested[0], self.tested[-1]
        # The step is the mean distance of the doses, but at least half a decade, to be visible, and at most one
        # decade.
        steps = max(1, len(self.tested) - 1)
        decades = min(1.0, max(0.5, math.log10(self.high / self.low) / steps))
        self.zero = self.low / 10**decades
        self.gap = self.low / 10 ** (decades / 2)

    def position(self, concentration: float) -> float:
        """Return the value on the axis that stands for the concentration."""
        return concentration if concentration > 0 else self.zero

    @property
    def scale(self) -> alt.Scale:
        first = self.zero if self.has_zero else self.low
        margin = (self.high / first) ** 0.04 if self.high > first else 2.0
        return alt.Scale(type="log", domain=[first / margin, self.high * margin], nice=False)

    def axis(self, title: str) -> alt.Axis:
        decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        values = [10.0**decade for decade in decades]
        if len(values) < 3:
            # Over less than two decades, label the concentrations themselves, unless there are too many.
            values = self.tested if len(self.tested) <= 8 else [self.low, math.sqrt(self.low * self.high), self.high]
        label = "format(datum.value, '.3~g')"
        if self.has_zero:
            values = [self.zero, *values]
            label = f"datum.value < {self.gap!r} ? '0' : {label}"
        return alt.Axis(title=title, values=values, labelExpr=label, labelOverlap=True)


def _belongs(row: Row, drug: Any, dosed: Collection[Any]) -> bool:
    """Return whether the row is a dose of the drug or an untreated well.

    Untreated wells have the concentration 0 of the drug itself, of no drug, or of a vehicle. dosed: all drugs with a
    concentration above 0; a vehicle is not among them.
    """
    dose = finite_number(row.get("concentration"))
    if dose is None or dose < 0:
        return False
    return row.get("drug") == drug or (dose == 0 and row.get("drug") not in dosed)


def _well(row: Row, measure: ChartMeasure, axis: _DoseAxis) -> dict[str, Any] | None:
    value = finite_number(row.get(measure.column))
    if value is None:
        return None
    return {
        "kind": "well",
        "well": well_key(row),
        "dose": float(row["concentration"]),
        "x": axis.position(float(row["concentration"])),
        "y": value,
        "flags": str(row.get("qc_flags") or "").replace(";", ", "),
    }


def _means(wells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    doses: dict[float, list[float]] = {}
    for well in wells:
        doses.setdefault(well["x"], []).append(well["y"])
    means = []
    for x, values in sorted(doses.items()):
        mean, sd = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
        ends = (None, None) if sd is None else (mean - sd, mean + sd)
        means.append({"kind": "mean", "x": x, "y": mean, "sd": sd, "low": ends[0], "high": ends[1], "n": len(values)})
    return means


def evaluate_fit(ic50: Row, concentration: float) -> float | None:
    """Return the value of the fitted curve, in the unit of its measure, or None if the fit was refused."""
    middle, hill, top, bottom = (finite_number(ic50.get(name)) for name in ("ic50", "hill", "top", "bottom"))
    if middle is None or hill is None or top is None or bottom is None or middle <= 0:
        return None
    return float(evaluate_dose_response(concentration, middle, hill, top, bottom))


def _curve(ic50: Row, axis: _DoseAxis) -> list[dict[str, Any]]:
    span = math.log10(axis.high / axis.low)
    doses = [axis.low * 10 ** (span * step / (CURVE_POINTS - 1)) for step in range(CURVE_POINTS)]
    values = [(dose, evaluate_fit(ic50, dose)) for dose in doses]
    return [{"kind": "fit", "x": dose, "y": value} for dose, value in values if value is not None]


def _layers(
    records: Sequence[dict[str, Any]], ic50: Row | None, axis: _DoseAxis, measure: ChartMeasure, title: str
) -> list[alt.Chart]:
    values = [v for record in records for key in ("y", "low", "high") if (v := record.get(key)) is not None]
    x = alt.X("x:Q", axis=axis.axis(title), scale=axis.scale)
    y = alt.Y("y:Q", axis=measure.axis(), scale=measure.scale(values))
    low = alt.Y("low:Q", axis=measure.axis(), scale=measure.scale(values))
    well, mean, fit = (chart_of().transform_filter(f"datum.kind == '{kind}'") for kind in ("well", "mean", "fit"))
    tooltip = [
        alt.Tooltip("well:N", title="Well"),
        alt.Tooltip("dose:Q", title=title),
        alt.Tooltip(
            "y:Q", title=f"{measure.title} ({measure.unit})" if measure.unit else measure.title, format=",.4~r"
        ),
        alt.Tooltip("flags:N", title="Flags"),
    ]
    layers = []
    ends = [finite_number((ic50 or {}).get(name)) for name in ("ic50", "ic50_ci_low", "ic50_ci_high")]
    if ends[0] is not None and ends[1] is not None and ends[2] is not None:
        band = alt.Chart(alt.InlineData(values=[{"from": max(ends[1], axis.low), "to": min(ends[2], axis.high)}]))
        layers.append(
            band.mark_rect(fill=MARKED, fillOpacity=0.12).encode(x=alt.X("from:Q", scale=axis.scale), x2="to:Q")
        )
    if ends[0] is not None:
        at = alt.Chart(alt.InlineData(values=[{"x": ends[0]}]))
        layers.append(at.mark_rule(stroke=MARKED, strokeDash=[4, 3], strokeWidth=1.2).encode(x=x))
    layers += [
        well.mark_point(filled=True, size=22, fillOpacity=0.35, color=COLOURS[0]).encode(x=x, y=y, tooltip=tooltip),
        mean.mark_rule(strokeWidth=1.3, color=COLOURS[0]).encode(x=x, y=low, y2="high:Q"),
        mean.mark_point(filled=True, size=52, opacity=1, color=COLOURS[0]).encode(x=x, y=y),
        fit.mark_line(stroke=INK, strokeWidth=1.8).encode(x=x, y=y),
    ]
    if axis.has_zero:
        gap = alt.Chart(alt.InlineData(values=[{"x": axis.gap}]))
        cut = {"x": alt.X("x:Q", scale=axis.scale), "y": alt.value("height")}
        layers += [
            gap.mark_point(shape="square", filled=True, size=80, color="white", opacity=1).encode(**cut),
            gap.mark_text(text="//", fontSize=13, color=GREY, baseline="middle").encode(**cut),
        ]
    return layers


def _notes(records: Sequence[dict[str, Any]], ic50: Row | None, unit: str | None) -> list[str]:
    notes = []
    if ic50 and ic50.get("refused"):
        notes += wrap_text(f"No IC50: {ic50['refused']}", 72)
    elif ic50 and (estimate := format_estimate(ic50, "ic50", "ic50", unit or "")):
        hill, r2 = finite_number(ic50.get("hill")), finite_number(ic50.get("r2"))
        more = [f"Hill slope {format_figures(hill)}"] if hill is not None else []
        notes += [f"IC50 {estimate}", ", ".join([*more, *([f"R² = {r2:.3f}"] if r2 is not None else [])])]
    wells = sum(record["kind"] == "well" for record in records)
    notes.append(f"Mean ± SD of the wells at each concentration, n = {wells} wells in all")
    return [note for note in notes if note]
