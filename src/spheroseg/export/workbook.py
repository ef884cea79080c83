"""Tables as one file for spreadsheets, with numbers as numbers and text as text."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import xlsxwriter

from spheroseg.export.columns import ColumnType, describe_column

MAX_SHEET_ROWS = 1_048_576  # with the header
MAX_CELL_CHARACTERS = 32_767
MIN_WIDTH_CHARACTERS, MAX_WIDTH_CHARACTERS = 8, 45
MAX_ROWS_FOR_WIDTH = 200
# A constant time: the same tables give the same bytes, whenever they are written.
CREATED = datetime(1980, 1, 1)

Rows = Sequence[Mapping[str, Any]]


def encode_workbook(sheets: Mapping[str, Rows], *, max_rows: int = MAX_SHEET_ROWS) -> bytes:
    """Return an .xlsx file with a sheet for each table that has rows.

    The columns of a sheet are those of the first row of its table. None, NaN and infinity are empty cells. A table
    with more than `max_rows` rows, header included, continues in the sheets name_2, name_3 and so on.
    """
    buffer = io.BytesIO()
    # Row by row: a plate of 1,536 wells in memory would be gigabytes of cells.
    with xlsxwriter.Workbook(buffer, {"constant_memory": True, "strings_to_urls": False}) as book:
        book.set_properties({"created": CREATED})
        formats = _Formats(book)
        for name, rows in sheets.items():
            for number, part in enumerate(_split(rows, max_rows - 1), start=1):
                _write_sheet(book.add_worksheet(name if number == 1 else f"{name}_{number}"), part, formats)
    return buffer.getvalue()


class _Formats:
    """The cell formats of a workbook, each made once."""

    def __init__(self, book: xlsxwriter.Workbook) -> None:
        self.head = book.add_format({"bold": True, "bottom": 1})
        self._book = book
        self._made: dict[str, Any] = {}

    def of_column(self, name: str) -> Any:
        number_format = describe_column(name).number_format
        if number_format and number_format not in self._made:
            self._made[number_format] = self._book.add_format({"num_format": number_format})
        return self._made.get(number_format)


def _split(rows: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _write_sheet(sheet: Any, rows: Rows, formats: _Formats) -> None:
    names = list(rows[0])
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, len(rows), len(names) - 1)
    # A name like 0012 is a text on purpose.
    sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{len(rows) + 1}"})
    for index, name in enumerate(names):
        sheet.set_column(index, index, _width(name, rows))
        sheet.write_string(0, index, name, formats.head)
    column_formats = [formats.of_column(name) for name in names]
    for line, row in enumerate(rows, start=1):
        for index, name in enumerate(names):
            _write_cell(sheet, line, index, row.get(name), column_formats[index])


def _write_cell(sheet: Any, line: int, index: int, value: Any, number_format: Any) -> None:
    if isinstance(value, str):
        if value:
            sheet.write_string(line, index, value[:MAX_CELL_CHARACTERS])
    elif isinstance(value, bool):
        sheet.write_boolean(line, index, value)
    elif value is not None and math.isfinite(value):
        sheet.write_number(line, index, value, number_format)


def _width(name: str, rows: Rows) -> int:
    """Return the width of a column in characters."""
    longest = len(name) + 3  # for the button of the filter
    if describe_column(name).type is ColumnType.TEXT:
        longest = max([longest, *(len(str(row.get(name) or "")) for row in islice(rows, MAX_ROWS_FOR_WIDTH))])
    return min(max(longest, MIN_WIDTH_CHARACTERS), MAX_WIDTH_CHARACTERS)
