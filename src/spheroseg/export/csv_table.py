"""Tables as CSV that spreadsheets open safely."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Spreadsheets take a text that begins with one of these for a formula and compute it.
FORMULA_SIGNS = ("=", "+", "-", "@")

Row = Mapping[str, Any]


def encode_csv(rows: Sequence[Row], *, leading: Sequence[str]) -> bytes:
    """Return a CSV file in UTF-8 with a header.

    leading: the first columns, which are there even if there are no rows. Further columns come from the rows.
    """
    columns = _collect_columns(rows, leading)
    return encode_csv_header(columns) + encode_csv_rows(rows, columns)


def encode_csv_header(columns: Sequence[str]) -> bytes:
    """Return the header line."""
    return encode_csv_rows([dict(zip(columns, columns, strict=True))], columns)


def encode_csv_rows(rows: Iterable[Row], columns: Sequence[str]) -> bytes:
    """Return the lines of the rows without a header. A column that a row lacks is empty in its line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Python's csv does not quote a lone CR, and readers take it for the end of the line.
    value = value.replace("\r", " ")
    return f"'{value}" if value.lstrip().startswith(FORMULA_SIGNS) else value


def _collect_columns(rows: Iterable[Row], leading: Sequence[str]) -> list[str]:
    """Return all columns of all rows, in the order of the longest row, which has columns in µm behind those in px."""
    longest: Row = max(rows, key=len, default={})
    names = dict.fromkeys([*leading, *longest])
    for row in rows:
        names.update(dict.fromkeys(row))
    return list(names)
