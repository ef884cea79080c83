"""Makes the table of the values of each well at one time, for dose-response fits. docs/fits.md describes it."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from spheroseg.plate.numbers import finite_number
from spheroseg.plate.rows import EndpointRow, WellRow
from spheroseg.plate.well_curves import group_by_well

ENDPOINT_COLUMNS = (
    *("plate", "well", "sample", "condition", "drug", "concentration", "unit", "replicate", "time_h", "area_um2"),
    *("volume_um3", "rel_area", "rel_volume", "area_px2", "volume_px3", "qc_flags"),
)
_VALUES = ("area_um2", "volume_um3", "rel_area", "rel_volume", "area_px2", "volume_px3")
# Wells are imaged one after the other, so images count as simultaneous if they differ by less than this share of the
# usual interval between two images of a well.
MAX_INTERVAL_SHARE = 0.25
NO_ENDPOINT = "no_endpoint"


def build_endpoint_rows(well_rows: Iterable[WellRow], at_h: float | None = None) -> list[EndpointRow]:
    """Return one row per well with the columns `ENDPOINT_COLUMNS`: its values at `at_h` hours.

    The default of `at_h` is the last time at which more than half of the wells have a value. If there are no hours,
    time points are used in the same way. For each well, the image nearest to that time is used if it is at most a
    quarter of the usual interval away; `time_h` is the time of that image. Otherwise the values of the well are
    empty, with the flag `no_endpoint`.
    """
    rows = list(well_rows)
    clock = "time_h" if any(finite_number(row.get("time_h")) is not None for row in rows) else "time_point"
    wells = group_by_well(rows)
    timed_rows = [_list_timed_rows(own, clock) for own in wells]
    tolerance = _compute_tolerance([[time for time, _ in timed] for timed in timed_rows])
    endpoint = at_h if at_h is not None else _find_last_time(timed_rows, tolerance)
    table = []
    for own, timed in zip(wells, timed_rows, strict=True):
        near = [
            (abs(time - endpoint), row)
            for time, row in timed
            if endpoint is not None and abs(time - endpoint) <= tolerance
        ]
        row = {name: own[0].get(name) for name in ENDPOINT_COLUMNS} | dict.fromkeys(_VALUES)
        row |= {"time_h": endpoint if clock == "time_h" else None, "qc_flags": NO_ENDPOINT}
        if near:
            _, nearest = min(near, key=lambda pair: pair[0])
            row |= {name: nearest.get(name) for name in (*_VALUES, "time_h", "qc_flags")}
        table.append(row)
    return table


def _list_timed_rows(rows: Sequence[WellRow], clock: str) -> list[tuple[float, WellRow]]:
    """Return the rows of a well that have a value, with their times in the column `clock`."""
    return [
        (time, row)
        for row in rows
        if (time := finite_number(row.get(clock))) is not None and any(row.get(name) is not None for name in _VALUES)
    ]


def _compute_tolerance(wells: Sequence[Sequence[float]]) -> float:
    """Return the maximum distance of an image from the endpoint, in the unit of the times of each well."""
    intervals = []
    for times in wells:
        intervals += [later - earlier for earlier, later in pairwise(sorted(times)) if later > earlier]
    return MAX_INTERVAL_SHARE * median(intervals) if intervals else 1e-6


def _find_last_time(wells: Sequence[Sequence[tuple[float, WellRow]]], tolerance: float) -> float | None:
    """Return the last time at which more than half of the wells have a value, or None."""
    series = [[time for time, _ in timed] for timed in wells]
    for candidate in sorted({time for times in series for time in times}, reverse=True):
        if 2 * sum(any(abs(time - candidate) <= tolerance for time in times) for times in series) > len(wells):
            return candidate
    return None
