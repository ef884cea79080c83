"""Makes the table of growth rates and doubling times of wells and conditions. docs/fits.md describes it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median_low

import numpy as np
from scipy.special import stdtrit

from spheroseg.plate.fit_refusal import FitRefusal
from spheroseg.plate.flags import split_flags
from spheroseg.plate.growth_fit import GrowthFit, fit_model
from spheroseg.plate.growth_models import GROWTH_MODELS, GrowthModel
from spheroseg.plate.neighbours import UNLIKE_NEIGHBOURS
from spheroseg.plate.numbers import finite_number
from spheroseg.plate.rows import FitRow, WellRow
from spheroseg.plate.well_curves import group_by_well

COLUMNS = (
    *("level", "plate", "well", "sample", "condition", "measure", "model", "best", "n_points", "n_wells", "from_h"),
    *("to_h", "y0", "rate_per_h", "rate_ci_low", "rate_ci_high", "doubling_time_h", "doubling_time_ci_low"),
    *("doubling_time_ci_high", "capacity", "capacity_ci_low", "capacity_ci_high", "r2", "aicc", "refused"),
)
MEASURES = ("volume_um3", "volume_px3")
# Images with one of these flags do not show the true size of the spheroid, and are left out of all fits.
EXCLUDING_FLAGS = frozenset({UNLIKE_NEIGHBOURS})
MIN_WELLS = 3
NO_HOURS = "the images have no hours, only an order: say how far apart they are with --interval HOURS"


@dataclass(frozen=True)
class _WellSeries:
    """The points of one well that can be fitted.

    identity: the plate, well, sample and condition. has_hours: whether any of its images has a time in hours.
    left_out: a text in parentheses that states which images are left out and why, or "".
    """

    identity: Mapping[str, object]
    hours: list[float]
    values: list[float]
    has_hours: bool
    left_out: str

    def fit(self, model: GrowthModel) -> GrowthFit | FitRefusal:
        if not self.has_hours:
            return FitRefusal(NO_HOURS)
        outcome = fit_model(model, self.hours, self.values)
        return FitRefusal(outcome.reason + self.left_out) if isinstance(outcome, FitRefusal) else outcome


# The outcome of fitting each model to one well.
_Outcomes = Mapping[GrowthModel, GrowthFit | FitRefusal]


def build_fit_rows(well_rows: Iterable[WellRow], measure: str | None = None) -> list[FitRow]:
    """Return one row per well and model, then one per condition and model, with the columns `COLUMNS`.

    well_rows: rows of `well_curves.build_well_rows`. measure: one of their columns. The default is the volume, in µm³
    if any value is calibrated, otherwise in px³. Missing values are None. A row with `refused` has no estimates,
    with two exceptions that the sentence names: a rate without a doubling time, and a mean of wells without an
    interval.
    """
    rows = list(well_rows)
    measure = measure or default_measure(rows, MEASURES)
    wells = [_collect_series(own, measure) for own in group_by_well(rows)]
    outcomes: list[_Outcomes] = [{model: well.fit(model) for model in GROWTH_MODELS} for well in wells]
    table = []
    for well, by_model in zip(wells, outcomes, strict=True):
        best = _choose_best([by_model])
        table += [
            _build_well_row(well, measure, model, outcome, model == best) for model, outcome in by_model.items()
        ]
    for condition in dict.fromkeys(well.identity["condition"] for well in wells):
        if condition:
            own = [
                by_model
                for well, by_model in zip(wells, outcomes, strict=True)
                if well.identity["condition"] == condition
            ]
            table += _build_condition_rows(condition, measure, own)
    return table


def default_measure(rows: Sequence[WellRow], measures: Sequence[str]) -> str:
    """Return the first of the measures for which any row has a value, or the first one if no row has values."""
    return next((m for m in measures if any(row.get(m) is not None for row in rows)), measures[0])


def has_excluding_flag(row: WellRow) -> bool:
    """Return whether a flag of the row keeps it out of fits."""
    return not EXCLUDING_FLAGS.isdisjoint(split_flags(row.get("qc_flags")))


def _collect_series(rows: Sequence[WellRow], measure: str) -> _WellSeries:
    points, empty, unlike, timeless = [], 0, 0, 0
    for row in rows:
        hour, value = finite_number(row.get("time_h")), finite_number(row.get(measure))
        if value is None or value <= 0:
            empty += 1
        elif has_excluding_flag(row):
            unlike += 1
        elif hour is None:
            timeless += 1
        else:
            points.append((hour, value))
    reasons = [f"{empty} without a value of {measure}"] if empty else []
    reasons += [f"{unlike} left out as {UNLIKE_NEIGHBOURS}"] if unlike else []
    reasons += [f"{timeless} without hours"] if timeless else []
    has_hours = any(row.get("time_h") is not None for row in rows)
    identity = {name: rows[0].get(name) for name in ("plate", "well", "sample", "condition")}
    left_out = f" ({' and '.join(reasons)})" if reasons else ""
    points.sort()
    return _WellSeries(identity, [hour for hour, _ in points], [value for _, value in points], has_hours, left_out)


def _choose_best(wells: Sequence[_Outcomes]) -> GrowthModel | None:
    """Return the model with the lowest sum of AICc over wells, or None if no model could be fitted.

    The candidates are the models that could be fitted to at least one well. Only wells to which all candidates could
    be fitted are summed. If no AICc can be compared, the simplest candidate is returned.
    """
    models = [model for model in GROWTH_MODELS if any(isinstance(outcomes[model], GrowthFit) for outcomes in wells)]
    sums = {model: _sum_aicc(model, wells, models) for model in models}
    compared = {model: value for model, value in sums.items() if value is not None}
    if compared:
        return min(compared, key=lambda model: compared[model])
    return models[0] if models else None


def _sum_aicc(model: GrowthModel, wells: Sequence[_Outcomes], models: Sequence[GrowthModel]) -> float | None:
    values = []
    for outcomes in wells:
        fit = outcomes[model]
        are_all_fitted = all(isinstance(outcomes[other], GrowthFit) for other in models)
        if isinstance(fit, GrowthFit) and fit.aicc is not None and are_all_fitted:
            values.append(fit.aicc)
    return sum(values) if values else None


def _empty_row(level: str, measure: str, model: GrowthModel, **values: object) -> FitRow:
    return dict.fromkeys(COLUMNS) | {"level": level, "measure": measure, "model": model, "best": False} | values


def _build_well_row(
    well: _WellSeries, measure: str, model: GrowthModel, outcome: GrowthFit | FitRefusal, best: bool
) -> FitRow:
    row = _empty_row("well", measure, model, **well.identity, best=best, n_points=len(well.values), n_wells=1)
    if well.hours:
        row |= {"from_h": well.hours[0], "to_h": well.hours[-1]}
    if isinstance(outcome, FitRefusal):
        return row | {"refused": outcome.reason}
    row |= {
        "y0": exp(outcome.log_y0),
        "r2": 1 - outcome.residual_squares / outcome.total_squares if outcome.total_squares else None,
        "aicc": outcome.aicc,
        **_capacity_cells(outcome.log_capacity, outcome.log_capacity_low, outcome.log_capacity_high),
    }
    return row | _rate_cells(outcome.rate, outcome.rate_low, outcome.rate_high, "")


def _build_condition_rows(condition: object, measure: str, wells: Sequence[_Outcomes]) -> list[FitRow]:
    usable = [outcomes for outcomes in wells if isinstance(outcomes["exponential"], GrowthFit)]
    rows = {}
    supported: list[GrowthModel] = []
    for model in GROWTH_MODELS:
        fits = [fit for outcomes in usable if isinstance(fit := outcomes[model], GrowthFit)]
        n_points = sum(fit.n for fit in fits)
        row = _empty_row("condition", measure, model, condition=condition, n_wells=len(fits), n_points=n_points)
        if not usable:
            first = wells[0][model]
            reason = first.reason if isinstance(first, FitRefusal) else ""
            row["refused"] = f"no well of {len(wells)} could be fitted; the first: {reason}"
        elif 2 * len(fits) <= len(usable):
            # A mean over the few wells whose growth slows down enough would not represent the other wells.
            row["refused"] = f"only {len(fits)} of {len(usable)} wells support this model; more than half must"
        else:
            row |= _mean_cells(fits)
            supported.append(model)
        rows[model] = row
    compared: list[_Outcomes] = [
        {model: outcomes[model] if model in supported else FitRefusal("") for model in GROWTH_MODELS}
        for outcomes in usable
    ]
    best = _choose_best(compared)
    for model in supported:
        rows[model] |= {"best": model == best, "aicc": _sum_aicc(model, compared, supported)}
    return list(rows.values())


def _mean_cells(fits: Sequence[GrowthFit]) -> FitRow:
    # Evaluate all fits at the time at which most wells begin, and a well that begins later at its own first point.
    start = median_low(f.from_h for f in fits)
    values, rates = zip(*(f.at(max(start, f.from_h)) for f in fits), strict=True)
    total_squares = sum(f.total_squares for f in fits)
    row: FitRow = {
        "from_h": start,
        "to_h": max(f.to_h for f in fits),
        "y0": exp(fmean(values)),
        "r2": 1 - sum(f.residual_squares for f in fits) / total_squares if total_squares else None,
    }
    capacities = [f.log_capacity for f in fits if f.log_capacity is not None]
    if capacities:
        row |= _capacity_cells(*_mean_and_interval(capacities))
    few = "" if len(fits) >= MIN_WELLS else f"no interval: {len(fits)} of the {MIN_WELLS} wells that it needs"
    return row | _rate_cells(*_mean_and_interval(rates), few, all(f.grows for f in fits))


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean over wells and its 95 % interval (Student's t); no interval for fewer than `MIN_WELLS`."""
    mean, n = fmean(values), len(values)
    if n < MIN_WELLS:
        return mean, None, None
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def _rate_cells(rate: float, low: float | None, high: float | None, refused: str, all_grow: bool = True) -> FitRow:
    """Return the cells of the rate, and of the doubling time if there is growth: without it, its interval is open."""
    row: FitRow = {"rate_per_h": rate, "rate_ci_low": low, "rate_ci_high": high}
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


def _capacity_cells(middle: float | None, low: float | None, high: float | None) -> FitRow:
    names = ("capacity", "capacity_ci_low", "capacity_ci_high")
    return {name: None if v is None else exp(v) for name, v in zip(names, (middle, low, high), strict=True)}
