"""Reads the user's table of conditions (CSV): the contents of each well, and corrections of the file names."""

import csv
import io
import re
from collections.abc import Mapping

from spheroseg.errors import BadPlate
from spheroseg.plate.conditions import Condition, ConditionRow
from spheroseg.plate.wells import Well, parse_row, parse_wells

MAX_LISTED_ERRORS = 20
# Column names that other programs and laboratories use, with our names.
_SYNONYMS = {
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
# `spheroseg plate preview --csv` writes this column for the user. It is not read back.
_IGNORED = frozenset({"problem"})
_POSITION_COLUMNS = (
    "plate",
    "well",
    "row",
    "column",
    "sample",
    "image",
    "site",
    "time_h",
    "time_point",
    "channel",
    "z",
)
_CONDITION_COLUMNS = ("condition", "drug", "concentration", "unit", "replicate")
_UNIT_IN_HEADER = re.compile(r"(.+?)\s*[(\[](.+?)[)\]]|(concentration|dose|conc)_([a-zµμ%/]+)", re.IGNORECASE)


def read_conditions(data: bytes, name: str) -> list[ConditionRow]:
    """Return the rows of a CSV file with a header.

    data: the file in UTF-8, UTF-16 or Windows-1252, with commas, semicolons or tabs. name: its name, for messages.
    Raises BadPlate, which names the bad lines, if the table cannot be used.
    """
    text = _decode(data, name)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows: list[ConditionRow] = []
    errors: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(reader, [])
        columns, unit = _read_header(header, name)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            try:
                rows.append(_read_row(reader.line_num, columns, cells, unit, delimiter))
            except BadPlate as error:
                errors.append(f"line {reader.line_num}: {error}")
    except csv.Error as error:
        raise BadPlate(f"{name} line {reader.line_num}: {error}") from None
    errors += _find_duplicates(rows)
    if errors:
        more = [f"and {len(errors) - MAX_LISTED_ERRORS} more"] if len(errors) > MAX_LISTED_ERRORS else []
        raise BadPlate("\n  ".join([f"{name} cannot be used:", *errors[:MAX_LISTED_ERRORS], *more]))
    if not rows:
        raise BadPlate(f"{name} has no lines below its header")
    return rows


def _decode(data: bytes, name: str) -> str:
    # Spreadsheet programs write different encodings, in which the micro sign differs.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text:
        raise BadPlate(f"{name} is not a CSV file: save the table as CSV from your spreadsheet")
    # The Greek letter and the micro sign look the same, so both must stand for the same unit.
    return text.replace("μ", "µ")


def _read_header(header: list[str], name: str) -> tuple[list[str], str]:
    """Return our names of the columns, and the unit of the concentration if the header has one, or ""."""
    columns, unit = [], ""
    for cell in header:
        text = cell.strip()
        match = _UNIT_IN_HEADER.fullmatch(text)
        if match:
            text = match[1] or match[3]
        word = re.sub(r"[\s-]+", "_", text.lower())
        word = _SYNONYMS.get(word, word)
        if match and word == "concentration":
            unit = match[2] or match[4]
        elif match and word != "time_h":
            word = re.sub(r"\s+", "_", cell.strip())
        columns.append(word)
    duplicates = [word for word in columns if word and columns.count(word) > 1]
    if duplicates:
        raise BadPlate(f"{name} has the column {duplicates[0]} twice")
    if not {"well", "image", "sample"} & set(columns) and not {"row", "column"} <= set(columns):
        raise BadPlate(
            f"{name} does not say whose conditions it has: it needs a column well, or row and column, or image, or "
            f"sample; it has {', '.join(filter(None, columns)) or 'none'}"
        )
    return columns, unit


def _read_row(line: int, columns: list[str], cells: list[str], unit: str, delimiter: str) -> ConditionRow:
    if len([cell for cell in cells[len(columns) :] if cell.strip()]):
        raise BadPlate(
            f"{len(cells)} cells, but the header has {len(columns)}: quote a cell that contains {delimiter!r}"
        )
    values = {word: cell.strip() for word, cell in zip(columns, cells, strict=False) if word and cell.strip()}
    has_decimal_comma = delimiter != ","
    amount = _read_number(values, "concentration", has_decimal_comma)
    if amount is not None and amount < 0:
        raise BadPlate("the concentration is below 0")
    condition = Condition(
        name=values.get("condition", ""),
        drug=values.get("drug", ""),
        concentration=amount,
        unit=_normalise_unit(values.get("unit", unit if amount is not None else "")),
        replicate=values.get("replicate", ""),
        extra_columns=tuple(
            (word, text)
            for word, text in values.items()
            if word not in {*_POSITION_COLUMNS, *_CONDITION_COLUMNS, *_IGNORED}
        ),
    )
    wells = _read_wells(values)
    image, sample = values.get("image", ""), values.get("sample")
    if not (image or wells or sample):
        raise BadPlate("names no well, image or sample")
    if not image:
        return ConditionRow(line, condition, plate=values.get("plate"), wells=wells, sample=None if wells else sample)
    if len(wells) > 1:
        raise BadPlate("an image has one well, not several")
    return ConditionRow(line, condition, image, corrections=_read_corrections(values, wells, has_decimal_comma))


def _read_corrections(
    values: Mapping[str, str], wells: tuple[Well, ...], has_decimal_comma: bool
) -> dict[str, object]:
    corrections: dict[str, object] = {word: values[word] for word in ("plate", "sample", "channel") if word in values}
    if wells:
        corrections["well"] = wells[0]
    hours = _read_number(values, "time_h", has_decimal_comma)
    if hours is not None:
        corrections["time_h"] = hours
    for word in ("site", "z", "time_point"):
        if word in values:
            number = _read_number(values, word, has_decimal_comma)
            if number is None or number != int(number):
                raise BadPlate(f"{word} must be a whole number, not {values[word]!r}")
            corrections[word] = int(number)
    return corrections


def _read_wells(values: Mapping[str, str]) -> tuple[Well, ...]:
    if "well" in values:
        return tuple(parse_wells(values["well"]))
    if "row" in values and "column" in values:
        if not values["column"].isdecimal():
            raise BadPlate(f"{values['column']!r} is not a column: columns are numbers from 1")
        return (Well(parse_row(values["row"]), int(values["column"]) - 1),)
    return ()


def _read_number(values: Mapping[str, str], word: str, has_decimal_comma: bool) -> float | None:
    if word not in values:
        return None
    try:
        number = float(values[word].replace(",", ".") if has_decimal_comma else values[word])
    except ValueError:
        number = float("nan")
    if not -float("inf") < number < float("inf"):
        hint = "; write its unit into the column unit" if word == "concentration" else ""
        raise BadPlate(f"{word} must be a number, not {values[word]!r}{hint}")
    return number


def _normalise_unit(text: str) -> str:
    return re.sub(r"^u(?=(?:M|mol|g|L|l)\b)", "µ", text)


def _find_duplicates(rows: list[ConditionRow]) -> list[str]:
    """Return an error for each well, sample or image with two lines, because one would silently replace the other."""
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
