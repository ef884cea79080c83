"""Makes one observation per image: one value of each measure for its well, for any number of objects."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from spheroseg.plate.debris import has_plate_position, is_debris
from spheroseg.plate.imaging_rounds import compute_round_tolerance, group_into_rounds
from spheroseg.plate.options import WellValue
from spheroseg.plate.rows import GrowthRow

# Identifies one growth curve: the plate, and the well or sample.
CurveKey = tuple[str, str]

SUMMED = ("area_um2", "perimeter_um", "volume_um3", "area_px2", "perimeter_px", "volume_px3")
AREA_WEIGHTED = ("circularity", "solidity")
DIAMETER_AREAS = {"eq_diameter_um": "area_um2", "eq_diameter_px": "area_px2"}
MEASURES = (*SUMMED, *AREA_WEIGHTED, *DIAMETER_AREAS)


@dataclass(frozen=True, eq=False)
class Observation:
    """One image as an observation of its well.

    rows: the growth rows of the image, one per object. time: the first time of its imaging round in hours, or the
    number of the time point if `in_hours` is false, or None. values: one for each of MEASURES, in the unit in its
    name. representative_rows: the rows of the objects that count for the well.
    """

    rows: Sequence[GrowthRow]
    time: float | None
    in_hours: bool
    values: Mapping[str, float | None]
    representative_rows: Sequence[GrowthRow]

    @property
    def first(self) -> GrowthRow:
        """The first row, for the columns in which all rows of the image are equal."""
        return self.rows[0]

    @property
    def curve(self) -> CurveKey:
        """The growth curve that the image belongs to."""
        return self.first["plate"] or "", self.first["well"] or self.first["sample"] or ""


def collect_observations(rows: Iterable[GrowthRow], well_value: WellValue) -> list[Observation]:
    """Return an observation for each image that has a well, a sample or a time, in the order of the rows."""
    images: dict[tuple[str, int | None], list[GrowthRow]] = {}
    for row in rows:
        if has_plate_position(row):
            images.setdefault((row["image"], row["page"]), []).append(row)
    plates_in_hours = {of_image[0]["plate"] for of_image in images.values() if of_image[0]["time_h"] is not None}
    round_starts = group_into_rounds(_list_hours(images.values()), _compute_tolerance(images.values()))
    observations = []
    for of_image in images.values():
        row = of_image[0]
        in_hours = row["plate"] in plates_in_hours
        time = round_starts.get(row["time_h"]) if in_hours else row["time_point"]
        spheroids = [one for one in of_image if one["area_px2"] is not None and not is_debris(one)]
        counted = spheroids if well_value is WellValue.SUM else _select_largest(spheroids)
        observations.append(Observation(of_image, time, in_hours, _combine(counted), counted or of_image[:1]))
    return observations


def _compute_tolerance(images: Iterable[Sequence[GrowthRow]]) -> float:
    series: dict[tuple[object, ...], set[float]] = {}
    for row, *_ in images:
        if row["time_h"] is not None:
            site = tuple(row[name] for name in ("plate", "well", "sample", "site", "channel", "z"))
            series.setdefault(site, set()).add(row["time_h"])
    return compute_round_tolerance([sorted(times) for times in series.values()])


def _list_hours(images: Iterable[Sequence[GrowthRow]]) -> list[float]:
    return [row["time_h"] for row, *_ in images if row["time_h"] is not None]


def _select_largest(rows: Sequence[GrowthRow]) -> list[GrowthRow]:
    return [max(rows, key=lambda row: row["area_px2"])] if rows else []


def _combine(rows: Sequence[GrowthRow]) -> dict[str, float | None]:
    """Return one value per measure: a sum, a mean weighted by area, or the diameter of a disk of the total area."""
    if len(rows) == 1:
        return {name: rows[0][name] for name in MEASURES}
    values: dict[str, float | None] = {name: _sum(rows, name) for name in SUMMED}
    area = values["area_px2"]
    for name in AREA_WEIGHTED:
        values[name] = sum(row[name] * row["area_px2"] for row in rows) / area if area else None
    for name, area_name in DIAMETER_AREAS.items():
        total = values[area_name]
        values[name] = None if total is None else 2 * math.sqrt(total / math.pi)
    return values


def _sum(rows: Sequence[GrowthRow], name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if not values or None in values else sum(values)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not missing, or None if all are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
