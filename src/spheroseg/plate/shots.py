"""What each image says of its well: one value of each measure, whatever number of objects it shows.

Here and in `curves` rows are those of the growth table (docs/growth.md), and None is missing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from spheroseg.plate.debris import is_debris, is_of_curve
from spheroseg.plate.options import WellValue
from spheroseg.plate.rounds import rounds, tolerance_h

Row = dict[str, Any]
# Of the plate by its name and the well or sample: what one curve is of.
Curve = tuple[str, str]

SUMS = ("area_um2", "perimeter_um", "volume_um3", "area_px2", "perimeter_px", "volume_px3")
SHAPES = ("circularity", "solidity")
DIAMETERS = {"eq_diameter_um": "area_um2", "eq_diameter_px": "area_px2"}
MEASURES = (*SUMS, *SHAPES, *DIAMETERS)


@dataclass(frozen=True, eq=False)
class Shot:
    """One image. `at` is its time: hours (the first of its round), or else the number of a time point."""

    rows: Sequence[Row]
    at: float | None
    in_hours: bool
    value: Mapping[str, float | None]
    speaking: Sequence[Row]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def curve(self) -> Curve:
        return self.first["plate"] or "", self.first["well"] or self.first["sample"] or ""


def shots_of(rows: Iterable[Row], well_value: WellValue) -> list[Shot]:
    """The images that belong to a curve: those with a well, a sample or a time. Their order is kept."""
    images: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        if is_of_curve(row):
            images.setdefault((row["image"], row["page"]), []).append(row)
    in_hours = {of_image[0]["plate"] for of_image in images.values() if of_image[0]["time_h"] is not None}
    first = rounds(_hours(images.values()), _tolerance(images.values()))
    shots = []
    for of_image in images.values():
        row = of_image[0]
        has_hours = row["plate"] in in_hours
        at = first.get(row["time_h"]) if has_hours else row["time_point"]
        found = [one for one in of_image if one["area_px2"] is not None and not is_debris(one)]
        speaking = found if well_value is WellValue.SUM else _largest(found)
        shots.append(Shot(of_image, at, has_hours, _value(speaking), speaking or of_image[:1]))
    return shots


def _tolerance(images: Iterable[Sequence[Row]]) -> float:
    series: dict[tuple[Any, ...], set[float]] = {}
    for row, *_ in images:
        if row["time_h"] is not None:
            spot = tuple(row[name] for name in ("plate", "well", "sample", "site", "channel", "z"))
            series.setdefault(spot, set()).add(row["time_h"])
    return tolerance_h([sorted(times) for times in series.values()])


def _hours(images: Iterable[Sequence[Row]]) -> list[float]:
    return [row["time_h"] for row, *_ in images if row["time_h"] is not None]


def _largest(found: Sequence[Row]) -> list[Row]:
    return [max(found, key=lambda row: row["area_px2"])] if found else []


def _value(rows: Sequence[Row]) -> dict[str, float | None]:
    if len(rows) == 1:
        return {name: rows[0][name] for name in MEASURES}
    value: dict[str, float | None] = {name: _total(rows, name) for name in SUMS}
    area = value["area_px2"]
    for name in SHAPES:
        value[name] = sum(row[name] * row["area_px2"] for row in rows) / area if area else None
    for name, of in DIAMETERS.items():
        total = value[of]
        value[name] = None if total is None else 2 * math.sqrt(total / math.pi)
    return value


def _total(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if not values or None in values else sum(values)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Of those that are not missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
