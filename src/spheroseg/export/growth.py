"""The tables of a plate: a row for each object of each image, for each well and time, for each condition and time."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spheroseg.export.columns import COLUMNS
from spheroseg.export.kinds import object_name
from spheroseg.export.tables import object_rows
from spheroseg.plate.conditions import NO_CONDITION, Condition
from spheroseg.plate.curves import in_order, well_rows, why_no_curves
from spheroseg.plate.debris import with_debris
from spheroseg.plate.groups import condition_rows
from spheroseg.plate.names import Place
from spheroseg.plate.options import GrowthOptions, VolumeMethod
from spheroseg.plate.relative import with_relative
from spheroseg.plate.wells import row_name

IMAGE_FAILED = "image_failed"
NO_OBJECT_FOUND = "no_object_found"

# Columns of the growth table that hold a measurement, and what `object_rows` calls it.
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
_BEFORE_OWN = (
    *("plate", "well", "row", "col", "condition", "time_h", "image", "object_id", "n_objects"),
    *_MEASURED,
    *("volume_um3", "volume_method", "rel_volume", "qc_flags", "model_sha256", "params_hash"),
    *("pixel_size_um", "pixel_size_source", "metrics_version"),
    *("rel_area", "t0_h", "page", "sample", "site", "channel", "z", "time_point"),
    *("drug", "concentration", "unit", "replicate"),
)
_AFTER_OWN = ("model", "result_version", *_VOLUMES, *_IN_PX, "volume_px3")
# Without those of the person's table of conditions, which stand before `model`.
GROWTH_COLUMNS = (*_BEFORE_OWN, *_AFTER_OWN)


@dataclass(frozen=True)
class Frame:
    """One image and what became of it.

    page counts from 1. result: a record of `segmentation_results`; None where there is none, and `failed` says why.
    """

    image: str
    page: int
    place: Place
    condition: Condition = NO_CONDITION
    result: Mapping[str, Any] | None = None
    failed: str = ""
    result_version: int | None = None


def without_outlines(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a frame needs of a result: outlines are most of it, and a plate has thousands."""
    return {
        **result,
        "objects": [{"measurements": one["measurements"], "flags": one["flags"]} for one in result["objects"]],
    }


@dataclass(frozen=True)
class GrowthTables:
    """`no_curves`: why there are no rows of wells and conditions, as a sentence for the person."""

    growth: list[dict[str, Any]]
    wells: list[dict[str, Any]]
    conditions: list[dict[str, Any]]
    no_curves: str = ""


def growth_tables(frames: Iterable[Frame], options: GrowthOptions) -> GrowthTables:
    """Everything that is known of a plate; each row of a table has the same columns, and None is missing."""
    frames = list(frames)
    own = own_columns(frame.condition for frame in frames)
    rows = [row for frame in frames for row in _rows(frame, own, options)]
    rows.sort(key=_in_order)
    no_curves = why_no_curves(rows)
    if no_curves:
        return GrowthTables(rows, [], [], no_curves)
    rows = with_relative(with_debris(rows), options)
    wells = well_rows(rows, options)
    return GrowthTables(rows, wells, condition_rows(wells))


def own_columns(conditions: Iterable[Condition]) -> dict[str, str]:
    """The columns of the person's table that mean nothing here, and their names in ours, where one may be taken."""
    names = dict.fromkeys(word for condition in conditions for word, _ in condition.more)
    return {name: f"own_{name}" if name in COLUMNS else name for name in names}


def params_hash(parameters: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the parameters as compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _rows(frame: Frame, own: Mapping[str, str], options: GrowthOptions) -> list[dict[str, Any]]:
    known = _known(frame, own, options)
    if frame.result is None:
        return [{**known, "qc_flags": IMAGE_FAILED}]
    result = frame.result
    pixel_size = result["pixel_size"]
    known |= {
        "n_objects": len(result["objects"]),
        "model_sha256": result["model"]["sha256"],
        "params_hash": params_hash(result["parameters"]),
        "pixel_size_um": pixel_size["um"] if pixel_size else None,
        "pixel_size_source": pixel_size["source"] if pixel_size else None,
        "metrics_version": result["metrics_version"],
        "model": result["model"]["name"],
    }
    if not result["objects"]:
        return [{**known, "qc_flags": ";".join(dict.fromkeys([*result["flags"], NO_OBJECT_FOUND]))}]
    return [{**known, **_measured(found, options)} for found in object_rows({}, result)]


def _known(frame: Frame, own: Mapping[str, str], options: GrowthOptions) -> dict[str, Any]:
    """The row of an image of which nothing is measured, with every column in its place."""
    place, condition = frame.place, frame.condition
    row: dict[str, Any] = dict.fromkeys((*_BEFORE_OWN, *own.values(), *_AFTER_OWN))
    more = dict(condition.more)
    return row | {
        "plate": place.plate or None,
        "well": place.well.name if place.well else None,
        "row": row_name(place.well.row) if place.well else None,
        "col": place.well.column + 1 if place.well else None,
        "condition": condition.label or None,
        "time_h": None if place.time_h is None else round(place.time_h, 6),
        "image": frame.image,
        "volume_method": options.volume_method.value,
        "page": frame.page,
        "sample": place.sample or None,
        "site": place.site,
        "channel": place.channel or None,
        "z": place.z,
        "time_point": place.time_point,
        "drug": condition.drug or None,
        "concentration": condition.concentration,
        "unit": condition.unit or None,
        "replicate": condition.replicate or None,
        "result_version": frame.result_version,
        **{column: more.get(name) for name, column in own.items()},
    }


def _measured(found: Mapping[str, Any], options: GrowthOptions) -> dict[str, Any]:
    columns = {**_MEASURED, **_VOLUMES, **_IN_PX}
    row = {column: _finite(found.get(name)) for column, name in columns.items()}
    row["object_id"] = object_name(found["object"])
    row["qc_flags"] = found["qc_flags"]
    for unit in ("um3", "px3"):
        row[f"volume_{unit}"] = _finite(found.get(f"volume_{options.volume_method}_{unit}"))
    return row


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _in_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Through each well in time; images of no well at the end."""
    spot = (row["site"] or 0, row["channel"] or "", row["z"] or 0, row["image"], row["page"], row["object_id"] or "")
    return (not (row["well"] or row["sample"]), *in_order(row), *spot)
