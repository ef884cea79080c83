"""Fits the four-parameter logistic curve to responses at several doses.

    y = bottom + (top - bottom) / (1 + (dose / ic50) ^ hill)

At dose 0 it is `top`, so untreated wells need no special case. `hill` is above 0. The curve is LL.4 of the R package
drc (Ritz et al. 2015, PLoS ONE 10:e0146021) with b = hill, c = bottom, d = top, e = ic50. As in drc by default, it
minimises the squared residuals of the response itself. `ic50` is the relative IC50: the dose half-way between the
plateaus of the curve, not the one at half of the control (Sebaugh 2011, Pharm Stat 10:128).

For a given ic50 and hill, the plateaus follow from a linear fit, so only two parameters are searched (Golub and
Pereyra 1973, SIAM J Numer Anal 10:413). The interval of the ic50 is the profile likelihood interval (Bates and Watts
1988, Nonlinear Regression Analysis, chapter 6). It holds every ic50 whose best curve the F test does not reject
against the best of all curves. It may be asymmetric, and it is open on a side on which no plateau was reached.
"""

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, least_squares, minimize_scalar
from scipy.special import fdtr, fdtri

from spheroseg.plate.fit_refusal import FitRefusal
from spheroseg.plate.options import MIN_CONCENTRATIONS

Numbers = NDArray[np.float64]

MIN_WELLS = 6
# Number of concentrations on each side of the ic50, 0 included. Sebaugh (2011) requires two beyond each bend.
MIN_CONCENTRATIONS_PER_SIDE = 2
SIGNIFICANCE_LEVEL = 0.05
# The ends of the interval are searched up to this factor beyond the doses tested. Farther out, the interval is open.
MAX_EXTRAPOLATION_FACTOR = 10.0
# A steeper curve is a step between two doses, a flatter one is a straight line. Neither determines the ic50.
HILL_RANGE = (0.1, 50.0)
# A curve that misses the points by less than this relative distance is exact.
_EXACT = 1e-9
_HILL_GRID = np.log(np.geomspace(*HILL_RANGE, 25))


@dataclass(frozen=True)
class DoseResponseFit:
    """A fitted curve.

    ic50 and the ends of its 95 % interval are in the unit of the doses. hill has no unit. top and bottom are in the
    unit of the responses. r2: the share of the variance that the curve explains.
    """

    ic50: float
    ic50_low: float
    ic50_high: float
    hill: float
    top: float
    bottom: float
    r2: float


def evaluate_dose_response(doses: ArrayLike, ic50: float, hill: float, top: float, bottom: float) -> Numbers:
    """Return the curve at those doses (0 or more, in the unit of `ic50`), in the unit of `top` and `bottom`."""
    return bottom + (top - bottom) * _remaining_share(np.asarray(doses, dtype=np.float64), log(ic50), log(hill))


