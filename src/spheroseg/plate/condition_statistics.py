"""Computes mean and standard deviation over the wells of each condition at each time.

Wells are counted and not images, because images of one well are not independent observations.
"""

import re
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from spheroseg.plate.imaging_rounds import compute_round_tolerance, group_into_rounds
from spheroseg.plate.rows import ConditionStatisticsRow, WellRow

SUMMARISED = (
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
    *(f"{name}_{what}" for name in SUMMARISED for what in ("mean", "sd", "n")),
)


def build_condition_rows(wells: Sequence[WellRow]) -> list[ConditionStatisticsRow]:
    """Return one row per condition and time with the columns CONDITION_COLUMNS, sorted by drug, dose, name and time.

    wells: rows of `build_well_rows`; those without a condition are left out. `n_wells` is the number of wells. `…_n`
    is the number of wells with the measure. `…_sd` is the sample standard deviation, None for fewer than two wells.
    """
    wells = [row for row in wells if row["condition"]]
    series: dict[tuple[object, ...], list[float]] = {}
    for row in wells:
        if row["time_h"] is not None:
            series.setdefault(_well_key(row), []).append(row["time_h"])
    tolerance = compute_round_tolerance(series.values())
    round_starts = group_into_rounds((time for times in series.values() for time in times), tolerance)
    groups: dict[tuple[str, float | None, int | None], list[WellRow]] = {}
    for row in wells:
        hours = row["time_h"]
        time = (None, row["time_point"]) if hours is None else (round_starts[hours], None)
        groups.setdefault((row["condition"], *time), []).append(row)
    return sorted((_build_row(rows, hours) for (_, hours, _), rows in groups.items()), key=_condition_order)


def _build_row(wells: Sequence[WellRow], time_h: float | None) -> ConditionStatisticsRow:
    row: ConditionStatisticsRow = {"condition": wells[0]["condition"]}
    for name in ("drug", "concentration", "unit"):
        row[name] = _common(wells, name)
    row["time_h"] = time_h
    row["time_point"] = _common(wells, "time_point")
    row["n_wells"] = len({_well_key(well) for well in wells})
    for name in SUMMARISED:
        values = [well[name] for well in wells if well[name] is not None]
        row[f"{name}_mean"] = round(fmean(values), 6) if values else None
        row[f"{name}_sd"] = round(stdev(values), 6) if len(values) > 1 else None
        row[f"{name}_n"] = len(values)
    return row


def _well_key(row: WellRow) -> tuple[object, ...]:
    return row["plate"], row["well"], row["sample"]


def _common(rows: Sequence[WellRow], name: str) -> Any:
    """Return the value that all rows have, or None if they differ, as with several doses under one name."""
    first = rows[0][name]
    return first if all(row[name] == first for row in rows) else None


def _condition_order(row: ConditionStatisticsRow) -> tuple[Any, ...]:
    """Return a sort key: by drug and dose, then by name (2 µM before 10 µM), then by time."""
    dose, time_h, time_point = row["concentration"], row["time_h"], row["time_point"]
    parts = re.split(r"(\d+(?:\.\d+)?)", row["condition"])
    # Every second part is a number.
    name = [float(part) if index % 2 else part.casefold() for index, part in enumerate(parts)]
    time = (time_h is None, time_h or 0.0, time_point is None, time_point or 0)
    return (row["drug"] or "", dose is not None, dose or 0.0, name, row["condition"], *time)
