"""Each image against the beginning of its curve, and against its neighbours in time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.plate.neighbours import UNLIKE_NEIGHBOURS, unlike_neighbours
from spheroseg.plate.options import GrowthOptions
from spheroseg.plate.rounds import tolerance_h
from spheroseg.plate.shots import Row, Shot, mean_of, shots_of

NO_T0 = "no_t0"

Pair = tuple[float | None, float | None]

# By what they are called: the measure in µm, and in px for images whose pixel size is not known.
_OF = {"rel_area": ("area_um2", "area_px2"), "rel_volume": ("volume_um3", "volume_px3")}


def with_relative(rows: Sequence[Row], options: GrowthOptions) -> list[Row]:
    """The growth rows with `t0_h`, `rel_area` and `rel_volume`, and the flags that it takes a whole curve to set.

    The value at t0 is that of the same site; of several images there, their mean.
    """
    rows = [dict(row) for row in rows]
    sites = _by_site(shots_of(rows, options.well_value))
    starts = _starts(sites.values(), options.t0_h)
    for shots in sites.values():
        t0_h, at = starts[shots[0].curve[0]]
        # A plate whose images tell no time at all has no beginning, and lacks nothing.
        timed = [shot for shot in shots if shot.at is not None]
        start = [shot for shot in timed if shot.at == at]
        for name, units in _OF.items():
            base = _pair({unit: mean_of(shot.value[unit] for shot in start) for unit in units}, units)
            for shot in shots:
                relative = _ratio(_pair(shot.value, units), base)
                for row in shot.speaking:
                    row[name] = relative
                if timed and relative is None and (base == (None, None) or any(_pair(shot.value, units))):
                    _flag(shot, NO_T0)
        for shot in shots:
            for row in shot.rows:
                row["t0_h"] = t0_h
        for shot in _unlike(timed):
            _flag(shot, UNLIKE_NEIGHBOURS)
    return rows


def _by_site(shots: Iterable[Shot]) -> dict[tuple[Any, ...], list[Shot]]:
    groups: dict[tuple[Any, ...], list[Shot]] = {}
    for shot in shots:
        groups.setdefault((*shot.curve, *(shot.first[name] for name in ("site", "channel", "z"))), []).append(shot)
    return groups


def _starts(sites: Iterable[Sequence[Shot]], wanted_h: float | None) -> dict[str, Pair]:
    """For each plate its t0 in hours, as it is told, and the time of the images that are at t0."""
    sites = list(sites)
    tolerance = tolerance_h([[shot.at for shot in shots if shot.at is not None] for shots in sites])
    times: dict[str, set[float]] = {}
    for shot in (shot for shots in sites for shot in shots):
        times.setdefault(shot.curve[0], set()).update([] if shot.at is None else [shot.at])
    in_hours = {shots[0].curve[0] for shots in sites if shots[0].in_hours}
    starts: dict[str, Pair] = {}
    for plate, known in times.items():
        first = min(known, default=None)
        if wanted_h is None:
            starts[plate] = (first if plate in in_hours else None, first)
        else:
            near = [at for at in known if plate in in_hours and abs(at - wanted_h) <= tolerance]
            starts[plate] = (wanted_h, min(near, key=lambda at: abs(at - wanted_h), default=None))
    return starts


def _pair(value: Mapping[str, float | None], units: tuple[str, str]) -> Pair:
    return value[units[0]], value[units[1]]


def _ratio(value: Pair, base: Pair) -> float | None:
    # Where only one of the two is calibrated, px against px might be two lenses.
    for part, whole in zip(value, base, strict=True):
        if part is not None and whole:
            return round(part / whole, 6)
        if part is not None or whole is not None:
            return None
    return None


def _unlike(shots: Sequence[Shot]) -> list[Shot]:
    known = [shot for shot in shots if shot.value["area_px2"]]
    unit = "area_um2" if all(shot.value["area_um2"] for shot in known) else "area_px2"
    judged = unlike_neighbours([(shot.at or 0.0, shot.value[unit] or 0.0) for shot in known])
    return [shot for shot, is_unlike in zip(known, judged, strict=True) if is_unlike]


def _flag(shot: Shot, flag: str) -> None:
    for row in shot.rows:
        row["qc_flags"] = ";".join(dict.fromkeys([*filter(None, row["qc_flags"].split(";")), flag]))
