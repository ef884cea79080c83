"""Three laws of growth and their fit to one well: exponential, logistic, Gompertz.

With V the measure, s the hours since the first point, V0 the value of the curve there and K the capacity:

    exponential   dV/dt = r V                    V = V0 exp(r s)
    logistic      dV/dt = r V (1 - V/K)          V = K / (1 + (K/V0 - 1) exp(-r s))
    Gompertz      dV/dt = a V ln(K/V)            V = K (V0/K) ^ exp(-a s)

(Benzekry et al. 2014, PLoS Comput Biol 10:e1003800; Gerlee 2013, Cancer Res 73:2407.) The constants r and a mean
different things, so that all three are written with one rate that means the same: mu, the specific growth rate
d ln V/dt at s = 0, per hour. It is r, r (1 - V0/K) and a ln(K/V0). In all three laws the specific growth rate never
rises afterwards: mu is its maximum within the hours fitted, and ln 2 / mu the doubling time at the start.

The error of a measured volume grows with the volume, nearly in proportion (Benzekry et al. 2014). Therefore ln V is
fitted by least squares, which is the fit for an error of a constant percentage; with a constant error the last,
largest points would decide alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.special import fdtr, stdtrit

Law = Literal["exponential", "logistic", "gompertz"]
LAWS: tuple[Law, ...] = ("exponential", "logistic", "gompertz")
Numbers = NDArray[np.float64]

# One more and the AICc has a value for a law of three parameters.
LEAST_POINTS = {"exponential": 4, "logistic": 6, "gompertz": 6}
# An upper limit further above the largest value than this says that the plateau is a guess.
CAPACITY_SEEN = 3.0
SIGNIFICANT = 0.05
# Points nearer to the curve than a part in 1e9 are on it: rounding must not choose between two perfect fits.
_EXACT = 1e-9
_LIMITS = (-30.0, 20.0)


@dataclass(frozen=True)
class Fit:
    """A law fitted to ln V at n points.

    Rates are per hour; `log_` values are natural logarithms of the measure. `*_low` and `*_high` are the ends of
    95 % intervals (Student's t, on the scale named). `aicc` is None where there are too few points for it.
    """

    law: Law
    n: int
    from_h: float
    to_h: float
    log_y0: float
    rate: float
    rate_low: float
    rate_high: float
    squares: float
    squares_about_mean: float
    log_capacity: float | None = None
    log_capacity_low: float | None = None
    log_capacity_high: float | None = None

    @property
    def grows(self) -> bool:
        return self.rate_low > 0

    @property
    def aicc(self) -> float | None:
        """Akaike's criterion for small samples (Hurvich and Tsai 1989); the error counts as a parameter."""
        parameters = 3 if self.log_capacity is None else 4
        spare = self.n - parameters - 1
        if spare < 1:
            return None
        squares = max(self.squares, self.n * _EXACT**2)
        return self.n * log(squares / self.n) + 2 * parameters + 2 * parameters * (parameters + 1) / spare

    def at(self, hour: float) -> tuple[float, float]:
        """ln V and the specific growth rate of the curve at that hour."""
        s = hour - self.from_h
        value = float(_log_curve(self.law, np.array([s]), self.log_y0, self.rate, self.log_capacity)[0])
        if self.log_capacity is None:
            return value, self.rate
        room, left = self.log_capacity - self.log_y0, self.log_capacity - value
        if self.law == "gompertz":
            return value, self.rate * left / room
        return value, self.rate * float(np.expm1(-left) / np.expm1(-room))


@dataclass(frozen=True)
class Refusal:
    """Why the data do not support a law: a sentence for the person."""

    reason: str


def curve(law: Law, hours: ArrayLike, y0: float, rate: float, capacity: float | None = None) -> Numbers:
    """The values of a law at `hours` since its start, where it is `y0` and grows with `rate` per hour.

    In the unit of `y0`; `capacity` is needed for all but the exponential.
    """
    top = None if capacity is None else log(capacity)
    return np.exp(_log_curve(law, np.asarray(hours, dtype=np.float64), log(y0), rate, top))


def fit(law: Law, hours: ArrayLike, values: ArrayLike) -> Fit | Refusal:
    """Fits one law to the values (> 0, any unit) at those hours, of one well; they need not be in order."""
    t, y = np.asarray(hours, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(t) < LEAST_POINTS[law]:
        return Refusal(f"{len(t)} points; a fit of this model needs {LEAST_POINTS[law]}")
    # A step needs two times, a bend four; several values at one time tell nothing of the course.
    least_times = 2 if law == "exponential" else 4
    times = len(np.unique(t))
    if times < least_times:
        return Refusal(f"the points are of {times} different times; a fit of this model needs {least_times}")
    straight = _fit_straight(t, np.log(y))
    return straight if law == "exponential" else _fit_bent(law, t, np.log(y), straight)


def _log_curve(law: Law, s: Numbers, log_y0: float, rate: float, log_capacity: float | None) -> Numbers:
    if log_capacity is None:
        return log_y0 + rate * s
    room = log_capacity - log_y0
    if law == "gompertz":
        return np.asarray(log_y0 - room * np.expm1(-rate / room * s))
    # ln of V0/K + (1 - V0/K) exp(-r s), without leaving the range of floats.
    free = -np.expm1(-room)
    return np.asarray(log_y0 - np.logaddexp(-room, np.log(free) - rate / free * s))


def _fit_straight(t: Numbers, y: Numbers) -> Fit:
    s = t - t.min()
    centred = s - s.mean()
    rate = float(centred @ y / (centred @ centred))
    log_y0 = float(y.mean() - rate * s.mean())
    squares = float(np.sum((y - log_y0 - rate * s) ** 2))
    half = _t95(len(t) - 2) * (squares / (len(t) - 2) / float(centred @ centred)) ** 0.5
    about_mean = float(np.sum((y - y.mean()) ** 2))
    return Fit(
        "exponential",
        len(t),
        float(t.min()),
        float(t.max()),
        log_y0,
        rate,
        rate - half,
        rate + half,
        squares,
        about_mean,
    )


def _fit_bent(law: Law, t: Numbers, y: Numbers, straight: Fit) -> Fit | Refusal:
    s = t - t.min()

    def residuals(p: Numbers) -> Numbers:
        # Logarithms keep the rate and the room for growth above 0; the limits keep them in the range of floats.
        rate, room = np.exp(np.clip(p[1:], *_LIMITS))
        return _log_curve(law, s, float(p[0]), float(rate), float(p[0] + room)) - y

    found = least_squares(residuals, _start(law, residuals, s), method="lm", xtol=1e-12, ftol=1e-12, max_nfev=2000)
    p, df = found.x, len(t) - 3
    squares = 2 * float(found.cost)
    # Both laws have limits with one parameter less: with a capacity without end the exponential, with a rate without
    # end a jump to the plateau. Where the F test lets a limit pass, the likelihood interval has no end there, and the
    # one below, from the curvature at the best fit, would be false.
    if _as_good(straight.squares, squares, len(t)):
        return Refusal(
            "the growth does not slow down by more than the scatter of the points: no capacity can be told"
        )
    jump = sum(float(np.sum((part - part.mean()) ** 2)) for part in (y[s == 0], y[s > 0]))
    if _as_good(jump, squares, len(t)):
        return Refusal("the growth is over at the second time: no rate can be told, more times are needed before it")
    rate, room = exp(p[1]), exp(p[2])
    jacobian = np.asarray(found.jac, dtype=np.float64)
    try:
        covariance = np.linalg.inv(jacobian.T @ jacobian) * squares / df
    except np.linalg.LinAlgError:
        covariance = np.full((3, 3), np.nan)
    # From (ln V0, ln mu, ln room) to mu and ln K = ln V0 + room.
    rate_half = _t95(df) * rate * _root(float(covariance[1, 1]))
    towards = np.array([1.0, 0.0, room])
    capacity_half = _t95(df) * _root(float(towards @ covariance @ towards))
    if not (found.success and isfinite(rate_half) and isfinite(capacity_half)):
        return Refusal("several curves of this model fit the points as well: more time points are needed")
    log_capacity = float(p[0] + room)
    if log_capacity + capacity_half > y.max() + log(CAPACITY_SEEN):
        return Refusal(
            f"the plateau was not seen: the 95 % interval of the capacity reaches more than {CAPACITY_SEEN:g} times "
            "above the largest value"
        )
    return Fit(
        law,
        len(t),
        float(t.min()),
        float(t.max()),
        float(p[0]),
        rate,
        rate - rate_half,
        rate + rate_half,
        squares,
        straight.squares_about_mean,
        log_capacity,
        log_capacity - capacity_half,
        log_capacity + capacity_half,
    )


def _start(law: Law, residuals: Callable[[Numbers], Numbers], s: Numbers) -> Numbers:
    """The best of a grid: how far below the capacity the well starts, and how fast it comes there."""
    best, least = np.zeros(3), inf
    for room in np.geomspace(0.05, 10, 10):
        for bend in np.geomspace(0.2, 50, 10) / s.max():
            rate = bend * (room if law == "gompertz" else -np.expm1(-room))
            p = np.array([0.0, log(rate), log(room)])
            off = residuals(p)
            p[0] = -off.mean()
            if off.var() < least:
                best, least = p, float(off.var())
    return best


def _as_good(limit: float, squares: float, n: int) -> bool:
    """Whether n points do not tell a law of three parameters from its limit of two, by their sums of squares."""
    exact = n * _EXACT**2
    f = (max(limit, exact) / max(squares, exact) - 1) * (n - 3)
    return 1 - float(fdtr(1, n - 3, max(f, 0.0))) > SIGNIFICANT


def _root(variance: float) -> float:
    return variance**0.5 if variance >= 0 else inf


def _t95(df: int) -> float:
    return float(stdtrit(df, 0.975))
