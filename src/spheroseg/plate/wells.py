"""Wells of microplates, named as on the plate: A01 is in the first row and the first column."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from spheroseg.errors import BadPlate

# Number of wells: (rows, columns).
PLATE_FORMATS = {6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}
MAX_ROWS, MAX_COLUMNS = PLATE_FORMATS[1536]

_WELL = re.compile(r"([A-Za-z]{1,2})(\d{1,3})", re.ASCII)
_RANGE = re.compile(r"\s*([A-Za-z]{1,2}\d{1,3})\s*[-:]\s*([A-Za-z]{1,2}\d{1,3})\s*", re.ASCII)


@dataclass(frozen=True, order=True)
class Well:
    """`row` and `column` count from 0. Raises BadPlate if no plate has such a well."""

    row: int
    column: int

    def __post_init__(self) -> None:
        if not (0 <= self.row < MAX_ROWS and 0 <= self.column < MAX_COLUMNS):
            raise BadPlate("no such well: plates go from A01 to AF48")

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """Row letter and column from 1, with two digits: A01, AF48."""
        return f"{row_name(self.row)}{self.column + 1:02d}"

    def is_on(self, wells: int) -> bool:
        """Return whether a plate of `wells` wells has this well."""
        rows, columns = PLATE_FORMATS[wells]
        return self.row < rows and self.column < columns


def row_name(row: int) -> str:
    """Return the letters of a row, which counts from 0: A to Z, then AA to AF."""
    return chr(ord("A") + row) if row < 26 else "A" + chr(ord("A") + row - 26)


def parse_row(text: str) -> int:
    """Return the row, from 0, that is written as A, b, AA or a number from 1. Raises BadPlate if there is none."""
    text = text.strip()
    if text.isdecimal():
        row = int(text) - 1
    elif re.fullmatch(r"[A-Za-z]|[Aa][A-Fa-f]", text):
        row = 26 * (len(text) - 1) + ord(text[-1].upper()) - ord("A")
    else:
        raise BadPlate(f"{text!r} is not a row: rows are A to Z and AA to AF, or numbers from 1")
    if not 0 <= row < MAX_ROWS:
        raise BadPlate(f"there is no row {text}: the largest plate has rows 1 to {MAX_ROWS}")
    return row


def parse_well(text: str) -> Well:
    """Return the well that is written as A1, a01, A001 or AA07. Raises BadPlate if there is no such well."""
    match = _WELL.fullmatch(text.strip())
    if not match:
        raise BadPlate(f"{text!r} is not a well: wells are named like A01, H12 or AA07")
    try:
        return Well(parse_row(match[1]), int(match[2]) - 1)
    except BadPlate:
        raise BadPlate(f"there is no well {text.strip()}: the largest plate goes from A01 to AF48") from None


def parse_wells(text: str) -> list[Well]:
    """Return one well, or all in the rectangle between two: A01-B12. Raises BadPlate if the text is neither."""
    match = _RANGE.fullmatch(text)
    if not match:
        return [parse_well(text)]
    first, last = parse_well(match[1]), parse_well(match[2])
    if first.row > last.row or first.column > last.column:
        raise BadPlate(f"{text.strip()!r} goes backwards: name the upper left well first, then the lower right one")
    return [
        Well(row, column) for row in range(first.row, last.row + 1) for column in range(first.column, last.column + 1)
    ]


def smallest_plate(wells: Iterable[Well]) -> int:
    """Return the number of wells of the smallest plate format that has all these wells."""
    wells = list(wells)
    return next(size for size in PLATE_FORMATS if all(well.is_on(size) for well in wells))
