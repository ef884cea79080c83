"""Tables of measured objects. A column's name ends in its unit: px, px2, px3, um, um2, um3."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.segmentation.measure import DIMENSIONS

# Of text that a spreadsheet would work out instead of showing it.
FORMULA_SIGNS = ("=", "+", "-", "@")
AFTER_MEASUREMENTS = ("qc_flags", "pixel_size_um", "pixel_size_source", "model", "model_sha256", "metrics_version")

_POWERS = {1: "", 2: "2", 3: "3"}


def object_rows(image: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each object of one image: none where none was found.

    image: what precedes in every row. result: a record of `segmentation_results`, measured in px. The columns in µm
    are there only if the pixel size is known.
    """
    pixel_size = result["pixel_size"]
    rows = []
    for number, found in enumerate(result["objects"], start=1):
        row: dict[str, Any] = {**image, "object": number, "n_objects": len(result["objects"])}
        row |= with_units(found["measurements"], pixel_size["um"] if pixel_size else None)
        row |= {
            # What the largest object has, its image has too.
            "qc_flags": ";".join(dict.fromkeys([*result["flags"], *found["flags"]])),
            "pixel_size_um": pixel_size["um"] if pixel_size else None,
            "pixel_size_source": pixel_size["source"] if pixel_size else None,
            "model": result["model"]["name"],
            "model_sha256": result["model"]["sha256"],
            "metrics_version": result["metrics_version"],
            **{f"used_{name}": value for name, value in result["parameters"].items()},
        }
        rows.append(row)
    return rows


def with_units(measurements: Mapping[str, Any], um: float | None) -> dict[str, Any]:
    """Measurements in px under names with their unit; where a pixel has a size (µm), in µm too."""
    values = {_column(name, "px"): _rounded(value) for name, value in measurements.items()}
    if um:
        values |= {
            _column(name, "um"): _rounded(value * um ** DIMENSIONS[name])
            for name, value in measurements.items()
            if DIMENSIONS[name]
        }
    return values


def all_columns(leading: Sequence[str], parameters: Iterable[str]) -> list[str]:
    """Every column that `object_rows` can give, so that a table can begin before its last row is known."""
    return [
        *leading,
        "object",
        "n_objects",
        *with_units(dict.fromkeys(DIMENSIONS, 0.0), 1.0),
        *AFTER_MEASUREMENTS,
        *(f"used_{name}" for name in parameters),
    ]


def encode_csv(rows: Sequence[Mapping[str, Any]], *, leading: Sequence[str]) -> bytes:
    """UTF-8 CSV with a header. `leading` are the columns that are there even without a row."""
    columns = _columns(rows, leading)
    return encode_csv_header(columns) + encode_csv_rows(rows, columns)


def encode_csv_header(columns: Sequence[str]) -> bytes:
    return encode_csv_rows([dict(zip(columns, columns, strict=True))], columns)


def encode_csv_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Lines without a header; a column that a row has not is left empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Python's csv leaves a lone CR unquoted, and readers take it for the end of the line.
    value = value.replace("\r", " ")
    # A spreadsheet takes such text for a formula, and so a file name for a command.
    return f"'{value}" if value.lstrip().startswith(FORMULA_SIGNS) else value


def _columns(rows: Iterable[Mapping[str, Any]], leading: Sequence[str]) -> list[str]:
    """All columns of all rows, those in µm behind those in px wherever the first row with µm stands."""
    longest: Mapping[str, Any] = max(rows, key=len, default={})
    names = dict.fromkeys([*leading, *longest])
    for row in rows:
        names.update(dict.fromkeys(row))
    return list(names)


def _column(name: str, unit: str) -> str:
    dimension = DIMENSIONS[name]
    return f"{name}_{unit}{_POWERS[dimension]}" if dimension else name


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
