"""Growth curve of one well: the measured values, the missing ones, and the fitted curve."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import ChartMeasure, Row, choose_measure
from spheroseg.export.charts.series import build_series, format_estimate, join_first
from spheroseg.export.charts.style import COLOURS, GREY, INK, MARKED, ROWS, AnyChart, finish_chart, wrap_text
from spheroseg.export.charts.time_axis import TimeAxis
from spheroseg.plate.growth_models import evaluate_model
from spheroseg.plate.numbers import finite_number

MEASURED, FLAGGED, ABSENT = "measured", "flagged", "no value"
SUBTITLE_CHARACTERS = 72  # per line
CURVE_POINTS = 60  # enough to look smooth at twice the size


def well_chart(
    rows: Sequence[Row], fit: Row | None = None, *, measure: str | None = None, expected: Sequence[float] = ()
) -> AnyChart:
    """Return a chart of one well against time, with the fitted curve and its doubling time.

    rows: the well rows of the well. fit: the row of its best fit, if there is one. expected: times at which the plate
    has images. If this well has none there, or an image has no value, the line is broken and a hollow mark stands at
    the axis. Points with a quality flag are marked. Raises ValueError if the measure is unknown, if the fit is of
    another measure, and if no row has a time.
    """
    chosen = choose_measure(rows, measure)
    if fit is not None and fit["measure"] != chosen.column:
        raise ValueError(f"the fit is of {fit['measure']}, the chart of {chosen.column}")
    times = TimeAxis.from_timed_rows(rows)
    points = build_series(rows, chosen, times, expected)
    for point in points:
        point["kind"] = ABSENT if point["y"] is None else FLAGGED if point["flags"] else MEASURED
    curve = _build_curve(fit) if fit is not None and times.in_hours else []
    records = [*points, *curve]
    full_axis = TimeAxis(times.column, tuple(sorted({record["x"] for record in records} | set(expected))))
    layers = _layers(points, bool(curve), chosen, full_axis)
    chart = alt.layer(*layers, data=alt.NamedData(ROWS)).properties(width=340, height=230)
    return finish_chart(chart, _heading(rows), _notes(rows, points, fit, times), rows=records)


def _layers(
    points: Sequence[dict[str, Any]], has_fit: bool, measure: ChartMeasure, times: TimeAxis
) -> list[alt.Chart]:
    values = [point["y"] for point in points if point["y"] is not None]
    x = alt.X("x:Q", axis=times.axis(), scale=times.scale())
    axis = measure.axis() if values else measure.axis(values=[0])
    y = alt.Y("y:Q", axis=axis, scale=measure.scale(values))
    kinds = [kind for kind in (MEASURED, FLAGGED, ABSENT) if any(point["kind"] == kind for point in points)]
    styles = {MEASURED: (COLOURS[0], "circle"), FLAGGED: (MARKED, "triangle-up"), ABSENT: (GREY, "circle")}
    legend = alt.Legend(title=None, orient="bottom", direction="horizontal") if kinds != [MEASURED] else None
    colour = alt.Color(
        "kind:N", legend=legend, scale=alt.Scale(domain=kinds, range=[styles[kind][0] for kind in kinds])
    )
    shape = alt.Shape(
        "kind:N", legend=legend, scale=alt.Scale(domain=kinds, range=[styles[kind][1] for kind in kinds])
    )
    # White and not transparent, so that the mark is hollow in the legend too.
    fills = ["white" if kind == ABSENT else styles[kind][0] for kind in kinds]
    inside = alt.Fill("kind:N", legend=legend, scale=alt.Scale(domain=kinds, range=fills))
    tooltip = [
        alt.Tooltip("x:Q", title=times.title),
        alt.Tooltip(
            "y:Q", title=f"{measure.title} ({measure.unit})" if measure.unit else measure.title, format=",.4~r"
        ),
        alt.Tooltip("flags:N", title="Flags"),
    ]
    measured = alt.Chart().transform_filter("datum.kind != 'fit'")
    marks = measured.mark_point(size=46, strokeWidth=1.3, opacity=1)
    layers = [measured.mark_line(stroke="#9bb8cc", strokeWidth=1, strokeCap="round").encode(x=x, y=y)]
    if has_fit:
        line = alt.Chart().transform_filter("datum.kind == 'fit'").mark_line(stroke=INK, strokeWidth=1.6)
        layers.append(line.encode(x=x, y=y))
    layers.append(
        marks.transform_filter("datum.y != null").encode(
            x=x, y=y, color=colour, shape=shape, fill=inside, tooltip=tooltip
        )
    )
    layers.append(
        marks.transform_filter("datum.y == null").encode(
            x=x, y=alt.value("height"), color=colour, shape=shape, fill=inside, tooltip=tooltip
        )
    )
    if measure.relative:
        layers.insert(
            0, alt.Chart().mark_rule(stroke=GREY, strokeDash=[3, 3], strokeWidth=0.8).encode(y=alt.datum(1))
        )
    return layers


def evaluate_fit(fit: Row, hour: float) -> float | None:
    """Return the value of a fitted curve at `hour`, in the unit of its measure, or None if the fit was refused.

    In all models, y0 and the rate are those of the curve at from_h.
    """
    start, rate, first = (
        finite_number(fit.get("y0")),
        finite_number(fit.get("rate_per_h")),
        finite_number(fit.get("from_h")),
    )
    if start is None or rate is None or first is None:
        return None
    capacity = finite_number(fit.get("capacity"))
    if fit["model"] != "exponential" and (capacity is None or not 0 < start < capacity):
        return None
    return float(evaluate_model(fit["model"], hour - first, start, rate, capacity))


def _build_curve(fit: Row) -> list[dict[str, Any]]:
    """Return points of the fitted curve between the first and the last time that was fitted."""
    first, last = finite_number(fit.get("from_h")), finite_number(fit.get("to_h"))
    if first is None or last is None:
        return []
    hours = [first + (last - first) * step / (CURVE_POINTS - 1) for step in range(CURVE_POINTS)]
    values = [(hour, evaluate_fit(fit, hour)) for hour in hours]
    return [{"kind": "fit", "x": hour, "y": value} for hour, value in values if value is not None]


def _heading(rows: Sequence[Row]) -> str:
    first = rows[0] if rows else {}
    well = str(first.get("well") or first.get("sample") or "no well")
    plate = first.get("plate")
    return f"{plate} {well}" if plate else well


def _notes(rows: Sequence[Row], points: Sequence[dict[str, Any]], fit: Row | None, times: TimeAxis) -> list[str]:
    condition = next((str(row["condition"]) for row in rows if row.get("condition")), "")
    notes = wrap_text(condition, SUBTITLE_CHARACTERS) if condition else []
    if fit is not None:
        notes += [line for sentence in describe_fit(fit) for line in wrap_text(sentence, SUBTITLE_CHARACTERS)]
    flagged = [f"{times.describe(point['x'])} {point['flags']}" for point in points if point["flags"]]
    if flagged:
        notes += wrap_text(f"Flags: {join_first(flagged)}", SUBTITLE_CHARACTERS)
    return notes


def describe_fit(fit: Row) -> list[str]:
    """Return sentences with the doubling time and its confidence interval, or why there is none."""
    r2, refused = finite_number(fit.get("r2")), fit.get("refused")
    doubling_time = format_estimate(fit, "doubling_time_h", "doubling_time", "h")
    if doubling_time:
        sentences = [f"Doubling time {doubling_time}"]
    else:
        rate = format_estimate(fit, "rate_per_h", "rate", "per h")
        sentences = [f"Specific growth rate {rate}"] if rate else []
    if sentences:
        sentences.append(f"{str(fit['model']).capitalize()} fit" + (f", R² = {r2:.3f}" if r2 is not None else ""))
    if refused:
        sentences.append(str(refused).capitalize() if sentences else f"No fit: {refused}")
    return sentences
