"""Growth curve of each condition: the mean and standard deviation of its wells, with the wells behind them."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import ChartMeasure, Row, choose_measure
from spheroseg.export.charts.series import build_series, condition_label, find_common_times, group_by_well
from spheroseg.export.charts.style import BREAK_LINES, COLOURS, GREY, ROWS, AnyChart, finish_chart, wrap_text
from spheroseg.export.charts.time_axis import TimeAxis
from spheroseg.plate.numbers import finite_number

MAX_CONDITIONS_PER_PANEL = 6  # with more, each condition has a panel of its own


def condition_chart(
    conditions: Sequence[Row], wells: Sequence[Row] = (), *, measure: str | None = None, title: str | None = None
) -> AnyChart:
    """Return a chart of the mean ± SD over wells against time.

    conditions: condition rows. wells: well rows of the same plates, drawn as thin lines. measure: a column of the
    well rows, by default the volume, in px³ if nothing is calibrated. Up to 6 conditions share a panel, more have one
    each. The line is broken if a value is missing. Raises ValueError if the measure is unknown, and if no row has a
    time.
    """
    chosen = choose_measure(conditions, measure, suffix="_mean")
    times = TimeAxis.from_timed_rows(conditions)
    groups: dict[str, list[Row]] = {}
    for row in conditions:
        groups.setdefault(condition_label(row), []).append(row)
    has_panels = len(groups) > MAX_CONDITIONS_PER_PANEL
    labels = _labels(groups, chosen, 24 if has_panels else 36)
    means = [record for name, rows in groups.items() for record in _means(rows, labels[name], chosen, times)]
    singles = _singles(wells, labels, chosen, times)
    layers = _layers(means, singles, list(labels.values()), chosen, times)
    heading = title or f"{chosen.title} per condition"
    subtitle = ["Mean ± SD over wells" + (", single wells as thin lines" if singles else "")]
    if len(groups) == 1:
        subtitle.insert(0, next(iter(labels.values())).replace("\n", " "))
    records = [*singles, *means]
    data = alt.NamedData(ROWS)
    if not has_panels:
        return finish_chart(
            alt.layer(*layers, data=data).properties(width=440, height=300), heading, subtitle, rows=records
        )
    panel = alt.layer(*layers).properties(width=130, height=100)
    header = alt.Header(title=None, labelAnchor="start", labelPadding=4, labelLimit=0, labelExpr=BREAK_LINES)
    facet = alt.Facet("condition:N", sort=list(labels.values()), header=header)
    return finish_chart(
        alt.FacetChart(data=data, spec=panel, facet=facet, columns=6 if len(groups) > 16 else 4, spacing=14),
        heading,
        subtitle,
        rows=records,
    )


def _layers(
    means: Sequence[dict[str, Any]],
    singles: Sequence[dict[str, Any]],
    order: list[str],
    measure: ChartMeasure,
    times: TimeAxis,
) -> list[alt.Chart]:
    has_panels = len(order) > MAX_CONDITIONS_PER_PANEL
    values = [
        v for record in [*means, *singles] for key in ("y", "low", "high") if (v := record.get(key)) is not None
    ]
    x = alt.X("x:Q", axis=times.axis(max_ticks=4 if has_panels else 8), scale=times.scale())
    axis = measure.axis(tickCount=4 if has_panels else 6)
    y = alt.Y("y:Q", axis=axis, scale=measure.scale(values))
    low = alt.Y("low:Q", axis=axis, scale=measure.scale(values))
    colour: Any = alt.value(COLOURS[0])
    if 1 < len(order) <= MAX_CONDITIONS_PER_PANEL:
        legend = alt.Legend(title="Mean ± SD", orient="right", columns=1, labelExpr=BREAK_LINES)
        scale = alt.Scale(domain=order, range=list(COLOURS[: len(order)]))
        colour = alt.Color("condition:N", sort=order, legend=legend, scale=scale)
    tooltip = [
        alt.Tooltip("condition:N", title="Condition"),
        alt.Tooltip("x:Q", title=times.title),
        alt.Tooltip("y:Q", title=f"Mean ({measure.unit})" if measure.unit else "Mean", format=",.4~r"),
        alt.Tooltip("sd:Q", title="SD", format=",.4~r"),
        alt.Tooltip("n:Q", title="Wells"),
    ]
    mean, well = alt.Chart().transform_filter("datum.kind == 'mean'"), "datum.kind == 'well'"
    layers = []
    if measure.relative:
        layers.append(alt.Chart().mark_rule(stroke=GREY, strokeDash=[3, 3], strokeWidth=0.8).encode(y=alt.datum(1)))
    if singles:
        # A round cap shows a value between two gaps as a dot. strokeOpacity instead of `opacity`, for which the
        # renderer makes a layer per line and takes ten times as long.
        opacity = max(0.12, min(0.5, 8 * len(order) / len({record["well"] for record in singles})))
        thin = alt.Chart().transform_filter(well).mark_line(strokeWidth=0.7, strokeOpacity=opacity, strokeCap="round")
        layers.append(thin.encode(x=x, y=y, color=colour, detail="well:N"))
    layers += [
        mean.mark_area(fillOpacity=0.25).encode(x=x, y=low, y2="high:Q", color=colour),
        mean.mark_line(strokeWidth=1.6 if has_panels else 2.2).encode(x=x, y=y, color=colour),
        mean.mark_point(filled=True, size=14 if has_panels else 36, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return layers


def _labels(groups: dict[str, list[Row]], measure: ChartMeasure, width: int) -> dict[str, str]:
    """Return the label of each condition: its name and number of wells. Labels that would be equal are numbered."""
    labels: dict[str, str] = {}
    for name, rows in groups.items():
        counts = [int(row.get(f"{measure.column}_n") or 0) for row in rows]
        low, high = min(counts, default=0), max(counts, default=0)
        count = f"(n = {low if low == high else f'{low}–{high}'})"
        parts = wrap_text(name, width)
        parts = [*parts[:-1], f"{parts[-1]} {count}"] if len(parts[-1]) + len(count) < width else [*parts, count]
        label = "\n".join(parts)
        labels[name] = label if label not in labels.values() else f"{label} #{len(labels) + 1}"
    return labels


def _means(rows: Sequence[Row], label: str, measure: ChartMeasure, times: TimeAxis) -> list[dict[str, Any]]:
    records = []
    for row in sorted((row for row in rows if times.at(row) is not None), key=lambda row: times.at(row) or 0.0):
        mean, sd = finite_number(row.get(f"{measure.column}_mean")), finite_number(row.get(f"{measure.column}_sd"))
        low, high = (None, None) if mean is None or sd is None else (mean - sd, mean + sd)
        records.append(
            {
                "kind": "mean",
                "condition": label,
                "x": times.at(row),
                "y": mean,
                "sd": sd,
                "low": low,
                "high": high,
                "n": row.get(f"{measure.column}_n"),
            }
        )
    return records


def _singles(
    wells: Sequence[Row], labels: dict[str, str], measure: ChartMeasure, times: TimeAxis
) -> list[dict[str, Any]]:
    groups = group_by_well(row for row in wells if condition_label(row) in labels)
    expected = find_common_times(groups.values(), times)
    return [
        {
            "kind": "well",
            "condition": labels[condition_label(rows[0])],
            "well": well,
            "x": point["x"],
            "y": point["y"],
        }
        for well, rows in groups.items()
        for point in build_series(rows, measure, times, expected)
    ]
