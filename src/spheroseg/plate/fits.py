"""Growth rates and doubling times of each well and each condition, as rows of a table. See docs/fits.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median_low

import numpy as np
from scipy.special import stdtrit

from spheroseg.plate.growth_laws import LAWS, Fit, Law, Refusal, fit

WellRow = Mapping[str, object]
Row = dict[str, object]

COLUMNS = (
    *("level", "plate", "well", "sample", "condition", "measure", "model", "best", "n_points", "n_wells", "from_h"),
    *("to_h", "y0", "rate_per_h", "rate_ci_low", "rate_ci_high", "doubling_time_h", "doubling_time_ci_low"),
    *("doubling_time_ci_high", "capacity", "capacity_ci_low", "capacity_ci_high", "r2", "aicc", "refused"),
)
MEASURES = ("volume_um3", "volume_px3")
# A frame with such a flag shows something else than the course of the well.
LEFT_OUT = frozenset({"unlike_neighbours"})
LEAST_WELLS = 3
NO_HOURS = "the images have no hours, only an order: say how far apart they are with --interval HOURS"


@dataclass(frozen=True)
class _Course:
    """What one well gives to a fit."""

    place: Mapping[str, object]
    hours: list[float]
    values: list[float]
    no_hours: bool
    unusable: str

    def fit(self, law: Law) -> Fit | Refusal:
        if self.no_hours:
            return Refusal(NO_HOURS)
        found = fit(law, self.hours, self.values)
        return Refusal(found.reason + self.unusable) if isinstance(found, Refusal) else found


def fit_rows(well_rows: Iterable[WellRow], measure: str | None = None) -> list[Row]:
    """One row per well and law, then one per condition and law, with the columns `COLUMNS`.

    `well_rows` are the rows of plate/curves.py. `measure` is any of their columns; without it the volume, in µm³
    where anything is calibrated. What is unknown is None. A row with `refused` has no estimates, but for two cases
    that the sentence names: a rate without a doubling time, and a mean of wells without an interval.
    """
    rows = list(well_rows)
    measure = measure or default_measure(rows, MEASURES)
    courses = _courses(rows, measure)
    found = {key: {law: course.fit(law) for law in LAWS} for key, course in courses.items()}
    table = []
    for key, course in courses.items():
        best = _best([found[key]])
        table += [_well_row(course, measure, law, answer, law == best) for law, answer in found[key].items()]
    for condition in dict.fromkeys(course.place["condition"] for course in courses.values()):
        if condition:
            wells = [found[key] for key, course in courses.items() if course.place["condition"] == condition]
            table += _condition_rows(condition, measure, wells)
    return table


def default_measure(rows: Sequence[WellRow], measures: Sequence[str]) -> str:
    """The first of the measures that any row has a value of, or else the first."""
    return next((m for m in measures if any(row.get(m) is not None for row in rows)), measures[0])


def number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def flags(row: WellRow) -> set[str]:
    return set(filter(None, str(row.get("qc_flags") or "").split(";")))


def _courses(rows: Sequence[WellRow], measure: str) -> dict[tuple[object, ...], _Course]:
    wells: dict[tuple[object, ...], list[WellRow]] = {}
    for row in rows:
        wells.setdefault((row.get("plate"), row.get("well"), row.get("sample")), []).append(row)
    return {key: _course(own, measure) for key, own in wells.items()}


def _course(rows: Sequence[WellRow], measure: str) -> _Course:
    points, empty, unlike, timeless = [], 0, 0, 0
    for row in rows:
        hour, value = number(row.get("time_h")), number(row.get(measure))
        if value is None or value <= 0:
            empty += 1
        elif flags(row) & LEFT_OUT:
            unlike += 1
        elif hour is None:
            timeless += 1
        else:
            points.append((hour, value))
    reasons = [f"{empty} without a value of {measure}"] if empty else []
    reasons += [f"{unlike} left out as unlike_neighbours"] if unlike else []
    reasons += [f"{timeless} without hours"] if timeless else []
    no_hours = all(row.get("time_h") is None for row in rows)
    place = {name: rows[0].get(name) for name in ("plate", "well", "sample", "condition")}
    unusable = f" ({' and '.join(reasons)})" if reasons else ""
    points.sort()
    return _Course(place, [hour for hour, _ in points], [value for _, value in points], no_hours, unusable)


def _best(wells: Sequence[Mapping[Law, Fit | Refusal]]) -> Law | None:
    """The law of the least AICc, summed over the wells in which all of the laws that are left could be fitted."""
    laws = [law for law in LAWS if any(isinstance(found[law], Fit) for found in wells)]
    sums = {law: _aicc(law, wells, laws) for law in laws}
    compared = {law: value for law, value in sums.items() if value is not None}
    if compared:
        return min(compared, key=lambda law: compared[law])
    return laws[0] if laws else None


def _aicc(law: Law, wells: Sequence[Mapping[Law, Fit | Refusal]], laws: Sequence[Law]) -> float | None:
    values = []
    for found in wells:
        answer = found[law]
        if isinstance(answer, Fit) and answer.aicc is not None and all(isinstance(found[o], Fit) for o in laws):
            values.append(answer.aicc)
    return sum(values) if values else None


def _row(level: str, measure: str, law: Law, **values: object) -> Row:
    return dict.fromkeys(COLUMNS) | {"level": level, "measure": measure, "model": law, "best": False} | values


def _well_row(course: _Course, measure: str, law: Law, answer: Fit | Refusal, best: bool) -> Row:
    row = _row("well", measure, law, **course.place, best=best, n_points=len(course.values), n_wells=1)
    if course.hours:
        row |= {"from_h": course.hours[0], "to_h": course.hours[-1]}
    if isinstance(answer, Refusal):
        return row | {"refused": answer.reason}
    row |= {
        "y0": exp(answer.log_y0),
        "r2": 1 - answer.squares / answer.squares_about_mean if answer.squares_about_mean else None,
        "aicc": answer.aicc,
        **_capacity(answer.log_capacity, answer.log_capacity_low, answer.log_capacity_high),
    }
    return row | _rates(answer.rate, answer.rate_low, answer.rate_high, "")


def _condition_rows(condition: object, measure: str, wells: Sequence[Mapping[Law, Fit | Refusal]]) -> list[Row]:
    usable = [found for found in wells if isinstance(found["exponential"], Fit)]
    rows = {}
    means: list[Law] = []
    for law in LAWS:
        fits = [answer for found in usable if isinstance(answer := found[law], Fit)]
        row = _row("condition", measure, law, condition=condition, n_wells=len(fits), n_points=sum(f.n for f in fits))
        if not usable:
            first = next(iter(found[law] for found in wells))
            reason = first.reason if isinstance(first, Refusal) else ""
            row["refused"] = f"no well of {len(wells)} could be fitted; the first: {reason}"
        elif 2 * len(fits) <= len(usable):
            # A mean over the few wells that happen to bend enough would speak for the others too.
            row["refused"] = f"only {len(fits)} of {len(usable)} wells support this model; more than half must"
        else:
            row |= _means(fits)
            means.append(law)
        rows[law] = row
    compared = [{law: found[law] if law in means else Refusal("") for law in LAWS} for found in usable]
    best = _best(compared)
    for law in means:
        rows[law] |= {"best": law == best, "aicc": _aicc(law, compared, means)}
    return list(rows.values())


def _means(fits: Sequence[Fit]) -> Row:
    # Where most of the wells begin; those that begin later speak from their own first point, not from before it.
    start = median_low(f.from_h for f in fits)
    values, rates = zip(*(f.at(max(start, f.from_h)) for f in fits), strict=True)
    about_mean = sum(f.squares_about_mean for f in fits)
    row: Row = {
        "from_h": start,
        "to_h": max(f.to_h for f in fits),
        "y0": exp(fmean(values)),
        "r2": 1 - sum(f.squares for f in fits) / about_mean if about_mean else None,
    }
    capacities = [f.log_capacity for f in fits if f.log_capacity is not None]
    if capacities:
        row |= _capacity(*_interval(capacities))
    few = "" if len(fits) >= LEAST_WELLS else f"no interval: {len(fits)} of the {LEAST_WELLS} wells that it needs"
    return row | _rates(*_interval(rates), few, all(f.grows for f in fits))


def _interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and 95 % interval (Student's t) over wells; no interval for fewer than `LEAST_WELLS`."""
    mean, n = fmean(values), len(values)
    if n < LEAST_WELLS:
        return mean, None, None
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def _rates(rate: float, low: float | None, high: float | None, refused: str, all_grow: bool = True) -> Row:
    """The doubling time only where growth is shown: its interval has an end only then."""
    row: Row = {"rate_per_h": rate, "rate_ci_low": low, "rate_ci_high": high}
    if low is None or high is None:
        shown, shrinks = all_grow, rate < 0
        why = "not every well shows growth: no doubling time"
    else:
        shown, shrinks = low > 0, high < 0
        why = "no growth is shown, 0 is in the interval of the rate: no doubling time"
    if shown:
        row["doubling_time_h"] = log(2) / rate
        if low and high:
            row |= {"doubling_time_ci_low": log(2) / high, "doubling_time_ci_high": log(2) / low}
        why = ""
    elif shrinks:
        why = "the rate is below 0, it shrinks: no doubling time"
    return row | {"refused": "; ".join(filter(None, [refused, why])) or None}


def _capacity(middle: float | None, low: float | None, high: float | None) -> Row:
    names = ("capacity", "capacity_ci_low", "capacity_ci_high")
    return {name: None if v is None else exp(v) for name, v in zip(names, (middle, low, high), strict=True)}
