"""Simulated rows of a plate, like those of plate/well_curves.py and plate/condition_statistics.py."""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

from spheroseg.plate.wells import PLATE_FORMATS, Well

Rows = list[dict[str, Any]]
MEASURES = (
    "area_um2",
    "eq_diameter_um",
    "volume_um3",
    "circularity",
    "rel_area",
    "rel_volume",
    "area_px2",
    "volume_px3",
)
RATES = {"DMSO": 0.020, "5-FU 1 µM": 0.014, "5-FU 10 µM": 0.005, "Staurosporine 1 µM": -0.004}


def well_rows(
    *,
    wells: int = 96,
    hours: Sequence[float] = (0, 24, 48, 72, 96, 120, 144, 168),
    rates: dict[str, float] | None = None,
    calibrated: bool = True,
    empty: Sequence[str] = (),
    missing: Sequence[tuple[str, float]] = (),
    flagged: Sequence[tuple[str, float]] = (),
    noise: float = 0.04,
    volume: float = 8e6,
) -> Rows:
    """Return well rows. The condition of a well depends on its column.

    missing, flagged: (well, hour) pairs; a missing image has a row without values. empty: wells without rows.
    """
    rng = random.Random(6)
    growth_rates = rates or RATES
    rows, columns = PLATE_FORMATS[wells]
    table = []
    for well in (Well(row, column) for row in range(rows) for column in range(columns)):
        condition = list(growth_rates)[well.column * len(growth_rates) // columns]
        start, growth_rate = volume * rng.lognormvariate(0, 0.15), growth_rates[condition] * rng.gauss(1, 0.08)
        if well.name in empty:
            continue
        for point, hour in enumerate(hours):
            plateau = 11 * volume
            size = (
                plateau
                * math.exp(math.log(start / plateau) * math.exp(-growth_rate * hour))
                * rng.lognormvariate(0, noise)
            )
            table.append(
                well_row(
                    well,
                    condition,
                    float(hour),
                    point,
                    None if (well.name, hour) in missing else size,
                    start,
                    calibrated=calibrated,
                    flags="out_of_focus" if (well.name, hour) in flagged else "",
                )
            )
    return table


def well_row(
    well: Well,
    condition: str,
    hour: float,
    point: int,
    volume: float | None,
    start: float,
    *,
    calibrated: bool = True,
    flags: str = "",
) -> dict[str, Any]:
    """Return the row of a sphere of `volume` µm³, imaged with 2 µm per px."""
    diameter = None if volume is None else (6 * volume / math.pi) ** (1 / 3)
    area = None if diameter is None else math.pi / 4 * diameter**2
    um = 1.0 if calibrated else None

    def times(value: float | None, factor: float | None) -> float | None:
        return None if value is None or factor is None else value * factor

    return {
        "plate": "P1",
        "well": well.name,
        "row": well.name.rstrip("0123456789"),
        "col": well.column + 1,
        "sample": None,
        "condition": condition,
        "time_h": hour,
        "time_point": point,
        "n_images": 1,
        "n_objects": 0 if volume is None else 1,
        "area_um2": times(area, um),
        "eq_diameter_um": times(diameter, um),
        "circularity": times(volume, 0.9 / volume if volume else None),
        "volume_um3": times(volume, um),
        "volume_method": "sphere",
        "rel_area": None if volume is None else (volume / start) ** (2 / 3),
        "rel_volume": times(volume, 1 / start),
        "qc_flags": "no_object_found" if volume is None else flags,
        "area_px2": times(area, 1 / 4),
        "eq_diameter_px": times(diameter, 1 / 2),
        "volume_px3": times(volume, 1 / 8),
    }


def condition_rows(wells: Rows) -> Rows:
    groups: dict[tuple[str, float], Rows] = {}
    for row in wells:
        groups.setdefault((row["condition"], row["time_point"]), []).append(row)
    table = []
    for (condition, point), rows in groups.items():
        result: dict[str, Any] = {
            "condition": condition,
            "time_h": rows[0]["time_h"],
            "time_point": point,
            "n_wells": len(rows),
        }
        for measure in MEASURES:
            values = [row[measure] for row in rows if row[measure] is not None and math.isfinite(row[measure])]
            result[f"{measure}_mean"] = statistics.fmean(values) if values else None
            result[f"{measure}_sd"] = statistics.stdev(values) if len(values) > 1 else None
            result[f"{measure}_n"] = len(values)
        table.append(result)
    return table


def of_well(wells: Rows, name: str) -> Rows:
    return [row for row in wells if row["well"] == name]
