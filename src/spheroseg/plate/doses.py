"""Each well at one time, ready for a dose-response program, and the IC50 of each drug. See docs/fits.md."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from spheroseg.plate.dose_response import NoCurve, fit_doses
from spheroseg.plate.fits import LEFT_OUT, Row, WellRow, default_measure, flags, number

ENDPOINT_COLUMNS = (
    *("plate", "well", "sample", "condition", "drug", "concentration", "unit", "replicate", "time_h", "area_um2"),
    *("volume_um3", "rel_area", "rel_volume", "area_px2", "volume_px3", "qc_flags"),
)
IC50_COLUMNS = (
    *("drug", "unit", "measure", "time_h", "n_wells", "n_concentrations", "ic50", "ic50_ci_low", "ic50_ci_high"),
    *("hill", "top", "bottom", "r2", "refused"),
)
MEASURES = ("rel_volume", "volume_um3", "volume_px3")
_VALUES = ("area_um2", "volume_um3", "rel_area", "rel_volume", "area_px2", "volume_px3")
# Plates are imaged one well after the other: frames of one round lie within this part of the time between rounds.
WITHIN = 0.25
NO_ENDPOINT = "no_endpoint"


def endpoint_rows(well_rows: Iterable[WellRow], at_h: float | None = None) -> list[Row]:
    """One row per well with the columns `ENDPOINT_COLUMNS`: its values at `at_h` hours.

    Without `at_h`, the last time at which more than half of the wells have a value; by number of the frame where
    there are no hours. A well counts with its frame nearest to that time, and with that frame's hours, if it is no
    further away than a quarter of the usual time between frames. A well that has none has empty values and the flag
    `no_endpoint`: no other time stands in for it.
    """
    rows = list(well_rows)
    clock = "time_h" if any(number(row.get("time_h")) is not None for row in rows) else "time_point"
    wells: dict[tuple[object, ...], list[WellRow]] = {}
    for row in rows:
        wells.setdefault((row.get("plate"), row.get("well"), row.get("sample")), []).append(row)
    timed = [_timed(own, clock) for own in wells.values()]
    within = _within([[time for time, _ in own] for own in timed])
    at = at_h if at_h is not None else _last_time(timed, within)
    table = []
    for own, frames in zip(wells.values(), timed, strict=True):
        near = [(abs(time - at), row) for time, row in frames if at is not None and abs(time - at) <= within]
        row = {name: own[0].get(name) for name in ENDPOINT_COLUMNS} | dict.fromkeys(_VALUES)
        row |= {"time_h": at if clock == "time_h" else None, "qc_flags": NO_ENDPOINT}
        if near:
            _, frame = min(near, key=lambda pair: pair[0])
            row |= {name: frame.get(name) for name in (*_VALUES, "time_h", "qc_flags")}
        table.append(row)
    return table


def ic50_rows(endpoints: Iterable[Row], measure: str | None = None) -> list[Row]:
    """One row per drug with the columns `IC50_COLUMNS`, from the rows of `endpoint_rows`.

    `measure` is one of their columns; without it the volume relative to the first, or else the volume. Untreated are
    the wells of concentration 0 of the drug itself, and those without any dosed drug (no drug, or a vehicle that
    has no concentration but 0) of the plates that the drug is on. `n_concentrations` counts those above 0.
    A row with `refused` has no estimates.
    """
    rows = list(endpoints)
    measure = measure or default_measure(rows, MEASURES)
    dosed: dict[object, list[Row]] = {}
    for row in rows:
        if row.get("drug") and (number(row.get("concentration")) or 0) > 0:
            dosed.setdefault(row["drug"], []).append(row)
    return [_ic50_row(drug, own, _untreated(rows, drug, own, set(dosed)), measure) for drug, own in dosed.items()]


def _timed(rows: Sequence[WellRow], clock: str) -> list[tuple[float, WellRow]]:
    """The frames of a well that have a value, with their times."""
    return [
        (time, row)
        for row in rows
        if (time := number(row.get(clock))) is not None and any(row.get(name) is not None for name in _VALUES)
    ]


def _within(wells: Sequence[Sequence[float]]) -> float:
    steps = []
    for times in wells:
        steps += [later - earlier for earlier, later in pairwise(sorted(times)) if later > earlier]
    return WITHIN * median(steps) if steps else 1e-6


def _last_time(wells: Sequence[Sequence[tuple[float, WellRow]]], within: float) -> float | None:
    courses = [[time for time, _ in frames] for frames in wells]
    for at in sorted({time for times in courses for time in times}, reverse=True):
        if 2 * sum(any(abs(time - at) <= within for time in times) for times in courses) > len(wells):
            return at
    return None


def _untreated(rows: Sequence[Row], drug: object, own: Sequence[Row], dosed: set[object]) -> list[Row]:
    plates = {row.get("plate") for row in own}
    return [
        row
        for row in rows
        if row.get("plate") in plates
        and number(row.get("concentration")) == 0
        and (row.get("drug") == drug or row.get("drug") not in dosed)
    ]


def _ic50_row(drug: object, own: Sequence[Row], untreated: Sequence[Row], measure: str) -> Row:
    units = list(dict.fromkeys(str(row.get("unit") or "") for row in own))
    wells = [
        (number(row.get("concentration")), value, row)
        for row in [*own, *untreated]
        if (value := number(row.get(measure))) is not None and not flags(row) & LEFT_OUT
    ]
    times = [time for _, _, row in wells if (time := number(row.get("time_h"))) is not None]
    doses = [dose or 0.0 for dose, _, _ in wells]
    row = dict.fromkeys(IC50_COLUMNS) | {
        "drug": drug,
        "unit": ", ".join(unit or "none" for unit in units) if len(units) > 1 else units[0] or None,
        "measure": measure,
        "time_h": median(times) if times else None,
        "n_wells": len(wells),
        "n_concentrations": len({dose for dose in doses if dose > 0}),
    }
    if len(units) > 1:
        return row | {"refused": f"the concentrations of {drug} are in several units: give all in one"}
    found = fit_doses(doses, [value for _, value, _ in wells])
    if isinstance(found, NoCurve):
        return row | {"refused": found.reason}
    return row | {
        "ic50": found.ic50,
        "ic50_ci_low": found.ic50_low,
        "ic50_ci_high": found.ic50_high,
        "hill": found.hill,
        "top": found.top,
        "bottom": found.bottom,
        "r2": found.r2,
    }
