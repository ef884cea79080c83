"""Tables of measured objects. A column's name ends in its unit: px, px2, px3, um, um2, um3."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.segmentation.measure import DIMENSIONS

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
        measured = found["measurements"]
        row |= {_column(name, "px"): _rounded(value) for name, value in measured.items()}
        if pixel_size:
            um = pixel_size["um"]
            row |= {
                _column(name, "um"): _rounded(value * um ** DIMENSIONS[name])
                for name, value in measured.items()
                if DIMENSIONS[name]
            }
        row |= {
            "qc_flags": ";".join([*result["flags"], *found["flags"]]),
            "pixel_size_um": pixel_size["um"] if pixel_size else None,
            "pixel_size_source": pixel_size["source"] if pixel_size else None,
            "model": result["model"]["name"],
            "model_sha256": result["model"]["sha256"],
            "metrics_version": result["metrics_version"],
            **{f"used_{name}": value for name, value in result["parameters"].items()},
        }
        rows.append(row)
    return rows


def encode_csv(rows: Sequence[Mapping[str, Any]], *, leading: Sequence[str]) -> bytes:
    """UTF-8 CSV with a header. `leading` are the columns that are there even without a row."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_columns(rows, leading), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


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
