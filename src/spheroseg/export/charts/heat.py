"""Heat map of a plate at one time: the value of each well as a colour and as a number."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import ChartMeasure, Row, choose_measure
from spheroseg.export.charts.plate_grid import draw_column_names, draw_row_names, select_plate_rows
from spheroseg.export.charts.series import condition_label
from spheroseg.export.charts.style import INK, MISSING, ROWS, AnyChart, finish_chart
from spheroseg.export.charts.time_axis import TimeAxis
from spheroseg.plate.numbers import finite_number
from spheroseg.plate.wells import PLATE_FORMATS, parse_well

# By the number of wells: width, height and font size of a well in px.
CELL_SIZES = {
    6: (110, 80, 16),
    12: (96, 70, 15),
    24: (80, 60, 14),
    48: (68, 50, 13),
    96: (56, 40, 12),
    384: (40, 28, 10),
}
SMALLEST_CELL = (27, 18, 8)  # for 1536 wells
# Above this share of the colour scale (viridis) black text is easier to read, below it white text.
MIN_SHARE_OF_BLACK_TEXT = 0.62


def heat_map(
    rows: Sequence[Row], *, time: float | None = None, measure: str | None = None, wells: int | None = None
) -> AnyChart:
    """Return a heat map of one plate at one time.

    rows: the well rows of the plate, of all times. time: in hours, or the number of the time point if there are no
    hours; by default the last one. A well without a value at this time is grey with a cross, one without any image is
    blank, and one with a quality flag has a dot. Raises ValueError as `plate_chart` does, and if no row has this
    time.
    """
    placed, size = select_plate_rows(rows, wells)
    chosen, times = choose_measure(placed, measure), TimeAxis.from_timed_rows(placed)
    shown = times.values[-1] if time is None else float(time)
    if shown not in times.values:
        known = ", ".join(times.describe(value) for value in times.values)
        raise ValueError(f"the plate has no images at {times.describe(shown)}; it has {known}")
    at_time = {row["well"]: row for row in placed if times.at(row) == shown}
    cells = [
        _cell(well, at_time.get(well), chosen, next(row for row in placed if row["well"] == well))
        for well in dict.fromkeys(row["well"] for row in placed)
    ]
    values = [cell["value"] for cell in cells if cell["value"] is not None]
    domain = _domain(values)
    for cell in cells:
        share = None if cell["value"] is None else (cell["value"] - domain[0]) / (domain[1] - domain[0])
        cell["ink"] = INK if share is None or share > MIN_SHARE_OF_BLACK_TEXT else "white"
    width, height, _ = CELL_SIZES.get(size, SMALLEST_CELL)
    rows_of_plate, columns_of_plate = PLATE_FORMATS[size]
    plate = placed[0].get("plate")
    title = f"{chosen.title} at {times.describe(shown)}"
    return finish_chart(
        alt.layer(*_layers(cells, domain, size, chosen), data=alt.NamedData(ROWS)).properties(
            width=width * columns_of_plate, height=height * rows_of_plate
        ),
        f"{plate}: {title[0].lower()}{title[1:]}" if plate else title,
        _notes(cells),
        rows=cells,
    )


def _cell(well: str, row: Row | None, measure: ChartMeasure, any_row: Row) -> dict[str, Any]:
    position = parse_well(well)
    value = finite_number(row.get(measure.column)) if row else None
    flags = str(row.get("qc_flags") or "") if row else "no image"
    return {
        "well": well,
        "row": position.row,
        "col": position.column,
        "value": value,
        "text": "×" if value is None else measure.format(value),
        "condition": condition_label(any_row),
        "flags": flags.replace(";", ", "),
    }


def _domain(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    # Wells that are all equal get the middle colour, and not the colours of rounding errors.
    min_span = 1e-6 * max(abs(low), abs(high))
    return (low, high) if high - low > min_span else (low - (min_span or 0.5), high + (min_span or 0.5))


def _layers(
    cells: Sequence[dict[str, Any]], domain: tuple[float, float], size: int, measure: ChartMeasure
) -> list[alt.Chart]:
    rows, columns = PLATE_FORMATS[size]
    width, height, font_size = CELL_SIZES.get(size, SMALLEST_CELL)
    bare = alt.Axis(title=None, labels=False, ticks=False, domain=False)
    scale_x, scale_y = (alt.Scale(domain=domain, nice=False, zero=False) for domain in ([0, columns], [rows, 0]))
    left, top = alt.X("col:Q", scale=scale_x, axis=bare), alt.Y("row:Q", scale=scale_y, axis=bare)
    middle_x, middle_y = alt.X("middle_x:Q", scale=scale_x, axis=bare), alt.Y("middle_y:Q", scale=scale_y, axis=bare)
    base = alt.Chart().transform_calculate(
        right="datum.col + 1", bottom="datum.row + 1", middle_x="datum.col + 0.5", middle_y="datum.row + 0.5"
    )
    tooltip = [
        alt.Tooltip("well:N", title="Well"),
        alt.Tooltip("condition:N", title="Condition"),
        alt.Tooltip(
            "value:Q", title=f"{measure.title} ({measure.unit})" if measure.unit else measure.title, format=",.4~r"
        ),
        alt.Tooltip("flags:N", title="Flags"),
    ]
    shade = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="viridis", domain=list(domain), nice=False),
        legend=alt.Legend(
            title=measure.label,
            titleLimit=0,
            orient="right",
            titleOrient="right",
            gradientLength=min(240, height * rows - 10),
            gradientThickness=12,
            tickCount=5,
            labelExpr=f"format(datum.value / 1e{measure.power}, '~g')",
        ),
    )
    wells = base.mark_rect(stroke="white", strokeWidth=1.5 if size <= 384 else 0.7)
    edges = {"x": left, "x2": "right:Q", "y": top, "y2": "bottom:Q", "tooltip": tooltip}
    numbers = base.mark_text(baseline="middle", fontSize=font_size)
    dots = base.transform_filter("datum.value != null && datum.flags != ''").transform_calculate(
        dot_x=f"datum.col + 1 - {5 / width}", dot_y=f"datum.row + {5 / height}"
    )
    return [
        wells.transform_filter("datum.value == null").encode(fill=alt.value(MISSING), **edges),
        wells.transform_filter("datum.value != null").encode(color=shade, **edges),
        numbers.encode(x=middle_x, y=middle_y, text="text:N", color=alt.Color("ink:N", scale=None)),
        dots.mark_point(filled=True, opacity=1, size=18 if size <= 96 else 7).encode(
            x=alt.X("dot_x:Q", scale=scale_x), y=alt.Y("dot_y:Q", scale=scale_y), color=alt.Color("ink:N", scale=None)
        ),
        *draw_column_names(size, scale_x),
        *draw_row_names(size, scale_y, offset=-8),
    ]


def _notes(cells: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    if any(cell["value"] is None for cell in cells):
        notes.append("× no value at this time")
    if any(cell["value"] is not None and cell["flags"] for cell in cells):
        notes.append("dot: a quality flag")
    return ["; ".join(notes)] if notes else []
