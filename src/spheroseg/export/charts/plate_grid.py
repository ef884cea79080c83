"""The grid of a plate in charts: its rows, its size, and the names at its edges."""

from collections.abc import Sequence

import altair as alt

from spheroseg.export.charts.measures import Row
from spheroseg.export.charts.style import INK
from spheroseg.plate.wells import PLATE_FORMATS, parse_well, row_name, smallest_plate


def select_plate_rows(rows: Sequence[Row], wells: int | None) -> tuple[list[Row], int]:
    """Return the rows that have a well, and the number of wells of their plate.

    wells: this number, if known; by default that of the smallest plate format. Raises ValueError if no row has a
    well, and if the rows are of several plates.
    """
    placed = [row for row in rows if row.get("well")]
    if not placed:
        raise ValueError("no row has a well: there is no plate to draw")
    if len(plates := {row.get("plate") for row in placed}) > 1:
        raise ValueError(f"the rows are of {len(plates)} plates: draw one plate at a time")
    return placed, wells or smallest_plate(parse_well(row["well"]) for row in placed)


def draw_column_names(size: int, scale: alt.Scale) -> list[alt.Chart]:
    """Return the numbers of the columns, above a plate of `size` wells."""
    names = [{"at": column + 0.5, "text": str(column + 1)} for column in range(PLATE_FORMATS[size][1])]
    marks = alt.Chart(alt.InlineData(values=names)).mark_text(baseline="bottom", fontSize=_font_size(size), color=INK)
    return [marks.encode(x=alt.X("at:Q", scale=scale), y=alt.value(-5), text="text:N")]


def draw_row_names(size: int, scale: alt.Scale, *, offset: int) -> list[alt.Chart]:
    """Return the letters of the rows, `offset` px from the left edge of a plate of `size` wells."""
    names = [{"at": row + 0.5, "text": row_name(row)} for row in range(PLATE_FORMATS[size][0])]
    marks = alt.Chart(alt.InlineData(values=names)).mark_text(
        align="right", baseline="middle", fontSize=_font_size(size), color=INK
    )
    return [marks.encode(x=alt.value(offset), y=alt.Y("at:Q", scale=scale), text="text:N")]


def _font_size(size: int) -> int:
    return 12 if size <= 96 else 11 if size <= 384 else 9
