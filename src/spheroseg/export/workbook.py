"""Tables as one file for spreadsheets, with numbers as numbers and every text as text."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import xlsxwriter

from spheroseg.export.columns import Kind, column

MOST_ROWS = 1_048_576  # of a sheet, with its header
MOST_CHARACTERS = 32_767  # of a cell
NARROWEST, WIDEST = 8, 45  # characters
LOOKED_AT = 200  # rows, for the width of a column
# The same tables make the same bytes, whenever they are written.
CREATED = datetime(1980, 1, 1)

Rows = Sequence[Mapping[str, Any]]


def encode_workbook(sheets: Mapping[str, Rows], *, most_rows: int = MOST_ROWS) -> bytes:
    """An .xlsx with a sheet for each table that has rows.

    The columns of a table are those of its first row; None and what is no number are empty cells. What one sheet
    cannot hold goes on in name_2, name_3.
    """
    buffer = io.BytesIO()
    # Row by row: a plate of 1,536 wells in memory would be gigabytes of cells.
    with xlsxwriter.Workbook(buffer, {"constant_memory": True, "strings_to_urls": False}) as book:
        book.set_properties({"created": CREATED})
        formats = _Formats(book)
        for name, rows in sheets.items():
            for number, part in enumerate(_parts(rows, most_rows - 1), start=1):
                _write(book.add_worksheet(name if number == 1 else f"{name}_{number}"), part, formats)
    return buffer.getvalue()


class _Formats:
    def __init__(self, book: xlsxwriter.Workbook) -> None:
        self.head = book.add_format({"bold": True, "bottom": 1})
        self._book = book
        self._made: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        show = column(name).show
        if show and show not in self._made:
            self._made[show] = self._book.add_format({"num_format": show})
        return self._made.get(show)


def _parts(rows: Rows, most: int) -> Iterator[Rows]:
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _write(sheet: Any, rows: Rows, formats: _Formats) -> None:
    names = list(rows[0])
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, len(rows), len(names) - 1)
    # A file name like 0012 is no number that somebody forgot to type as one.
    sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{len(rows) + 1}"})
    for place, name in enumerate(names):
        sheet.set_column(place, place, _width(name, rows))
        sheet.write_string(0, place, name, formats.head)
    shown = [formats.of(name) for name in names]
    for line, row in enumerate(rows, start=1):
        for place, name in enumerate(names):
            _write_cell(sheet, line, place, row.get(name), shown[place])


def _write_cell(sheet: Any, line: int, place: int, value: Any, shown: Any) -> None:
    if isinstance(value, str):
        if value:
            sheet.write_string(line, place, value[:MOST_CHARACTERS])
    elif isinstance(value, bool):
        sheet.write_boolean(line, place, value)
    elif value is not None and math.isfinite(value):
        sheet.write_number(line, place, value, shown)


def _width(name: str, rows: Rows) -> int:
    longest = len(name) + 3  # the button of the filter
    if column(name).kind is Kind.TEXT:
        longest = max([longest, *(len(str(row.get(name) or "")) for row in islice(rows, LOOKED_AT))])
    return min(max(longest, NARROWEST), WIDEST)
