"""A table by a person: what is in each well, and what the names say wrongly."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from spheroseg.errors import BadPlate
from spheroseg.plate.wells import Well, parse_row, parse_wells

MOST_ERRORS = 20
# The words of other programs and of the bench, for ours.
_SAME = {
    "treatment": "drug",
    "compound": "drug",
    "dose": "concentration",
    "conc": "concentration",
    "group": "condition",
    "rep": "replicate",
    "col": "column",
    "file": "image",
    "filename": "image",
    "name": "image",
    "time": "time_h",
    "well_position": "well",
    "plate_name": "plate",
}
# What `spheroseg plate preview --csv` writes and a person need not keep right.
_IGNORED = frozenset({"problem"})
_PLACE = ("plate", "well", "row", "column", "sample", "image", "site", "time_h", "time_point", "channel", "z")
_DOSE = ("condition", "drug", "concentration", "unit", "replicate")
_UNIT_IN_HEADER = re.compile(r"(.+?)\s*[(\[](.+?)[)\]]|(concentration|dose|conc)_([a-zµμ%/]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Condition:
    """What was done to a well. `more` are the columns that have no meaning here, in their order."""

    name: str = ""
    drug: str = ""
    concentration: float | None = None
    unit: str = ""
    replicate: str = ""
    more: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self != NO_CONDITION

    @property
    def label(self) -> str:
        """The condition by its name, or else by drug and concentration; without replicate."""
        if self.name:
            return self.name
        amount = "" if self.concentration is None else f"{self.concentration:g} {self.unit}".strip()
        return " ".join(filter(None, [self.drug, amount]))


NO_CONDITION = Condition()


@dataclass(frozen=True)
class Row:
    """One line: of an image, of wells, or of a sample. `place` is what it corrects of an image's place."""

    line: int
    condition: Condition
    image: str = ""
    plate: str | None = None
    wells: tuple[Well, ...] = ()
    sample: str | None = None
    place: Mapping[str, object] = field(default_factory=dict)


def read_conditions(data: bytes, name: str) -> list[Row]:
    """The lines of a CSV with a header. `name` is for the messages. Raises BadPlate, which names every bad line."""
    text = _text(data, name)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows: list[Row] = []
    errors: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(reader, [])
        columns, unit = _columns(header, name)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            try:
                rows.append(_row(reader.line_num, columns, cells, unit, delimiter))
            except BadPlate as error:
                errors.append(f"line {reader.line_num}: {error}")
    except csv.Error as error:
        raise BadPlate(f"{name} line {reader.line_num}: {error}") from None
    errors += _twice(rows)
    if errors:
        more = [f"and {len(errors) - MOST_ERRORS} more"] if len(errors) > MOST_ERRORS else []
        raise BadPlate("\n  ".join([f"{name} cannot be used:", *errors[:MOST_ERRORS], *more]))
    if not rows:
        raise BadPlate(f"{name} has no lines below its header")
    return rows


def _text(data: bytes, name: str) -> str:
    # Spreadsheets write what they like; the micro sign decides whether it matters.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text:
        raise BadPlate(f"{name} is no CSV: save the table as CSV from your spreadsheet")
    return text.replace("μ", "µ")


def _columns(header: list[str], name: str) -> tuple[list[str], str]:
    """The names of the columns as we call them, and the unit of the concentration where the header tells it."""
    columns, unit = [], ""
    for cell in header:
        text = cell.strip()
        match = _UNIT_IN_HEADER.fullmatch(text)
        if match:
            text = match[1] or match[3]
        word = re.sub(r"[\s-]+", "_", text.lower())
        word = _SAME.get(word, word)
        if match and word == "concentration":
            unit = match[2] or match[4]
        elif match and word != "time_h":
            word = re.sub(r"\s+", "_", cell.strip())
        columns.append(word)
    twice = [word for word in columns if word and columns.count(word) > 1]
    if twice:
        raise BadPlate(f"{name} has the column {twice[0]} twice")
    if not {"well", "image", "sample"} & set(columns) and not {"row", "column"} <= set(columns):
        raise BadPlate(
            f"{name} does not say whose conditions it has: it needs a column well, or row and column, or image, or "
            f"sample; it has {', '.join(filter(None, columns)) or 'none'}"
        )
    return columns, unit


