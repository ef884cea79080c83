"""Growth curves of all wells of a plate, each at the position of its well."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from spheroseg.export.charts.measures import POWERS, ChartMeasure, Row, choose_measure
from spheroseg.export.charts.plate_grid import draw_column_names, draw_row_names, select_plate_rows
from spheroseg.export.charts.series import build_series, condition_label, find_common_times, group_by_well
from spheroseg.export.charts.style import BREAK_LINES, COLOURS, GREY, INK, AnyChart, chart_of, finish_chart, wrap_text
from spheroseg.export.charts.time_axis import TimeAxis
from spheroseg.plate.wells import PLATE_FORMATS, Well, parse_well

# By the number of wells: width and height of the panel of a well in px.
PANELS = {6: (200, 150), 12: (160, 120), 24: (124, 92), 48: (96, 72), 96: (72, 54), 384: (38, 28), 1536: (20, 15)}
MAX_WELLS_WITH_NUMBERS = 96  # on larger plates, panels have no room for numbers at the edge
MARGIN = 0.07  # share of a panel, on each side of a curve


def plate_chart(rows: Sequence[Row], *, measure: str | None = None, wells: int | None = None) -> AnyChart:
    """Return a chart of small growth curves, one per well, all with the same axes. Wells without images are blank.

    rows: the well rows of one plate. wells: the number of wells of the plate, 6 to 1536; by default that of the
    smallest plate format. Up to 8 conditions have colours of their own. A missing value is a gap with a hollow mark,
    and a flagged value has a mark. Raises ValueError if the measure is unknown, if the rows are of several plates,
    and if no row has a well or a time.
    """
    placed, size = select_plate_rows(rows, wells)
    chosen, times = choose_measure(placed, measure), TimeAxis.from_timed_rows(placed)
    rows_by_well = {parse_well(of_well[0]["well"]): of_well for of_well in group_by_well(placed).values()}
    expected = find_common_times(rows_by_well.values(), times)
    labels = {name: "\n".join(wrap_text(name, 40)) for name in dict.fromkeys(condition_label(row) for row in placed)}
    series = {well: build_series(of_well, chosen, times, expected) for well, of_well in rows_by_well.items()}
    panel = _Panel.around([point for points in series.values() for point in points], times)
    records = [
        {
            "kind": "absent" if point["y"] is None else "flagged" if point["flags"] else "measured",
            "well": well.name,
            "condition": labels[condition_label(rows_by_well[well][0])],
            "across": panel.across(well, point["x"]),
            "down": panel.down(well, point["y"]),
            "foot": panel.down(well, panel.low),
            **point,
        }
        for well, points in series.items()
        for point in points
    ]
    frames = [
        {"left": column, "top": row, "fill": "#fafafa" if Well(row, column) in rows_by_well else "white"}
        for row in range(PLATE_FORMATS[size][0])
        for column in range(PLATE_FORMATS[size][1])
    ]
    layers = [
        *_curves(list(labels.values()), size, chosen, times),
        *_edges(panel, sorted(rows_by_well), size, chosen, times),
    ]
    width, height = PANELS[size]
    rows_of_plate, columns_of_plate = PLATE_FORMATS[size]
    plate = placed[0].get("plate")
    unit = " ".join(filter(None, (POWERS[chosen.power], chosen.unit)))
    hours = " h" if times.in_hours else ""
    note = (
        f"Each panel: {'time' if times.in_hours else 'time point'} {panel.first:g} to {panel.last:g}{hours} across, "
        f"{chosen.format(panel.low)} to {chosen.format(panel.high)} {unit}".rstrip()
        + " up"
    )
    return finish_chart(
        alt.layer(*layers).properties(width=width * columns_of_plate, height=height * rows_of_plate),
        f"{plate}: {chosen.title.lower()} of each well" if plate else f"{chosen.title} of each well",
        [note, *_explain_marks(records)],
        rows=records,
        wells=frames,
    )


def _explain_marks(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence on the marks that the chart has."""
    kinds = {record["kind"] for record in records}
    explanations = {"flagged": "triangle: a quality flag", "absent": "ring: no value"}
    sentence = "; ".join(text for kind, text in explanations.items() if kind in kinds)
    return [sentence[0].upper() + sentence[1:]] if sentence else []


class _Panel:
    """Converts a time and a value to coordinates in the panel of a well. Panels are 1 wide and 1 high.

    first, last: the times at the sides. low, high: the values at the bottom and the top.
    """

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = first, last, low, high

    @classmethod
    def around(cls, points: Sequence[dict[str, Any]], times: TimeAxis) -> "_Panel":
        """Return a panel that holds all points."""
        values = [point["y"] for point in points if point["y"] is not None]
        low, high = min([0.0, *values]), max([0.0, *values])
        return cls(*times.domain, -_round_up(-low), _round_up(high) if high > 0 or low < 0 else 1.0)

    def across(self, well: Well, time: float) -> float:
        """Return the horizontal coordinate, from the left edge of the plate."""
        share = (time - self.first) / (self.last - self.first)
        return round(well.column + MARGIN + (1 - 2 * MARGIN) * share, 5)

    def down(self, well: Well, value: float | None) -> float | None:
        """Return the vertical coordinate, from the top edge of the plate."""
        if value is None:
            return None
        share = (value - self.low) / (self.high - self.low)
        return round(well.row + 1 - MARGIN - (1 - 2 * MARGIN) * share, 5)