def fit_dose_response(doses: ArrayLike, responses: ArrayLike) -> DoseResponseFit | FitRefusal:
    """Fit the curve to one response per well, or return why the wells do not support an IC50.

    doses, responses: one-dimensional, of the same length, in any units. Doses are 0 or more.
    """
    x, y = np.asarray(doses, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    tested = np.unique(x[x > 0])
    if len(tested) < MIN_CONCENTRATIONS:
        return FitRefusal(
            f"an IC50 needs {MIN_CONCENTRATIONS} concentrations above 0 that have a value; there are {len(tested)}"
        )
    if len(y) < MIN_WELLS:
        return FitRefusal(f"an IC50 needs {MIN_WELLS} wells that have a value; there are {len(y)}")
    scale = float(np.abs(y).max()) or 1.0
    curves = _ProfiledCurves(x, y / scale)
    total_squares, df = float(np.sum((curves.y - curves.y.mean()) ** 2)), len(y) - 4
    log_ic50, log_hill = curves.find_best(tested)
    squares = max(curves.squares(log_ic50, log_hill), len(y) * _EXACT**2)
    f = (total_squares / squares - 1) * df / 3
    if 1 - float(fdtr(3, df, max(f, 0.0))) > SIGNIFICANCE_LEVEL:
        return FitRefusal("no effect is shown: the concentrations differ no more than the wells of one")
    top, bottom = curves.plateaus(log_ic50, log_hill)
    if bottom > top:
        return FitRefusal("the response rises with the concentration: nothing is inhibited, so there is no IC50")
    lowest, highest = log(tested[0]), log(tested[-1])
    if not lowest <= log_ic50 <= highest or log_hill <= log(HILL_RANGE[0]) + 1e-3:
        return FitRefusal("a plateau was not reached: the half-way point is outside the concentrations tested")
    doses = np.unique(x)
    below, above = doses[doses <= exp(log_ic50)], doses[doses > exp(log_ic50)]
    if min(len(below), len(above)) < MIN_CONCENTRATIONS_PER_SIDE:
        side, way = ("highest", "higher") if len(above) < MIN_CONCENTRATIONS_PER_SIDE else ("lowest", "lower")
        return FitRefusal(
            f"the half-way point is next to the {side} concentration: test {way} ones, to see the plateau"
        )
    if log_hill >= log(HILL_RANGE[1]) - 1e-3:
        return FitRefusal(
            f"the response falls in one step between {below[-1]:g} and {above[0]:g}: test more around them"
        )
    limit = squares * (1 + float(fdtri(1, df, 0.95)) / df)
    low = curves.find_interval_end(log_ic50, log_hill, lowest - log(MAX_EXTRAPOLATION_FACTOR), limit)
    high = curves.find_interval_end(log_ic50, log_hill, highest + log(MAX_EXTRAPOLATION_FACTOR), limit)
    if low is None or high is None:
        side = "lowest" if low is None else "highest"
        return FitRefusal(
            f"a plateau was not reached: the 95 % interval of the IC50 does not end within a factor of "
            f"{MAX_EXTRAPOLATION_FACTOR:g} of the {side} concentration"
        )
    r2 = 1 - curves.squares(log_ic50, log_hill) / total_squares
    return DoseResponseFit(exp(log_ic50), exp(low), exp(high), exp(log_hill), top * scale, bottom * scale, r2)


def _remaining_share(doses: Numbers, log_ic50: float, log_hill: float | Numbers) -> Numbers:
    """Return the share of the response that remains: 1 at dose 0, 0.5 at the ic50, 0 at an infinite dose."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1 / (1 + np.exp(np.exp(log_hill) * (np.log(doses) - log_ic50))))


@dataclass(frozen=True)
class _ProfiledCurves:
    """The curves as functions of ln ic50 and ln hill alone, each with the plateaus that fit the data best.

    x: the doses. y: the responses, scaled to a largest absolute value of 1.
    """

    x: Numbers
    y: Numbers

    def plateaus(self, log_ic50: float, log_hill: float) -> tuple[float, float]:
        """Return the top and the bottom that fit best."""
        share = _remaining_share(self.x, log_ic50, log_hill)
        centred = share - share.mean()
        spread = float(centred @ centred)
        slope = float(centred @ self.y) / spread if spread else 0.0
        bottom = float(self.y.mean() - slope * share.mean())
        return bottom + slope, bottom

    def residuals(self, log_ic50: float, log_hill: float) -> Numbers:
        top, bottom = self.plateaus(log_ic50, log_hill)
        return bottom + (top - bottom) * _remaining_share(self.x, log_ic50, log_hill) - self.y

    def squares(self, log_ic50: float, log_hill: float) -> float:
        """Return the sum of the squared residuals."""
        residuals = self.residuals(log_ic50, log_hill)
        return float(residuals @ residuals)

    def find_best(self, tested: Numbers) -> tuple[float, float]:
        """Return ln ic50 and ln hill of the best curve. tested: the doses above 0, in ascending order."""
        log_ic50s = np.linspace(
            log(tested[0] / MAX_EXTRAPOLATION_FACTOR), log(tested[-1] * MAX_EXTRAPOLATION_FACTOR), 60
        )
        grid = np.array([self._squares_over_hills(log_ic50) for log_ic50 in log_ic50s])
        best_ic50, best_hill = np.unravel_index(int(grid.argmin()), grid.shape)
        start = (log_ic50s[best_ic50], _HILL_GRID[best_hill])

        def residuals(parameters: Numbers) -> Numbers:
            return self.residuals(float(parameters[0]), float(parameters[1]))

        # The bounds are slightly wider than the grid, so that starts on the edge of the grid are inside.
        bounds = ([log_ic50s[0] - 1, _HILL_GRID[0] - 1e-6], [log_ic50s[-1] + 1, _HILL_GRID[-1] + 1e-6])
        solution = least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-14, gtol=1e-14)
        return float(solution.x[0]), float(solution.x[1])

    def find_interval_end(self, log_ic50: float, log_hill: float, last: float, limit: float) -> float | None:
        """Return the ln ic50 between the best one and `last` at which the sum of squares reaches `limit`, or None.

        log_ic50, log_hill: the parameters of the best curve.
        """

        def excess(at: float) -> float:
            index = int(self._squares_over_hills(at).argmin())
            bounds = (_HILL_GRID[max(index - 1, 0)], _HILL_GRID[min(index + 1, len(_HILL_GRID) - 1)])
            minimum = minimize_scalar(lambda hill: self.squares(at, hill), bounds=bounds, method="bounded")
            return (
                min(float(minimum.fun), self.squares(at, float(_HILL_GRID[index])), self.squares(at, log_hill))
                - limit
            )

        inside = log_ic50
        for outside in np.linspace(log_ic50, last, 60)[1:]:
            if excess(float(outside)) > 0:
                return float(brentq(excess, inside, outside, xtol=1e-9))
            inside = float(outside)
        return None

    def _squares_over_hills(self, log_ic50: float) -> Numbers:
        """Return the sum of the squared residuals at this ln ic50 for each ln hill of the grid."""
        shares = _remaining_share(self.x, log_ic50, _HILL_GRID[:, None])
        centred_shares = shares - shares.mean(axis=1, keepdims=True)
        centred_y = self.y - self.y.mean()
        spread = (centred_shares**2).sum(axis=1)
        slopes = np.divide(centred_shares @ centred_y, spread, out=np.zeros_like(spread), where=spread > 0)
        return np.asarray(((centred_y - slopes[:, None] * centred_shares) ** 2).sum(axis=1))