def _row(line: int, columns: list[str], cells: list[str], unit: str, delimiter: str) -> Row:
    if len([cell for cell in cells[len(columns) :] if cell.strip()]):
        raise BadPlate(f"{len(cells)} cells where the header has {len(columns)}; quote what holds a {delimiter!r}")
    values = {word: cell.strip() for word, cell in zip(columns, cells, strict=False) if word and cell.strip()}
    comma = delimiter != ","
    amount = _number(values, "concentration", comma)
    if amount is not None and amount < 0:
        raise BadPlate("the concentration is below 0")
    condition = Condition(
        name=values.get("condition", ""),
        drug=values.get("drug", ""),
        concentration=amount,
        unit=_unit(values.get("unit", unit if amount is not None else "")),
        replicate=values.get("replicate", ""),
        more=tuple((word, text) for word, text in values.items() if word not in {*_PLACE, *_DOSE, *_IGNORED}),
    )
    wells = _wells(values)
    image, sample = values.get("image", ""), values.get("sample")
    if not (image or wells or sample):
        raise BadPlate("names no well, image or sample")
    if not image:
        return Row(line, condition, plate=values.get("plate"), wells=wells, sample=None if wells else sample)
    if len(wells) > 1:
        raise BadPlate("an image has one well, not several")
    return Row(line, condition, image, place=_corrections(values, wells, comma))


def _corrections(values: Mapping[str, str], wells: tuple[Well, ...], comma: bool) -> dict[str, object]:
    place: dict[str, object] = {word: values[word] for word in ("plate", "sample", "channel") if word in values}
    if wells:
        place["well"] = wells[0]
    hours = _number(values, "time_h", comma)
    if hours is not None:
        place["time_h"] = hours
    for word in ("site", "z", "time_point"):
        if word in values:
            number = _number(values, word, comma)
            if number is None or number != int(number):
                raise BadPlate(f"{word} must be a whole number, not {values[word]!r}")
            place[word] = int(number)
    return place


def _wells(values: Mapping[str, str]) -> tuple[Well, ...]:
    if "well" in values:
        return tuple(parse_wells(values["well"]))
    if "row" in values and "column" in values:
        if not values["column"].isdecimal():
            raise BadPlate(f"{values['column']!r} is no column: columns are numbers from 1")
        return (Well(parse_row(values["row"]), int(values["column"]) - 1),)
    return ()


def _number(values: Mapping[str, str], word: str, comma: bool) -> float | None:
    if word not in values:
        return None
    try:
        number = float(values[word].replace(",", ".") if comma else values[word])
    except ValueError:
        number = float("nan")
    if not -float("inf") < number < float("inf"):
        hint = "; its unit has a column of its own, unit" if word == "concentration" else ""
        raise BadPlate(f"{word} must be a number, not {values[word]!r}{hint}")
    return number


def _unit(text: str) -> str:
    return re.sub(r"^u(?=(?:M|mol|g|L|l)\b)", "µ", text)


def _twice(rows: list[Row]) -> list[str]:
    """The same well or image on two lines: one of them would silently win."""
    errors = []
    seen: dict[tuple[object, ...], int] = {}
    for row in rows:
        keys = [(row.plate, well) for well in row.wells] if row.wells else [(row.plate, row.sample, row.image)]
        for key in keys:
            what = str(key[1] or row.image)
            if key in seen and seen[key] != row.line:
                errors.append(f"line {row.line}: {what} is on line {seen[key]} already")
                break
            seen[key] = row.line
    return errors
