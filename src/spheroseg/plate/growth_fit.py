"""Fits a growth model to the values of one well.

The error of a measured volume grows nearly in proportion to the volume (Benzekry et al. 2014, PLoS Comput Biol
10:e1003800). Therefore ln V is fitted by least squares, which assumes an error of a constant percentage. With a
constant absolute error, the last and largest points alone would decide the fit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, isfinite, log

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from scipy.special import fdtr, stdtrit

from spheroseg.plate.fit_refusal import FitRefusal
from spheroseg.plate.growth_models import GrowthModel, Numbers, evaluate_log_model, evaluate_specific_rate

# One point more than the AICc needs at least for a model of that many parameters.
MIN_POINTS = {"exponential": 4, "logistic": 6, "gompertz": 6}
# If the upper limit of the capacity exceeds the largest value by more than this factor, the plateau is only a guess.
MAX_CAPACITY_RATIO = 3.0
SIGNIFICANCE_LEVEL = 0.05
# A curve with a smaller relative distance from the points is exact, so that rounding errors do not decide between two
# perfect fits.
_EXACT = 1e-9
_LOG_LIMITS = (-30.0, 20.0)


@dataclass(frozen=True)
class GrowthFit:
    """A model fitted to ln V at `n` points between `from_h` and `to_h` (hours).

    Rates are per hour. `log_` values are natural logarithms of the measure. `*_low` and `*_high` are the ends of 95 %
    confidence intervals (Student's t, on the scale of the field). `residual_squares` is the sum of squared residuals
    of ln V, `total_squares` the sum of squares about the mean.
    """

    model: GrowthModel
    n: int
    from_h: float
    to_h: float
    log_y0: float
    rate: float
    rate_low: float
    rate_high: float
    residual_squares: float
    total_squares: float
    log_capacity: float | None = None
    log_capacity_low: float | None = None
    log_capacity_high: float | None = None

    @property
    def grows(self) -> bool:
        """Whether the interval of the rate is above 0."""
        return self.rate_low > 0

    @property
    def aicc(self) -> float | None:
        """Akaike's criterion for small samples (Hurvich and Tsai 1989, Biometrika 76:297).

        None for too few points. The variance of the error counts as a parameter.
        """
        parameters = 3 if self.log_capacity is None else 4
        spare = self.n - parameters - 1
        if spare < 1:
            return None
        squares = max(self.residual_squares, self.n * _EXACT**2)
        return self.n * log(squares / self.n) + 2 * parameters + 2 * parameters * (parameters + 1) / spare

    def at(self, hour: float) -> tuple[float, float]:
        """Return ln V and the specific growth rate (per hour) of the curve at this hour of the experiment."""
        hours = np.array([hour - self.from_h])
        log_value = float(evaluate_log_model(self.model, hours, self.log_y0, self.rate, self.log_capacity)[0])
        return log_value, evaluate_specific_rate(self.model, log_value, self.log_y0, self.rate, self.log_capacity)


def fit_model(model: GrowthModel, hours: ArrayLike, values: ArrayLike) -> GrowthFit | FitRefusal:
    """Fit one model to the values of one well, or return why the data do not support it.

    hours, values: one-dimensional, of the same length, in any order. Values are above 0 and in any unit.
    """
    t, y = np.asarray(hours, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(t) < MIN_POINTS[model]:
        return FitRefusal(f"{len(t)} points; a fit of this model needs {MIN_POINTS[model]}")
    # A slope needs two times, and a bend needs four. Several values at one time count as one time.
    min_times = 2 if model == "exponential" else 4
    times = len(np.unique(t))
    if times < min_times:
        return FitRefusal(f"the points are of {times} different times; a fit of this model needs {min_times}")
    exponential = _fit_exponential(t, np.log(y))
    return exponential if model == "exponential" else _fit_with_capacity(model, t, np.log(y), exponential)


def _fit_exponential(t: Numbers, y: Numbers) -> GrowthFit:
    """Fit a straight line to y = ln V at the times t (hours)."""
    s = t - t.min()
    centred = s - s.mean()
    rate = float(centred @ y / (centred @ centred))
    log_y0 = float(y.mean() - rate * s.mean())
    squares = float(np.sum((y - log_y0 - rate * s) ** 2))
    half = _t95(len(t) - 2) * (squares / (len(t) - 2) / float(centred @ centred)) ** 0.5
    total_squares = float(np.sum((y - y.mean()) ** 2))
    return GrowthFit(
        model="exponential",
        n=len(t),
        from_h=float(t.min()),
        to_h=float(t.max()),
        log_y0=log_y0,
        rate=rate,
        rate_low=rate - half,
        rate_high=rate + half,
        residual_squares=squares,
        total_squares=total_squares,
    )


def _fit_with_capacity(model: GrowthModel, t: Numbers, y: Numbers, exponential: GrowthFit) -> GrowthFit | FitRefusal:
    """Fit a logistic or Gompertz model to y = ln V at the times t (hours)."""
    s = t - t.min()

    def residuals(p: Numbers) -> Numbers:
        # The logarithms keep the rate and the room for growth, ln K - ln V0, above 0. The clipping avoids overflow.
        rate, room = np.exp(np.clip(p[1:], *_LOG_LIMITS))
        return evaluate_log_model(model, s, float(p[0]), float(rate), float(p[0] + room)) - y

    solution = least_squares(
        residuals, _find_start(model, residuals, s), method="lm", xtol=1e-12, ftol=1e-12, max_nfev=2000
    )
    p, df = solution.x, len(t) - 3
    squares = 2 * float(solution.cost)
    # Both models have two limits with one parameter less: the exponential model for an infinite capacity, and a jump
    # to the plateau for an infinite rate. If the F test does not reject a limit, the likelihood interval is open on
    # that side, and the interval below, from the curvature at the best fit, would be wrong.
    if _is_limit_as_good(exponential.residual_squares, squares, len(t)):
        return FitRefusal(
            "the growth does not slow down by more than the scatter of the points: the capacity cannot be estimated"
        )
    jump = sum(float(np.sum((part - part.mean()) ** 2)) for part in (y[s == 0], y[s > 0]))
    if _is_limit_as_good(jump, squares, len(t)):
        return FitRefusal(
            "the growth is over at the second time: the rate cannot be estimated, more times are needed before it"
        )
    rate, room = exp(p[1]), exp(p[2])
    jacobian = np.asarray(solution.jac, dtype=np.float64)
    try:
        covariance = np.linalg.inv(jacobian.T @ jacobian) * squares / df
    except np.linalg.LinAlgError:
        covariance = np.full((3, 3), np.nan)
    # From (ln V0, ln mu, ln room) to mu and ln K = ln V0 + room.
    rate_half = _t95(df) * rate * _root(float(covariance[1, 1]))
    gradient = np.array([1.0, 0.0, room])
    capacity_half = _t95(df) * _root(float(gradient @ covariance @ gradient))
    if not (solution.success and isfinite(rate_half) and isfinite(capacity_half)):
        return FitRefusal("several curves of this model fit the points as well: more time points are needed")
    log_capacity = float(p[0] + room)
    if log_capacity + capacity_half > y.max() + log(MAX_CAPACITY_RATIO):
        return FitRefusal(
            f"the plateau was not seen: the 95 % interval of the capacity reaches more than "
            f"{MAX_CAPACITY_RATIO:g} times above the largest value"
        )
    return GrowthFit(
        model=model,
        n=len(t),
        from_h=float(t.min()),
        to_h=float(t.max()),
        log_y0=float(p[0]),
        rate=rate,
        rate_low=rate - rate_half,
        rate_high=rate + rate_half,
        residual_squares=squares,
        total_squares=exponential.total_squares,
        log_capacity=log_capacity,
        log_capacity_low=log_capacity - capacity_half,
        log_capacity_high=log_capacity + capacity_half,
    )


def _find_start(model: GrowthModel, residuals: Callable[[Numbers], Numbers], s: Numbers) -> Numbers:
    """Return the best start of a grid of values for the distance from V0 to the capacity and for the rate."""
    best, least = np.zeros(3), inf
    for room in np.geomspace(0.05, 10, 10):
        for bend in np.geomspace(0.2, 50, 10) / s.max():
            rate = bend * (room if model == "gompertz" else -np.expm1(-room))
            p = np.array([0.0, log(rate), log(room)])
            misfit = residuals(p)
            p[0] = -misfit.mean()
            if misfit.var() < least:
                best, least = p, float(misfit.var())
    return best


def _is_limit_as_good(limit: float, squares: float, n: int) -> bool:
    """Return whether the F test does not reject the limit with two parameters of a model with three.

    limit, squares: the residual sums of squares of the limit and of the model, both at n points.
    """
    exact = n * _EXACT**2
    f = (max(limit, exact) / max(squares, exact) - 1) * (n - 3)
    return 1 - float(fdtr(1, n - 3, max(f, 0.0))) > SIGNIFICANCE_LEVEL


def _root(variance: float) -> float:
    return variance**0.5 if variance >= 0 else inf


def _t95(df: int) -> float:
    return float(stdtrit(df, 0.975))