def _round_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 5, 6 and 8 times a power of ten."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _inline_chart(records: Sequence[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(records)))


def _curves(conditions: Sequence[str], size: int, measure: ChartMeasure, times: TimeAxis) -> list[alt.Chart]:
    rows, columns = PLATE_FORMATS[size]
    # Titles stand outside the numbers at the edge, which are not part of an axis.
    bare: dict[str, Any] = {"labels": False, "ticks": False, "domain": False}
    gap = 26 if size <= MAX_WELLS_WITH_NUMBERS else 8
    scale_x, scale_y = (alt.Scale(domain=domain, nice=False, zero=False) for domain in ([0, columns], [rows, 0]))
    x = alt.X("across:Q", scale=scale_x, axis=alt.Axis(title=times.title, titlePadding=gap, **bare))
    y = alt.Y("down:Q", scale=scale_y, axis=alt.Axis(title=measure.label, titlePadding=gap + 30, **bare))
    colour: Any = alt.value(COLOURS[0])
    if 1 < len(conditions) <= len(COLOURS):
        legend = alt.Legend(title=None, orient="bottom", columns=4, labelExpr=BREAK_LINES, offset=14)
        used = alt.Scale(domain=list(conditions), range=list(COLOURS[: len(conditions)]))
        colour = alt.Color("condition:N", sort=list(conditions), legend=legend, scale=used)
    tooltip = [
        alt.Tooltip("well:N", title="Well"),
        alt.Tooltip("condition:N", title="Condition"),
        alt.Tooltip("x:Q", title=times.title),
        alt.Tooltip(
            "y:Q", title=f"{measure.title} ({measure.unit})" if measure.unit else measure.title, format=",.4~r"
        ),
        alt.Tooltip("flags:N", title="Flags"),
    ]
    frames = chart_of("wells").transform_calculate(right="datum.left + 1", bottom="datum.top + 1")
    data, dot = chart_of(), 22 if size <= MAX_WELLS_WITH_NUMBERS else 8
    return [
        frames.mark_rect(stroke="#dcdcdc", strokeWidth=0.8).encode(
            fill=alt.Fill("fill:N", scale=None),
            x=alt.X("left:Q", scale=scale_x),
            x2="right:Q",
            y=alt.Y("top:Q", scale=scale_y),
            y2="bottom:Q",
        ),
        data.mark_line(strokeWidth=1.6 if size <= MAX_WELLS_WITH_NUMBERS else 1.1, strokeCap="round").encode(
            x=x, y=y, color=colour, detail="well:N"
        ),
        data.transform_filter("datum.kind == 'flagged'")
        .mark_point(shape="triangle-up", filled=True, color=INK, size=dot, opacity=1)
        .encode(x=x, y=y, tooltip=tooltip),
        data.transform_filter("datum.kind == 'absent'")
        .mark_point(filled=False, color=GREY, size=dot, strokeWidth=0.9, opacity=1)
        .encode(x=x, y=alt.Y("foot:Q", scale=scale_y), tooltip=tooltip),
        data.transform_filter("datum.kind == 'measured'")
        .mark_point(filled=True, opacity=0, size=dot)
        .encode(x=x, y=y, tooltip=tooltip),
    ]


def _edges(
    panel: _Panel, wells: Sequence[Well], size: int, measure: ChartMeasure, times: TimeAxis
) -> list[alt.Chart]:
    """Return the names of rows and columns and, if there is room, numbers at the left and the bottom."""
    rows, columns = PLATE_FORMATS[size]
    scale_x, scale_y = (alt.Scale(domain=domain, nice=False, zero=False) for domain in ([0, columns], [rows, 0]))
    edges = [
        *draw_column_names(size, scale_x),
        *draw_row_names(size, scale_y, offset=-36 if size <= MAX_WELLS_WITH_NUMBERS else -8),
    ]
    if size > MAX_WELLS_WITH_NUMBERS:
        return edges
    used_rows, used_columns = sorted({well.row for well in wells}), sorted({well.column for well in wells})
    # The numbers at the ends stay within their panel, so that those of neighbours do not overlap.
    levels: list[tuple[float, Literal["bottom", "top"]]] = [(panel.low, "bottom"), (panel.high, "top")]
    for value, baseline in levels:
        numbers = [{"at": panel.down(Well(row, 0), value), "text": measure.format(value)} for row in used_rows]
        marks = _inline_chart(numbers).mark_text(align="right", baseline=baseline, fontSize=9, color=GREY)
        edges.append(marks.encode(x=alt.value(-6), y=alt.Y("at:Q", scale=scale_y), text="text:N"))
    foot = PANELS[size][1] * rows + 5
    ends: list[tuple[float, Literal["left", "right"]]] = [(panel.first, "left"), (panel.last, "right")]
    for time, align in ends:
        numbers = [{"at": panel.across(Well(0, column), time), "text": f"{time:g}"} for column in used_columns]
        marks = _inline_chart(numbers).mark_text(align=align, baseline="top", fontSize=9, color=GREY)
        edges.append(marks.encode(x=alt.X("at:Q", scale=scale_x), y=alt.value(foot), text="text:N"))
    return edges
