"""Computes the growth curve of each well: one row per well and time, with the mean over its sites."""

from collections.abc import Iterable, Sequence
from typing import Any

from spheroseg.plate.debris import has_plate_position
from spheroseg.plate.flags import join_flags, split_flags
from spheroseg.plate.observations import Observation, collect_observations, mean_of_known
from spheroseg.plate.options import GrowthOptions
from spheroseg.plate.rows import GrowthRow, WellRow

RELATIVE = ("rel_area", "rel_volume")
_SIZES = ("area_um2", "perimeter_um", "eq_diameter_um", "circularity", "solidity", "volume_um3")
_IN_PX = ("area_px2", "eq_diameter_px", "volume_px3")
_WELL = ("plate", "well", "row", "col", "sample", "condition", "drug", "concentration", "unit", "replicate")
WELL_COLUMNS = (
    *_WELL,
    "time_h",
    "time_point",
    "n_images",
    "n_objects",
    *_SIZES,
    "volume_method",
    *RELATIVE,
    "t0_h",
    "qc_flags",
    *_IN_PX,
)


def explain_missing_curves(rows: Iterable[GrowthRow]) -> str:
    """Return why no growth curves can be made of these rows, and what to do, or "" if they can.

    Images of several channels or z positions of a well must not be mixed in one curve.
    """
    rows = list(rows)
    for name, words in (("channel", "channels"), ("z", "z positions")):
        of_curve: dict[tuple[str, str], set[Any]] = {}
        for row in rows:
            if has_plate_position(row):
                of_curve.setdefault((row["plate"] or "", row["well"] or row["sample"] or ""), set()).add(row[name])
        several = max(of_curve.values(), key=len, default=set())
        if len(several) > 1:
            named = [str(value) for value in sorted(several - {None, ""})]
            return (
                f"no growth curves: the images show several {words} of a well ({', '.join(named)}); "
                f"choose one, for example with --{name} {named[0]}"
            )
    return ""


def build_well_rows(rows: Sequence[GrowthRow], options: GrowthOptions) -> list[WellRow]:
    """Return one row per well and time, with the columns WELL_COLUMNS, in the order of the plate.

    rows: growth rows from `add_relative_growth`. Each value is the mean over the sites that have it; a missing value
    does not count as 0. Returns no rows if `explain_missing_curves` gives a reason.
    """
    if explain_missing_curves(rows):
        return []
    groups: dict[tuple[str, str, float | None], list[Observation]] = {}
    for observation in collect_observations(rows, options.well_value):
        groups.setdefault((*observation.curve, observation.time), []).append(observation)
    return sorted((_build_row(group, options) for group in groups.values()), key=plate_order)


def plate_order(row: WellRow) -> tuple[Any, ...]:
    """Return a sort key: wells row by row (AA after Z), and each well through time."""
    letters = row["row"] or ""
    time_h, time_point = row["time_h"], row["time_point"]
    time = (time_h is None, time_h or 0.0, time_point is None, time_point or 0)
    return (row["plate"] or "", len(letters), letters, row["col"] or 0, row["sample"] or "", *time)


def group_by_well(rows: Iterable[WellRow]) -> list[list[WellRow]]:
    """Return the rows of each well, or of each sample if there are no wells, in the order of first appearance."""
    wells: dict[tuple[object, ...], list[WellRow]] = {}
    for row in rows:
        wells.setdefault((row.get("plate"), row.get("well"), row.get("sample")), []).append(row)
    return list(wells.values())


def _build_row(observations: Sequence[Observation], options: GrowthOptions) -> WellRow:
    representative = [row for one in observations for row in one.representative_rows]
    row: WellRow = {name: _first_known(representative, name) for name in _WELL}
    row["time_h"] = observations[0].time if observations[0].in_hours else None
    row["time_point"] = _first_known(representative, "time_point")
    row["n_images"] = len(observations)
    counts = [one.first["n_objects"] for one in observations if one.first["n_objects"] is not None]
    row["n_objects"] = sum(counts) if counts else None
    for name in (*_SIZES, *_IN_PX):
        mean = mean_of_known(one.values[name] for one in observations)
        row[name] = None if mean is None else round(mean, 4)
    for name in RELATIVE:
        mean = mean_of_known(one.representative_rows[0][name] for one in observations)
        row[name] = None if mean is None else round(mean, 6)
    row["volume_method"] = options.volume_method.value
    row["t0_h"] = _first_known(representative, "t0_h")
    row["qc_flags"] = join_flags(flag for one in representative for flag in split_flags(one["qc_flags"]))
    return {name: row[name] for name in WELL_COLUMNS}


def _first_known(rows: Sequence[GrowthRow], name: str) -> Any:
    """Return the first value of the column that is not empty."""
    return next((row[name] for row in rows if row[name] not in (None, "")), rows[0][name])
