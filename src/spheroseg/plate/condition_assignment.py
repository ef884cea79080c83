"""Assigns conditions to the images of a preview, and corrects the positions that were read from their names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spheroseg.plate.conditions import NO_CONDITION, ConditionRow
from spheroseg.plate.position import NO_POSITION, PlatePosition
from spheroseg.plate.preview import Preview, PreviewImage
from spheroseg.plate.wells import Well

MAX_LISTED_NAMES = 12


def assign_conditions(preview: Preview, rows: Sequence[ConditionRow]) -> Preview:
    """Return the preview with corrected positions and with conditions.

    rows: the rows of a table of conditions. A row for an image takes precedence over a row for its well, and a row
    with a plate over a row without one. The notes list rows without an image, and wells without a row.
    """
    used_lines: set[int] = set()
    by_image = {row.image: row for row in rows if row.image}
    by_well = {(row.plate, well): row for row in rows if not row.image for well in (row.wells or (row.sample,))}
    images = []
    for image in preview.images:
        image_row = by_image.get(image.name) or by_image.get(image.name.rpartition("/")[2])
        if image_row:
            used_lines.add(image_row.line)
            image = _correct(image, image_row, preview.wells)
        condition = image_row.condition if image_row else NO_CONDITION
        if image.position and not condition:
            well_row = _find_row(image.position, by_well)
            if well_row:
                used_lines.add(well_row.line)
                condition = well_row.condition
        images.append(replace(image, condition=condition))
    return replace(preview, images=tuple(images), notes=(*preview.notes, *_notes(images, rows, used_lines)))


def _correct(image: PreviewImage, row: ConditionRow, wells: int | None) -> PreviewImage:
    if not row.corrections:
        return image
    changes: dict[str, Any] = dict(row.corrections)
    position = replace(image.position or NO_POSITION, **changes)
    if position.well is None and not position.sample:
        return image
    if position.well and wells and not position.well.is_on(wells):
        return replace(image, position=None, reason=f"{position.well} is not on a plate of {wells} wells")
    return replace(image, position=position, reason="")


def _find_row(
    position: PlatePosition, rows: Mapping[tuple[str | None, Well | str | None], ConditionRow]
) -> ConditionRow | None:
    well = position.well or position.sample
    return rows.get((position.plate, well)) or rows.get((None, well))


def _notes(images: Sequence[PreviewImage], rows: Sequence[ConditionRow], used_lines: set[int]) -> list[str]:
    notes = []
    untreated = dict.fromkeys(
        f"{image.position.plate} {image.position.well_or_sample}".strip()
        for image in images
        if image.position and not image.condition
    )
    if untreated:
        notes.append(f"without a condition: {_list_names(list(untreated))}")
    unused = [_describe(row) for row in rows if row.line not in used_lines]
    if unused:
        notes.append(f"in the table of conditions, but not here: {_list_names(unused)}")
    return notes


def _describe(row: ConditionRow) -> str:
    what = row.image or row.sample or ", ".join(well.name for well in row.wells[:1])
    if len(row.wells) > 1:
        what = f"{row.wells[0]}-{row.wells[-1]}"
    return f"{row.plate or ''} {what}".strip() + f" (line {row.line})"


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(names[:MAX_LISTED_NAMES]) + more
