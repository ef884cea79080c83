"""The growth curve of each well of a plate, at the place that the well has."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from spheroseg.export.charts.measures import POWERS, Measure, Row, Times, measure_of
from spheroseg.export.charts.plate_grid import column_names, on_plate, row_names
from spheroseg.export.charts.series import by_well, common_times, condition_of, series
from spheroseg.export.charts.style import BREAK_LINES, COLOURS, GREY, INK, AnyChart, finished, lines, of
from spheroseg.plate.wells import PLATE_FORMATS, Well, parse_well

# px of the panel of a well, across and down.
PANELS = {6: (200, 150), 12: (160, 120), 24: (124, 92), 48: (96, 72), 96: (72, 54), 384: (38, 28), 1536: (20, 15)}
TICKED = 96  # wells of the largest plate whose panels have room for numbers at the edge
MARGIN = 0.07  # of a panel, on each side of a curve


def plate_chart(rows: Sequence[Row], *, measure: str | None = None, wells: int | None = None) -> AnyChart:
    """Small growth curves in the layout of the plate, all with the same axes; wells without images stay blank.

    rows: the well rows of one plate. wells: of the plate, 6 to 1536; the smallest on which all are by default. Up to
    8 conditions are told apart by colours. Frames without a value are gaps with a hollow mark, flagged ones are
    marked. Raises ValueError for an unknown measure, for rows of several plates, and for none with a well or a time.
    """
    placed, size = on_plate(rows, wells)
    chosen, times = measure_of(placed, measure), Times.needed(placed)
    groups = {parse_well(of_well[0]["well"]): of_well for of_well in by_well(placed).values()}
    expected = common_times(groups.values(), times)
    labels = {name: "\n".join(lines(name, 40)) for name in dict.fromkeys(condition_of(row) for row in placed)}
    of_wells = {well: series(of_well, chosen, times, expected) for well, of_well in groups.items()}
    box = _Panel.around([point for points in of_wells.values() for point in points], times)
    records = [
        {
            "kind": "absent" if point["y"] is None else "flagged" if point["flags"] else "measured",
            "well": well.name,
            "condition": labels[condition_of(groups[well][0])],
            "across": box.across(well, point["x"]),
            "down": box.down(well, point["y"]),
            "foot": box.down(well, box.low),
            **point,
        }
        for well, points in of_wells.items()
        for point in points
    ]
    frames = [
        {"left": column, "top": row, "fill": "#fafafa" if Well(row, column) in groups else "white"}
        for row in range(PLATE_FORMATS[size][0])
        for column in range(PLATE_FORMATS[size][1])
    ]
    layers = [
        *_curves(list(labels.values()), size, chosen, times),
        *_edges(box, sorted(groups), size, chosen, times),
    ]
    width, height = PANELS[size]
    rows_of_plate, columns_of_plate = PLATE_FORMATS[size]
    plate = placed[0].get("plate")
    unit = " ".join(filter(None, (POWERS[chosen.power], chosen.unit)))
    hours = " h" if times.in_hours else ""
    note = (
        f"Each panel: {'time' if times.in_hours else 'time point'} {box.first:g} to {box.last:g}{hours} across, "
        f"{chosen.shown(box.low)} to {chosen.shown(box.high)} {unit}".rstrip()
        + " up"
    )
    return finished(
        alt.layer(*layers).properties(width=width * columns_of_plate, height=height * rows_of_plate),
        f"{plate}: {chosen.title.lower()} of each well" if plate else f"{chosen.title} of each well",
        [note, *_marks_in_words(records)],
        rows=records,
        wells=frames,
    )


def _marks_in_words(records: Sequence[dict[str, Any]]) -> list[str]:
    kinds = {record["kind"] for record in records}
    words = {"flagged": "triangle: a quality flag", "absent": "ring: no value"}
    said = "; ".join(text for kind, text in words.items() if kind in kinds)
    return [said[0].upper() + said[1:]] if said else []


class _Panel:
    """The place of a time and a value in the panel of a well; panels are 1 wide and 1 high."""

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = first, last, low, high

    @classmethod
    def around(cls, points: Sequence[dict[str, Any]], times: Times) -> "_Panel":
        values = [point["y"] for point in points if point["y"] is not None]
        low, high = min([0.0, *values]), max([0.0, *values])
        return cls(*times.domain, -_round_up(-low), _round_up(high) if high > 0 or low < 0 else 1.0)

    def across(self, well: Well, time: float) -> float:
        share = (time - self.first) / (self.last - self.first)
        return round(well.column + MARGIN + (1 - 2 * MARGIN) * share, 5)

    def down(self, well: Well, value: float | None) -> float | None:
        if value is None:
            return None
        share = (value - self.low) / (self.high - self.low)
        return round(well.row + 1 - MARGIN - (1 - 2 * MARGIN) * share, 5)


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _layer(records: Sequence[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(records)))


def _curves(conditions: Sequence[str], size: int, measure: Measure, times: Times) -> list[alt.Chart]:
    rows, columns = PLATE_FORMATS[size]
    # Titles stand beyond the numbers at the edge, which are no axis of their own.
    bare: dict[str, Any] = {"labels": False, "ticks": False, "domain": False}
    gap = 26 if size <= TICKED else 8
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
    boxes = of("wells").transform_calculate(right="datum.left + 1", bottom="datum.top + 1")
    data, dot = of(), 22 if size <= TICKED else 8
    return [
        boxes.mark_rect(stroke="#dcdcdc", strokeWidth=0.8).encode(
            fill=alt.Fill("fill:N", scale=None),
            x=alt.X("left:Q", scale=scale_x),
            x2="right:Q",
            y=alt.Y("top:Q", scale=scale_y),
            y2="bottom:Q",
        ),
        data.mark_line(strokeWidth=1.6 if size <= TICKED else 1.1, strokeCap="round").encode(
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


def _edges(box: _Panel, wells: Sequence[Well], size: int, measure: Measure, times: Times) -> list[alt.Chart]:
    """Names of rows and columns and, where there is room, the numbers of the axes at the left and at the bottom."""
    rows, columns = PLATE_FORMATS[size]
    scale_x, scale_y = (alt.Scale(domain=domain, nice=False, zero=False) for domain in ([0, columns], [rows, 0]))
    edges = [*column_names(size, scale_x), *row_names(size, scale_y, offset=-36 if size <= TICKED else -8)]
    if size > TICKED:
        return edges
    used_rows, used_columns = sorted({well.row for well in wells}), sorted({well.column for well in wells})
    # The numbers at the ends keep within their panel, so that those of two neighbours do not run into each other.
    levels: list[tuple[float, Literal["bottom", "top"]]] = [(box.low, "bottom"), (box.high, "top")]
    for value, baseline in levels:
        numbers = [{"place": box.down(Well(row, 0), value), "text": measure.shown(value)} for row in used_rows]
        marks = _layer(numbers).mark_text(align="right", baseline=baseline, fontSize=9, color=GREY)
        edges.append(marks.encode(x=alt.value(-6), y=alt.Y("place:Q", scale=scale_y), text="text:N"))
    foot = PANELS[size][1] * rows + 5
    ends: list[tuple[float, Literal["left", "right"]]] = [(box.first, "left"), (box.last, "right")]
    for time, align in ends:
        numbers = [{"place": box.across(Well(0, column), time), "text": f"{time:g}"} for column in used_columns]
        marks = _layer(numbers).mark_text(align=align, baseline="top", fontSize=9, color=GREY)
        edges.append(marks.encode(x=alt.X("place:Q", scale=scale_x), y=alt.value(foot), text="text:N"))
    return edges
