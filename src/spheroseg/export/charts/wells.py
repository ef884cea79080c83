"""Growth curve of one well: what was measured, what was not, and the curve that was fitted."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import Measure, Row, Times, measure_of, number
from spheroseg.export.charts.series import interval, listed, series
from spheroseg.export.charts.style import COLOURS, GREY, INK, MARKED, ROWS, AnyChart, finished, lines
from spheroseg.plate.growth_models import evaluate_model

MEASURED, FLAGGED, ABSENT = "measured", "flagged", "no value"
WIDTH = 72  # characters of a line under the title
SAMPLES = 60  # points of a fitted curve: enough to look smooth at twice the size


def well_chart(
    rows: Sequence[Row], fit: Row | None = None, *, measure: str | None = None, expected: Sequence[float] = ()
) -> AnyChart:
    """The well rows of one well against time, with the fitted curve and its doubling time.

    fit: the best fit row of the well, if there is one. expected: times at which the plate has images; where this
    well has none, and where an image has no value, the line is broken and a hollow mark stands at the axis. Points
    with a quality flag are marked. Raises ValueError for an unknown measure, for a fit of another
    measure than is drawn, and where no row has a time.
    """
    chosen = measure_of(rows, measure)
    if fit is not None and fit["measure"] != chosen.column:
        raise ValueError(f"the fit is of {fit['measure']}, the chart of {chosen.column}")
    times = Times.needed(rows)
    points = series(rows, chosen, times, expected)
    for point in points:
        point["kind"] = ABSENT if point["y"] is None else FLAGGED if point["flags"] else MEASURED
    curve = _curve(fit) if fit is not None and times.in_hours else []
    records = [*points, *curve]
    wide = Times(times.column, tuple(sorted({record["x"] for record in records} | set(expected))))
    layers = _layers(points, bool(curve), chosen, wide)
    chart = alt.layer(*layers, data=alt.NamedData(ROWS)).properties(width=340, height=230)
    return finished(chart, _heading(rows), _notes(rows, points, fit, times), rows=records)


def _layers(points: Sequence[dict[str, Any]], fitted: bool, measure: Measure, times: Times) -> list[alt.Chart]:
    values = [point["y"] for point in points if point["y"] is not None]
    x = alt.X("x:Q", axis=times.axis(), scale=times.scale())
    axis = measure.axis() if values else measure.axis(values=[0])
    y = alt.Y("y:Q", axis=axis, scale=measure.scale(values))
    kinds = [kind for kind in (MEASURED, FLAGGED, ABSENT) if any(point["kind"] == kind for point in points)]
    look = {MEASURED: (COLOURS[0], "circle"), FLAGGED: (MARKED, "triangle-up"), ABSENT: (GREY, "circle")}
    legend = alt.Legend(title=None, orient="bottom", direction="horizontal") if kinds != [MEASURED] else None
    colour = alt.Color(
        "kind:N", legend=legend, scale=alt.Scale(domain=kinds, range=[look[kind][0] for kind in kinds])
    )
    shape = alt.Shape("kind:N", legend=legend, scale=alt.Scale(domain=kinds, range=[look[kind][1] for kind in kinds]))
    # White inside, and not clear, so that it is hollow in the legend too.
    filled = ["white" if kind == ABSENT else look[kind][0] for kind in kinds]
    inside = alt.Fill("kind:N", legend=legend, scale=alt.Scale(domain=kinds, range=filled))
    tooltip = [
        alt.Tooltip("x:Q", title=times.title),
        alt.Tooltip(
            "y:Q", title=f"{measure.title} ({measure.unit})" if measure.unit else measure.title, format=",.4~r"
        ),
        alt.Tooltip("flags:N", title="Flags"),
    ]
    seen = alt.Chart().transform_filter("datum.kind != 'fit'")
    marks = seen.mark_point(size=46, strokeWidth=1.3, opacity=1)
    layers = [seen.mark_line(stroke="#9bb8cc", strokeWidth=1, strokeCap="round").encode(x=x, y=y)]
    if fitted:
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


def fitted(fit: Row, hour: float) -> float | None:
    """The value of a fitted curve at `hour`, in the unit of its measure; None where the fit row has no numbers.

    y0 and the rate are those of the curve at from_h, whatever the model.
    """
    start, rate, first = number(fit.get("y0")), number(fit.get("rate_per_h")), number(fit.get("from_h"))
    if start is None or rate is None or first is None:
        return None
    capacity = number(fit.get("capacity"))
    if fit["model"] != "exponential" and (capacity is None or not 0 < start < capacity):
        return None
    return float(evaluate_model(fit["model"], hour - first, start, rate, capacity))


def _curve(fit: Row) -> list[dict[str, Any]]:
    """Over the hours that the fit is of: it says nothing about others."""
    first, last = number(fit.get("from_h")), number(fit.get("to_h"))
    if first is None or last is None:
        return []
    hours = [first + (last - first) * step / (SAMPLES - 1) for step in range(SAMPLES)]
    values = [(hour, fitted(fit, hour)) for hour in hours]
    return [{"kind": "fit", "x": hour, "y": value} for hour, value in values if value is not None]


def _heading(rows: Sequence[Row]) -> str:
    first = rows[0] if rows else {}
    place = str(first.get("well") or first.get("sample") or "no well")
    plate = first.get("plate")
    return f"{plate} {place}" if plate else place


def _notes(rows: Sequence[Row], points: Sequence[dict[str, Any]], fit: Row | None, times: Times) -> list[str]:
    condition = next((str(row["condition"]) for row in rows if row.get("condition")), "")
    notes = lines(condition, WIDTH) if condition else []
    if fit is not None:
        notes += [line for sentence in fit_in_words(fit) for line in lines(sentence, WIDTH)]
    flagged = [f"{times.called(point['x'])} {point['flags']}" for point in points if point["flags"]]
    if flagged:
        notes += lines(f"Flags: {listed(flagged)}", WIDTH)
    return notes


def fit_in_words(fit: Row) -> list[str]:
    """Sentences: the doubling time with its confidence interval, or why there is none."""
    r2, refused = number(fit.get("r2")), fit.get("refused")
    found = interval(fit, "doubling_time_h", "doubling_time", "h")
    if found:
        said = [f"Doubling time {found}"]
    else:
        rate = interval(fit, "rate_per_h", "rate", "per h")
        said = [f"Specific growth rate {rate}"] if rate else []
    if said:
        said.append(f"{str(fit['model']).capitalize()} fit" + (f", R² = {r2:.3f}" if r2 is not None else ""))
    return said + ([f"No fit: {refused}" if not said else str(refused).capitalize()] if refused else [])
