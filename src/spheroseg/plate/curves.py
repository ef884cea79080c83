"""The curve of each well: one row for each time, the mean of its sites."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.plate.debris import is_of_curve
from spheroseg.plate.options import GrowthOptions
from spheroseg.plate.shots import Row, Shot, mean_of, shots_of

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


def why_no_curves(rows: Iterable[Row]) -> str:
    """Why a curve of these growth rows would mix what does not belong together, and what to do; "" where not."""
    rows = list(rows)
    for name, words in (("channel", "channels"), ("z", "z positions")):
        of_curve: dict[tuple[str, str], set[Any]] = {}
        for row in rows:
            if is_of_curve(row):
                of_curve.setdefault((row["plate"] or "", row["well"] or row["sample"] or ""), set()).add(row[name])
        several = max(of_curve.values(), key=len, default=set())
        if len(several) > 1:
            named = [str(value) for value in sorted(several - {None, ""})]
            return (
                f"no growth curves: the images show more than one of the {words} of a well ({', '.join(named)}); "
                f"choose one, as with --{name} {named[0]}"
            )
    return ""


def well_rows(rows: Sequence[Row], options: GrowthOptions) -> list[Row]:
    """A row for each well and time, from growth rows that `with_relative` has completed.

    None where `why_no_curves` says something. What is missing in one site is missing in the mean too, and not 0.
    """
    if why_no_curves(rows):
        return []
    groups: dict[tuple[str, str, float | None], list[Shot]] = {}
    for shot in shots_of(rows, options.well_value):
        groups.setdefault((*shot.curve, shot.at), []).append(shot)
    return sorted((_well_row(shots, options) for shots in groups.values()), key=in_order)


def in_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sorts rows as a plate is read, each well through time; row AA comes after Z."""
    letters = row["row"] or ""
    time_h, time_point = row["time_h"], row["time_point"]
    at = (time_h is None, time_h or 0.0, time_point is None, time_point or 0)
    return (row["plate"] or "", len(letters), letters, row["col"] or 0, row["sample"] or "", *at)


def _well_row(shots: Sequence[Shot], options: GrowthOptions) -> Row:
    speaking = [row for shot in shots for row in shot.speaking]
    row: Row = {name: _first(speaking, name) for name in _WELL}
    row["time_h"] = shots[0].at if shots[0].in_hours else None
    row["time_point"] = _first(speaking, "time_point")
    row["n_images"] = len(shots)
    counts = [shot.first["n_objects"] for shot in shots if shot.first["n_objects"] is not None]
    row["n_objects"] = sum(counts) if counts else None
    for name in (*_SIZES, *RELATIVE, *_IN_PX):
        values = (shot.speaking[0][name] if name in RELATIVE else shot.value[name] for shot in shots)
        mean = mean_of(values)
        row[name] = None if mean is None else round(mean, 6 if name in RELATIVE else 4)
    row["volume_method"] = options.volume_method.value
    row["t0_h"] = _first(speaking, "t0_h")
    flags = dict.fromkeys(flag for one in speaking for flag in one["qc_flags"].split(";") if flag)
    row["qc_flags"] = ";".join(flags)
    return {name: row[name] for name in WELL_COLUMNS}


def _first(rows: Sequence[Row], name: str) -> Any:
    return next((row[name] for row in rows if row[name] not in (None, "")), rows[0][name])
