"""Makes the tables of the truth: the true size in each frame, the condition of each well, and the faulty files."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from spheroseg.plate.wells import row_name
from spheroseg.simulate.design import Design, half_effect_dose
from spheroseg.simulate.frames import MEANINGS, Fault, Frame, plan_frames, plate_name

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

Cell = str | int | float | None
Row = dict[str, Cell]


def make_tables(design: Design) -> dict[str, bytes]:
    """Return the contents of the tables by file name.

    They are truth.csv, conditions.csv (for --conditions), simulation.json (the design), and faults.csv if there are
    faults.
    """
    frames = plan_frames(design)
    tables = {
        "truth.csv": _csv(TRUTH, (_truth_row(design, frame) for frame in frames)),
        "conditions.csv": _csv(CONDITIONS, (_condition_row(design, frame) for frame in frames if frame.number == 0)),
        "simulation.json": _design_json(design),
    }
    faults = {frame.name: frame for frame in frames if frame.fault}
    if faults:
        tables["faults.csv"] = _csv(FAULTS, (_fault_row(frame) for frame in faults.values()))
    return tables


def _truth_row(design: Design, frame: Frame) -> Row:
    """Return a row of truth.csv. If there is no spheroid, the cells with its size are empty."""
    plan, growth = frame.plan, frame.plan.growth
    row: Row = {
        "plate": plate_name(design),
        "row": row_name(plan.well.row),
        "col": plan.well.column + 1,
        "time_h": frame.hours,
        "image": frame.name,
        "page": frame.page,
        "n_objects": 0 if frame.fault == Fault.EMPTY_WELL else 1,
        "pixel_size_um": design.pixel_size_um,
        "fault": frame.fault or "",
        **_condition_row(design, frame),
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


def _condition_row(design: Design, frame: Frame) -> Row:
    plan = frame.plan
    return {
        "well": plan.well.name,
        "condition": design.condition(plan.concentration),
        "drug": design.drug if design.series else "",
        "concentration": plan.concentration if design.series else None,
        "unit": design.unit if design.series else "",
        "replicate": plan.replicate,
    }


def _fault_row(frame: Frame) -> Row:
    assert frame.fault
    return {"image": frame.name, "well": frame.plan.well.name, "fault": frame.fault, "meaning": MEANINGS[frame.fault]}


def _design_json(design: Design) -> bytes:
    document = {**asdict(design), "doses": design.series, "half_volume_dose": half_effect_dose(design)}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _csv(columns: Sequence[str], rows: Iterable[Row]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def _cell(value: Cell) -> Cell:
    if isinstance(value, float):
        return f"{value:.9g}"
    return value
