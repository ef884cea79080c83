"""What the pictures of a whole plate share: which plate it is, and the names at its edges."""

from collections.abc import Sequence

import altair as alt

from spheroseg.export.charts.measures import Row
from spheroseg.export.charts.style import INK
from spheroseg.plate.wells import PLATE_FORMATS, parse_well, row_name, smallest_plate


def on_plate(rows: Sequence[Row], wells: int | None) -> tuple[list[Row], int]:
    """The rows that have a well, and how many wells their plate has. Raises ValueError, see `plate_chart`."""
    placed = [row for row in rows if row.get("well")]
    if not placed:
        raise ValueError("no row has a well: there is no plate to draw")
    if len(plates := {row.get("plate") for row in placed}) > 1:
        raise ValueError(f"rows of {len(plates)} plates: draw one after the other")
    return placed, wells or smallest_plate(parse_well(row["well"]) for row in placed)


def column_names(size: int, scale: alt.Scale) -> list[alt.Chart]:
    names = [{"at": column + 0.5, "text": str(column + 1)} for column in range(PLATE_FORMATS[size][1])]
    marks = alt.Chart(alt.InlineData(values=names)).mark_text(baseline="bottom", fontSize=_letters(size), color=INK)
    return [marks.encode(x=alt.X("at:Q", scale=scale), y=alt.value(-5), text="text:N")]


def row_names(size: int, scale: alt.Scale, *, offset: int) -> list[alt.Chart]:
    names = [{"at": row + 0.5, "text": row_name(row)} for row in range(PLATE_FORMATS[size][0])]
    marks = alt.Chart(alt.InlineData(values=names)).mark_text(
        align="right", baseline="middle", fontSize=_letters(size), color=INK
    )
    return [marks.encode(x=alt.value(offset), y=alt.Y("at:Q", scale=scale), text="text:N")]


def _letters(size: int) -> int:
    return 12 if size <= 96 else 11 if size <= 384 else 9
