"""The tables of a plate: one row per object and image, per well and time, and per condition and time."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spheroseg.export.columns import COLUMNS
from spheroseg.export.object_table import build_object_rows, object_name
from spheroseg.plate.condition_statistics import build_condition_rows
from spheroseg.plate.conditions import NO_CONDITION, Condition
from spheroseg.plate.debris import flag_debris
from spheroseg.plate.flags import join_flags
from spheroseg.plate.options import GrowthOptions, VolumeMethod
from spheroseg.plate.position import PlatePosition
from spheroseg.plate.relative_growth import add_relative_growth
from spheroseg.plate.rows import ConditionStatisticsRow, GrowthRow, WellRow
from spheroseg.plate.well_curves import build_well_rows, explain_missing_curves, plate_order
from spheroseg.plate.wells import row_name

IMAGE_FAILED = "image_failed"
NO_OBJECT_FOUND = "no_object_found"

# Columns of the growth table with a measurement, and their names in the table of objects.
_MEASURED = {
    "area_um2": "area_um2",
    "perimeter_um": "perimeter_um",
    "eq_diameter_um": "equivalent_diameter_um",
    "circularity": "circularity",
    "solidity": "solidity",
    "feret_max_um": "feret_max_um",
    "feret_min_um": "feret_min_um",
    "eccentricity": "eccentricity",
}
_VOLUMES = {f"volume_{method}_um3": f"volume_{method}_um3" for method in VolumeMethod}
_IN_PX = {
    "area_px2": "area_px2",
    "perimeter_px": "perimeter_px",
    "eq_diameter_px": "equivalent_diameter_px",
    "feret_max_px": "feret_max_px",
    "feret_min_px": "feret_min_px",
}
_BEFORE_USER = (
    *("plate", "well", "row", "col", "condition", "time_h", "image", "object_id", "n_objects"),
    *_MEASURED,
    *("volume_um3", "volume_method", "rel_volume", "qc_flags", "model_sha256", "params_hash"),
    *("pixel_size_um", "pixel_size_source", "metrics_version"),
    *("rel_area", "t0_h", "page", "sample", "site", "channel", "z", "time_point"),
    *("drug", "concentration", "unit", "replicate"),
)
_AFTER_USER = ("model", "result_version", *_VOLUMES, *_IN_PX, "volume_px3")
# The columns of the user's own table of conditions are inserted before `model`.
GROWTH_COLUMNS = (*_BEFORE_USER, *_AFTER_USER)


@dataclass(frozen=True)
class PlateImage:
    """One image of a plate and its result.

    page: from 1. result: a record of `segmentation_results`, or None if the image failed; `failed` is then the
    reason. result_version: the number of this result of the image, from 1.
    """

    image: str
    page: int
    position: PlatePosition
    condition: Condition = NO_CONDITION
    result: Mapping[str, Any] | None = None
    failed: str = ""
    result_version: int | None = None


def drop_outlines(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a result that a PlateImage needs, without the outlines, which take most of the memory."""
    return {
        **result,
        "objects": [{"measurements": found["measurements"], "flags": found["flags"]} for found in result["objects"]],
    }


@dataclass(frozen=True)
class GrowthTables:
    """The three tables of a plate.

    no_curves: why `wells` and `conditions` have no rows, as a sentence for the user, or "".
    """

    growth: list[GrowthRow]
    wells: list[WellRow]
    conditions: list[ConditionStatisticsRow]
    no_curves: str = ""


def build_growth_tables(images: Iterable[PlateImage], options: GrowthOptions) -> GrowthTables:
    """Return the tables of these images. All rows of a table have the same columns, and None is a missing value."""
    images = list(images)
    user_columns = name_user_columns(image.condition for image in images)
    rows = [row for image in images for row in _build_rows(image, user_columns, options)]
    rows.sort(key=_growth_order)
    no_curves = explain_missing_curves(rows)
    if no_curves:
        return GrowthTables(rows, [], [], no_curves)
    rows = add_relative_growth(flag_debris(rows), options)
    wells = build_well_rows(rows, options)
    return GrowthTables(rows, wells, build_condition_rows(wells))


def name_user_columns(conditions: Iterable[Condition]) -> dict[str, str]:
    """Return the columns that only the user's table of conditions has, each with its name in the growth table.

    The name has the prefix own_ if the growth table has a column of that name itself.
    """
    names = dict.fromkeys(word for condition in conditions for word, _ in condition.extra_columns)
    return {name: f"own_{name}" if name in COLUMNS else name for name in names}


def params_hash(parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hexadecimal) of the parameters as compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _build_rows(image: PlateImage, user_columns: Mapping[str, str], options: GrowthOptions) -> list[GrowthRow]:
    row = _build_row_without_result(image, user_columns, options)
    if image.result is None:
        return [{**row, "qc_flags": IMAGE_FAILED}]
    result = image.result
    pixel_size = result["pixel_size"]
    row |= {
        "n_objects": len(result["objects"]),
        "model_sha256": result["model"]["sha256"],
        "params_hash": params_hash(result["parameters"]),
        "pixel_size_um": pixel_size["um"] if pixel_size else None,
        "pixel_size_source": pixel_size["source"] if pixel_size else None,
        "metrics_version": result["metrics_version"],
        "model": result["model"]["name"],
    }
    if not result["objects"]:
        return [{**row, "qc_flags": join_flags([*result["flags"], NO_OBJECT_FOUND])}]
    return [{**row, **_select_measurements(found, options)} for found in build_object_rows({}, result)]


def _build_row_without_result(
    image: PlateImage, user_columns: Mapping[str, str], options: GrowthOptions
) -> GrowthRow:
    """Return a row with every column in its order, filled with what is known before the image is measured."""
    position, condition = image.position, image.condition
    row: GrowthRow = dict.fromkeys((*_BEFORE_USER, *user_columns.values(), *_AFTER_USER))
    extra = dict(condition.extra_columns)
    return row | {
        "plate": position.plate or None,
        "well": position.well.name if position.well else None,
        "row": row_name(position.well.row) if position.well else None,
        "col": position.well.column + 1 if position.well else None,
        "condition": condition.label or None,
        "time_h": None if position.time_h is None else round(position.time_h, 6),
        "image": image.image,
        "volume_method": options.volume_method.value,
        "page": image.page,
        "sample": position.sample or None,
        "site": position.site,
        "channel": position.channel or None,
        "z": position.z,
        "time_point": position.time_point,
        "drug": condition.drug or None,
        "concentration": condition.concentration,
        "unit": condition.unit or None,
        "replicate": condition.replicate or None,
        "result_version": image.result_version,
        **{column: extra.get(name) for name, column in user_columns.items()},
    }


def _select_measurements(found: Mapping[str, Any], options: GrowthOptions) -> GrowthRow:
    """Return the cells of one object from its row in the table of objects."""
    columns = {**_MEASURED, **_VOLUMES, **_IN_PX}
    cells: GrowthRow = {column: _finite_or_none(found.get(name)) for column, name in columns.items()}
    cells["object_id"] = object_name(found["object"])
    cells["qc_flags"] = found["qc_flags"]
    for unit in ("um3", "px3"):
        cells[f"volume_{unit}"] = _finite_or_none(found.get(f"volume_{options.volume_method}_{unit}"))
    return cells


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _growth_order(row: GrowthRow) -> tuple[Any, ...]:
    """Return a sort key: through each well in time, and images without a well or sample at the end."""
    site = (row["site"] or 0, row["channel"] or "", row["z"] or 0, row["image"], row["page"], row["object_id"] or "")
    return (not (row["well"] or row["sample"]), *plate_order(row), *site)
