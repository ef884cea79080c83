"""Conditions and corrections laid over what the names say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spheroseg.plate.conditions import NO_CONDITION, Row
from spheroseg.plate.names import Picture, Place, Preview
from spheroseg.plate.wells import Well

MOST_NAMED = 12


def with_conditions(preview: Preview, rows: Sequence[Row]) -> Preview:
    """The same preview, corrected, with conditions.

    A row for an image goes before one for its well; a row that names the plate before one that does not. Rows that
    meet no picture, and wells that meet no row, are in the notes.
    """
    used: set[int] = set()
    by_image = {row.image: row for row in rows if row.image}
    by_place = {(row.plate, what): row for row in rows if not row.image for what in (row.wells or (row.sample,))}
    pictures = []
    for picture in preview.pictures:
        own = by_image.get(picture.name) or by_image.get(picture.name.rpartition("/")[2])
        if own:
            used.add(own.line)
            picture = _corrected(picture, own, preview)
        condition = own.condition if own else NO_CONDITION
        if picture.place and not condition:
            of_well = _row_of(picture.place, by_place)
            if of_well:
                used.add(of_well.line)
                condition = of_well.condition
        pictures.append(replace(picture, condition=condition))
    return replace(preview, pictures=tuple(pictures), notes=(*preview.notes, *_notes(pictures, rows, used)))


def _corrected(picture: Picture, row: Row, preview: Preview) -> Picture:
    if not row.place:
        return picture
    changes: dict[str, Any] = dict(row.place)
    place = replace(picture.place or Place(), **changes)
    if place.well is None and not place.sample:
        return picture
    if place.well and preview.wells and not place.well.is_on(preview.wells):
        return replace(picture, place=None, reason=f"{place.well} is not on a plate of {preview.wells} wells")
    return replace(picture, place=place, reason="")


def _row_of(place: Place, rows: Mapping[tuple[str | None, Well | str | None], Row]) -> Row | None:
    what = place.well or place.sample
    return rows.get((place.plate, what)) or rows.get((None, what))


def _notes(pictures: Sequence[Picture], rows: Sequence[Row], used: set[int]) -> list[str]:
    notes = []
    bare = dict.fromkeys(
        f"{picture.place.plate} {picture.place.label}".strip()
        for picture in pictures
        if picture.place and not picture.condition
    )
    if bare:
        notes.append(f"without a condition: {_some(list(bare))}")
    idle = [_name(row) for row in rows if row.line not in used]
    if idle:
        notes.append(f"in the table of conditions, but not here: {_some(idle)}")
    return notes


def _name(row: Row) -> str:
    what = row.image or row.sample or ", ".join(well.name for well in row.wells[:1])
    if len(row.wells) > 1:
        what = f"{row.wells[0]}-{row.wells[-1]}"
    return f"{row.plate or ''} {what}".strip() + f" (line {row.line})"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
