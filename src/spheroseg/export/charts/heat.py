"""A plate at one time: the value of each well as a colour and as a number."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from spheroseg.export.charts.measures import Measure, Row, Times, measure_of, number
from spheroseg.export.charts.plate_grid import column_names, on_plate, row_names
from spheroseg.export.charts.series import condition_of
from spheroseg.export.charts.style import INK, MISSING, ROWS, AnyChart, finished
from spheroseg.plate.wells import PLATE_FORMATS, parse_well

# px of a well, across and down, and of its number.
CELLS = {6: (110, 80, 16), 12: (96, 70, 15), 24: (80, 60, 14), 48: (68, 50, 13), 96: (56, 40, 12), 384: (40, 28, 10)}
SMALL_CELLS = (27, 18, 8)  # of 1536 wells
# Light from dark in viridis: white is read better on the darker part.
LIGHT_FROM = 0.62


def heat_map(
    rows: Sequence[Row], *, time: float | None = None, measure: str | None = None, wells: int | None = None
) -> AnyChart:
    """The wells of one plate at `time` (hours; the time point where there are no hours), the last one by default.

    rows: the well rows of one plate, of all times. A well that has no value then is grey with a cross, one without
    any image is blank, one with a quality flag has a dot. Raises ValueError as `plate_chart` does, and for a
    time that no row has.
    """
    placed, size = on_plate(rows, wells)
    chosen, times = measure_of(placed, measure), Times.needed(placed)
    shown = times.values[-1] if time is None else float(time)
    if shown not in times.values:
        known = ", ".join(times.called(value) for value in times.values)
        raise ValueError(f"the plate has no images at {times.called(shown)}; it has {known}")
    at_time = {row["well"]: row for row in placed if times.at(row) == shown}
    cells = [
        _cell(well, at_time.get(well), chosen, next(row for row in placed if row["well"] == well))
        for well in dict.fromkeys(row["well"] for row in placed)
    ]
    values = [cell["value"] for cell in cells if cell["value"] is not None]
    domain = _domain(values)
    for cell in cells:
        share = None if cell["value"] is None else (cell["value"] - domain[0]) / (domain[1] - domain[0])
        cell["ink"] = INK if share is None or share > LIGHT_FROM else "white"
    width, height, _ = CELLS.get(size, SMALL_CELLS)
    rows_of_plate, columns_of_plate = PLATE_FORMATS[size]
    plate = placed[0].get("plate")
    title = f"{chosen.title} at {times.called(shown)}"
    return finished(
        alt.layer(*_layers(cells, domain, size, chosen), data=alt.NamedData(ROWS)).properties(
            width=width * columns_of_plate, height=height * rows_of_plate
        ),
        f"{plate}: {title[0].lower()}{title[1:]}" if plate else title,
        _notes(cells),
        rows=cells,
    )


def _cell(well: str, row: Row | None, measure: Measure, any_row: Row) -> dict[str, Any]:
    place = parse_well(well)
    value = number(row.get(measure.column)) if row else None
    flags = str(row.get("qc_flags") or "") if row else "no image"
    return {
        "well": well,
        "row": place.row,
        "col": place.column,
        "value": value,
        "text": "×" if value is None else measure.shown(value),
        "condition": condition_of(any_row),
        "flags": flags.replace(";", ", "),
    }


def _domain(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    # Wells that are all the same get one colour, of the middle, and not the colours of rounding errors.
    least = 1e-6 * max(abs(low), abs(high))
    return (low, high) if high - low > least else (low - (least or 0.5), high + (least or 0.5))


def _layers(
    cells: Sequence[dict[str, Any]], domain: tuple[float, float], size: int, measure: Measure
) -> list[alt.Chart]:
    rows, columns = PLATE_FORMATS[size]
    width, height, letters = CELLS.get(size, SMALL_CELLS)
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
    numbers = base.mark_text(baseline="middle", fontSize=letters)
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
        *column_names(size, scale_x),
        *row_names(size, scale_y, offset=-8),
    ]


def _notes(cells: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    if any(cell["value"] is None for cell in cells):
        notes.append("× no value at this time")
    if any(cell["value"] is not None and cell["flags"] for cell in cells):
        notes.append("dot: a quality flag")
    return ["; ".join(notes)] if notes else []
