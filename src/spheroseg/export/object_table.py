"""The table of measured objects. The name of a column ends in its unit: px, px2, px3, um, um2 or um3."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.plate.flags import join_flags
from spheroseg.segmentation.measure import DIMENSIONS

AFTER_MEASUREMENTS = ("qc_flags", "pixel_size_um", "pixel_size_source", "model", "model_sha256", "metrics_version")

_POWERS = {1: "", 2: "2", 3: "3"}


def object_name(number: int) -> str:
    """Return the name of object `number` (from 1) for programs that show names, such as obj-001."""
    return f"obj-{number:03d}"


def build_object_rows(image: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per object of an image, so none if no object was found.

    image: the columns that come first in every row. result: a record of `segmentation_results`, measured in px. The
    rows have columns in µm only if the pixel size is known.
    """
    pixel_size = result["pixel_size"]
    rows = []
    for number, found in enumerate(result["objects"], start=1):
        row: dict[str, Any] = {**image, "object": number, "n_objects": len(result["objects"])}
        row |= add_units(found["measurements"], pixel_size["um"] if pixel_size else None)
        row |= {
            # The flags of the largest object are also flags of its image.
            "qc_flags": join_flags([*result["flags"], *found["flags"]]),
            "pixel_size_um": pixel_size["um"] if pixel_size else None,
            "pixel_size_source": pixel_size["source"] if pixel_size else None,
            "model": result["model"]["name"],
            "model_sha256": result["model"]["sha256"],
            "metrics_version": result["metrics_version"],
            **{f"used_{name}": value for name, value in result["parameters"].items()},
        }
        rows.append(row)
    return rows


def add_units(measurements: Mapping[str, Any], um: float | None) -> dict[str, Any]:
    """Return the measurements, given in px, under names with their unit: in px, and in µm if the pixel size is known.

    um: the side of a pixel in µm. Values are rounded to 4 decimals.
    """
    values = {_column_name(name, "px"): _round(value) for name, value in measurements.items()}
    if um:
        values |= {
            _column_name(name, "um"): _round(value * um ** DIMENSIONS[name])
            for name, value in measurements.items()
            if DIMENSIONS[name]
        }
    return values


def list_object_columns(leading: Sequence[str], parameters: Iterable[str]) -> list[str]:
    """Return every column that `build_object_rows` can give, so that a table can begin before its last row is known.

    leading: the columns of the image. parameters: the names of the parameters of the segmentation.
    """
    return [
        *leading,
        "object",
        "n_objects",
        *add_units(dict.fromkeys(DIMENSIONS, 0.0), 1.0),
        *AFTER_MEASUREMENTS,
        *(f"used_{name}" for name in parameters),
    ]


def _column_name(name: str, unit: str) -> str:
    dimension = DIMENSIONS[name]
    return f"{name}_{unit}{_POWERS[dimension]}" if dimension else name


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
