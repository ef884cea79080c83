"""The true tables: what every picture shows, what is in every well, what is wrong with which file."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from spheroseg.plate.wells import row_name
from spheroseg.simulate.design import Design, middle_dose
from spheroseg.simulate.frames import MEANINGS, Fault, Frame, frames, plate_name

TRUTH = (
    "plate",
    "well",
    "row",
    "col",
    "time_h",
    "image",
    "page",
    "n_objects",
    "area_um2",
    "area_px2",
    "eq_diameter_um",
    "volume_um3",
    "law",
    "rate_per_h",
    "doubling_time_h",
    "capacity_um3",
    "condition",
    "drug",
    "concentration",
    "unit",
    "replicate",
    "pixel_size_um",
    "fault",
)
CONDITIONS = ("well", "condition", "drug", "concentration", "unit", "replicate")
FAULTS = ("image", "well", "fault", "meaning")


def tables(design: Design) -> dict[str, bytes]:
    """truth.csv, conditions.csv for --conditions, simulation.json (the design), and faults.csv if there are any."""
    shown = frames(design)
    found = {
        "truth.csv": _csv(TRUTH, (_truth(design, frame) for frame in shown)),
        "conditions.csv": _csv(CONDITIONS, (_dose(design, frame) for frame in shown if frame.number == 0)),
        "simulation.json": _json(design),
    }
    faults = {frame.name: frame for frame in shown if frame.fault}
    if faults:
        found["faults.csv"] = _csv(FAULTS, (_fault(frame) for frame in faults.values()))
    return found


def _truth(design: Design, frame: Frame) -> dict[str, Any]:
    """What is not there has no size: the cells of a well without a spheroid are empty."""
    plan, growth = frame.of, frame.of.growth
    row: dict[str, Any] = {
        "plate": plate_name(design),
        "row": row_name(plan.well.row),
        "col": plan.well.column + 1,
        "time_h": frame.hours,
        "image": frame.name,
        "page": frame.page,
        "n_objects": 0 if frame.fault == Fault.EMPTY_WELL else 1,
        "pixel_size_um": design.pixel_size_um,
        "fault": frame.fault or "",
        **_dose(design, frame),
    }
    if frame.fault == Fault.EMPTY_WELL:
        return row
    return row | {
        "area_um2": frame.area_um2,
        "area_px2": frame.area_um2 / design.pixel_size_um**2,
        "eq_diameter_um": frame.eq_diameter_um,
        "volume_um3": frame.volume_um3,
        "law": growth.law,
        "rate_per_h": growth.rate_per_h,
        "doubling_time_h": growth.doubling_time_h,
        "capacity_um3": growth.capacity_um3,
    }


def _dose(design: Design, frame: Frame) -> dict[str, Any]:
    plan = frame.of
    return {
        "well": plan.well.name,
        "condition": design.condition(plan.concentration),
        "drug": design.drug if design.series else "",
        "concentration": plan.concentration if design.series else None,
        "unit": design.unit if design.series else "",
        "replicate": plan.replicate,
    }


def _fault(frame: Frame) -> dict[str, Any]:
    assert frame.fault
    return {"image": frame.name, "well": frame.of.well.name, "fault": frame.fault, "meaning": MEANINGS[frame.fault]}


def _json(design: Design) -> bytes:
    made = {**asdict(design), "doses": design.series, "half_volume_dose": middle_dose(design)}
    return (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.9g}"
    return value
