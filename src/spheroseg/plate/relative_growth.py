"""Compares each image with the beginning of its growth curve, and with its neighbours in time."""

from collections.abc import Iterable, Mapping, Sequence

from spheroseg.plate.flags import join_flags, split_flags
from spheroseg.plate.imaging_rounds import compute_round_tolerance
from spheroseg.plate.neighbours import UNLIKE_NEIGHBOURS, find_unlike_neighbours
from spheroseg.plate.observations import Observation, collect_observations, mean_of_known
from spheroseg.plate.options import GrowthOptions
from spheroseg.plate.rows import GrowthRow

NO_T0 = "no_t0"

Pair = tuple[float | None, float | None]

# The columns from which each relative measure is computed: in µm, or in px if the pixel size is not known.
_SOURCES = {"rel_area": ("area_um2", "area_px2"), "rel_volume": ("volume_um3", "volume_px3")}


def add_relative_growth(rows: Sequence[GrowthRow], options: GrowthOptions) -> list[GrowthRow]:
    """Return copies of the rows with `t0_h`, `rel_area` and `rel_volume`, and with the flags that need a whole curve.

    Values are relative to the image of the same site at t0, or to the mean if there are several. The flags are
    `no_t0` and `unlike_neighbours`.
    """
    rows = [dict(row) for row in rows]
    sites = _group_by_site(collect_observations(rows, options.well_value))
    starts = _find_starts(sites.values(), options.t0_h)
    for observations in sites.values():
        t0_h, start_time = starts[observations[0].curve[0]]
        # If no image of a plate has a time, there is no t0, and its images get no flag for that.
        timed = [one for one in observations if one.time is not None]
        at_start = [one for one in timed if one.time == start_time]
        for name, units in _SOURCES.items():
            base = _pair({unit: mean_of_known(one.values[unit] for one in at_start) for unit in units}, units)
            for one in observations:
                ratio = _ratio(_pair(one.values, units), base)
                for row in one.representative_rows:
                    row[name] = ratio
                if timed and ratio is None and (base == (None, None) or any(_pair(one.values, units))):
                    _flag(one, NO_T0)
        for one in observations:
            for row in one.rows:
                row["t0_h"] = t0_h
        for one in _select_unlike(timed):
            _flag(one, UNLIKE_NEIGHBOURS)
    return rows


def _group_by_site(observations: Iterable[Observation]) -> dict[tuple[object, ...], list[Observation]]:
    groups: dict[tuple[object, ...], list[Observation]] = {}
    for one in observations:
        groups.setdefault((*one.curve, *(one.first[name] for name in ("site", "channel", "z"))), []).append(one)
    return groups


def _find_starts(sites: Iterable[Sequence[Observation]], requested_t0_h: float | None) -> dict[str, Pair]:
    """Return for each plate its t0 in hours, for the table, and the time of the observations at t0."""
    sites = list(sites)
    tolerance = compute_round_tolerance([[one.time for one in site if one.time is not None] for site in sites])
    times: dict[str, set[float]] = {}
    for one in (one for site in sites for one in site):
        times.setdefault(one.curve[0], set()).update([] if one.time is None else [one.time])
    in_hours = {site[0].curve[0] for site in sites if site[0].in_hours}
    starts: dict[str, Pair] = {}
    for plate, known in times.items():
        first = min(known, default=None)
        if requested_t0_h is None:
            starts[plate] = (first if plate in in_hours else None, first)
        else:
            near = [time for time in known if plate in in_hours and abs(time - requested_t0_h) <= tolerance]
            nearest = min(near, key=lambda time: abs(time - requested_t0_h), default=None)
            starts[plate] = (requested_t0_h, nearest)
    return starts


def _pair(values: Mapping[str, float | None], units: tuple[str, str]) -> Pair:
    return values[units[0]], values[units[1]]


def _ratio(value: Pair, base: Pair) -> float | None:
    # If only one of the two is calibrated, the lens may have changed, so their values in px cannot be compared.
    for part, whole in zip(value, base, strict=True):
        if part is not None and whole:
            return round(part / whole, 6)
        if part is not None or whole is not None:
            return None
    return None


def _select_unlike(observations: Sequence[Observation]) -> list[Observation]:
    known = [one for one in observations if one.values["area_px2"]]
    unit = "area_um2" if all(one.values["area_um2"] for one in known) else "area_px2"
    are_unlike = find_unlike_neighbours([(one.time or 0.0, one.values[unit] or 0.0) for one in known])
    return [one for one, is_unlike in zip(known, are_unlike, strict=True) if is_unlike]


def _flag(observation: Observation, flag: str) -> None:
    for row in observation.rows:
        row["qc_flags"] = join_flags([*split_flags(row["qc_flags"]), flag])
