"""Conditions through time: mean and spread over wells. Images of one well are no independent observations."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from spheroseg.plate.rounds import rounds, tolerance_h
from spheroseg.plate.shots import Row

GROUPED = (
    "area_um2",
    "eq_diameter_um",
    "volume_um3",
    "circularity",
    "rel_area",
    "rel_volume",
    "area_px2",
    "volume_px3",
)
CONDITION_COLUMNS = (
    "condition",
    "drug",
    "concentration",
    "unit",
    "time_h",
    "time_point",
    "n_wells",
    *(f"{name}_{what}" for name in GROUPED for what in ("mean", "sd", "n")),
)


def condition_rows(wells: Sequence[Row]) -> list[Row]:
    """A row for each condition and time, from well rows. Wells without a condition are in none.

    `n_wells` counts the wells, `…_n` those of them that have the measure. The sample standard deviation of one well
    is None.
    """
    wells = [row for row in wells if row["condition"]]
    series: dict[tuple[Any, ...], list[float]] = {}
    for row in wells:
        if row["time_h"] is not None:
            series.setdefault(_well(row), []).append(row["time_h"])
    first = rounds((time for times in series.values() for time in times), tolerance_h(series.values()))
    groups: dict[tuple[str, float | None, int | None], list[Row]] = {}
    for row in wells:
        hours = row["time_h"]
        at = (None, row["time_point"]) if hours is None else (first[hours], None)
        groups.setdefault((row["condition"], *at), []).append(row)
    made = [_condition_row(rows, hours) for (_, hours, _), rows in groups.items()]
    return sorted(made, key=_in_order)


def _condition_row(wells: Sequence[Row], time_h: float | None) -> Row:
    row: Row = {"condition": wells[0]["condition"]}
    for name in ("drug", "concentration", "unit"):
        row[name] = _common(wells, name)
    row["time_h"] = time_h
    row["time_point"] = _common(wells, "time_point")
    row["n_wells"] = len({_well(well) for well in wells})
    for name in GROUPED:
        values = [well[name] for well in wells if well[name] is not None]
        row[f"{name}_mean"] = round(fmean(values), 6) if values else None
        row[f"{name}_sd"] = round(stdev(values), 6) if len(values) > 1 else None
        row[f"{name}_n"] = len(values)
    return row


def _well(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["plate"], row["well"], row["sample"]


def _common(rows: Sequence[Row], name: str) -> Any:
    """What all of them have; None where they differ, as several doses under one name."""
    first = rows[0][name]
    return first if all(row[name] == first for row in rows) else None


def _in_order(row: Row) -> tuple[Any, ...]:
    """By drug and dose, then by name with its numbers in order: 2 µM before 10 µM."""
    dose, time_h, time_point = row["concentration"], row["time_h"], row["time_point"]
    parts = re.split(r"(\d+(?:\.\d+)?)", row["condition"])
    # Every other part is a number.
    name = [float(part) if place % 2 else part.casefold() for place, part in enumerate(parts)]
    at = (time_h is None, time_h or 0.0, time_point is None, time_point or 0)
    return (row["drug"] or "", dose is not None, dose or 0.0, name, row["condition"], *at)
