"""The four-parameter logistic curve of a response over doses, and its fit.

    y = bottom + (top - bottom) / (1 + (dose / ic50) ^ hill)

At dose 0 it is `top`, so that untreated wells count as they are; `hill` > 0. This is LL.4 of the R package drc
(Ritz et al. 2015, PLoS ONE 10:e0146021), there with b = hill, c = bottom, d = top, e = ic50. As there by default, it
is fitted by least squares on the response itself. `ic50` is the relative IC50: the dose half way between the plateaus
of the curve, not the one at half of the control (Sebaugh 2011, Pharm Stat 10:128).

For a given ic50 and hill the plateaus are a straight line's fit, so that only two parameters are searched (Golub and
Pereyra 1973). The interval of the ic50 is that of the profile likelihood (Bates and Watts 1988, Nonlinear Regression
Analysis, chapter 6): all ic50 whose best curve the F test does not tell from the best of all. It is lopsided where
the data are, and has no end where a plateau was not reached.
"""

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, least_squares, minimize_scalar
from scipy.special import fdtr, fdtri

Numbers = NDArray[np.float64]

LEAST_DOSES = 4
LEAST_WELLS = 6
# Concentrations on either side of the ic50, 0 among them. Sebaugh asks for two past either bend of the curve.
LEAST_BESIDE = 2
SIGNIFICANT = 0.05
# How far from the doses tested the interval of the ic50 is followed; where it goes on, it has no end.
BEYOND = 10.0
# A steeper curve is a step between two doses, a flatter one a straight line: neither has a place for the ic50.
HILLS = (0.1, 50.0)
# Points nearer to the curve than a part in 1e9 are on it.
_EXACT = 1e-9
_HILL_GRID = np.log(np.geomspace(*HILLS, 25))


@dataclass(frozen=True)
class DoseCurve:
    """`ic50_low` and `ic50_high` are the ends of the 95 % interval, in the unit of the doses."""

    ic50: float
    ic50_low: float
    ic50_high: float
    hill: float
    top: float
    bottom: float
    r2: float


@dataclass(frozen=True)
class NoCurve:
    """Why the wells do not support an IC50: a sentence for the person."""

    reason: str


def response(doses: ArrayLike, ic50: float, hill: float, top: float, bottom: float) -> Numbers:
    """The curve at those doses (0 or more, in the unit of `ic50`), in the unit of `top` and `bottom`."""
    return bottom + (top - bottom) * _part_left(np.asarray(doses, dtype=np.float64), log(ic50), log(hill))


def fit_doses(doses: ArrayLike, responses: ArrayLike) -> DoseCurve | NoCurve:
    """Fits the curve to one response per well, in any unit."""
    x, y = np.asarray(doses, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    tested = np.unique(x[x > 0])
    if len(tested) < LEAST_DOSES:
        return NoCurve(
            f"an IC50 needs {LEAST_DOSES} concentrations above 0 that have a value; there are {len(tested)}"
        )
    if len(y) < LEAST_WELLS:
        return NoCurve(f"an IC50 needs {LEAST_WELLS} wells that have a value; there are {len(y)}")
    scale = float(np.abs(y).max()) or 1.0
    search = _Search(x, y / scale)
    about_mean, df = float(np.sum((search.y - search.y.mean()) ** 2)), len(y) - 4
    place, hill = search.best(tested)
    squares = max(search.squares(place, hill), len(y) * _EXACT**2)
    f = (about_mean / squares - 1) * df / 3
    if 1 - float(fdtr(3, df, max(f, 0.0))) > SIGNIFICANT:
        return NoCurve("no effect is shown: the concentrations differ no more than the wells of one")
    top, bottom = search.plateaus(place, hill)
    if bottom > top:
        return NoCurve("the response rises with the concentration: nothing is inhibited, so there is no IC50")
    lowest, highest = log(tested[0]), log(tested[-1])
    if not lowest <= place <= highest or hill <= log(HILLS[0]) + 1e-3:
        return NoCurve("a plateau was not reached: the half way point is outside of the concentrations tested")
    doses = np.unique(x)
    below, above = doses[doses <= exp(place)], doses[doses > exp(place)]
    if min(len(below), len(above)) < LEAST_BESIDE:
        side, way = ("highest", "higher") if len(above) < LEAST_BESIDE else ("lowest", "lower")
        return NoCurve(f"the half way point is next to the {side} concentration: test {way} ones, to see the plateau")
    if hill >= log(HILLS[1]) - 1e-3:
        return NoCurve(
            f"the response falls in one step between {below[-1]:g} and {above[0]:g}: test more around them"
        )
    limit = squares * (1 + float(fdtri(1, df, 0.95)) / df)
    low = search.end(place, hill, lowest - log(BEYOND), limit)
    high = search.end(place, hill, highest + log(BEYOND), limit)
    if low is None or high is None:
        side = "lowest" if low is None else "highest"
        return NoCurve(
            f"a plateau was not reached: the 95 % interval of the IC50 does not end within {BEYOND:g} times of the "
            f"{side} concentration"
        )
    r2 = 1 - search.squares(place, hill) / about_mean
    return DoseCurve(exp(place), exp(low), exp(high), exp(hill), top * scale, bottom * scale, r2)


def _part_left(doses: Numbers, place: float, hill: float | Numbers) -> Numbers:
    """The part of the response that is left: 1 at dose 0, half at exp(place), 0 without end."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1 / (1 + np.exp(np.exp(hill) * (np.log(doses) - place))))


@dataclass(frozen=True)
class _Search:
    """The curve as a function of `place` = ln ic50 and `hill` = ln hill alone; the plateaus follow from them."""

    x: Numbers
    y: Numbers

    def plateaus(self, place: float, hill: float) -> tuple[float, float]:
        part = _part_left(self.x, place, hill)
        off = part - part.mean()
        spread = float(off @ off)
        slope = float(off @ self.y) / spread if spread else 0.0
        bottom = float(self.y.mean() - slope * part.mean())
        return bottom + slope, bottom

    def residuals(self, place: float, hill: float) -> Numbers:
        top, bottom = self.plateaus(place, hill)
        return bottom + (top - bottom) * _part_left(self.x, place, hill) - self.y

    def squares(self, place: float, hill: float) -> float:
        off = self.residuals(place, hill)
        return float(off @ off)

    def best(self, tested: Numbers) -> tuple[float, float]:
        places = np.linspace(log(tested[0] / BEYOND), log(tested[-1] * BEYOND), 60)
        grid = np.array([self._grid(p) for p in places])
        place, hill = np.unravel_index(int(grid.argmin()), grid.shape)
        start = (places[place], _HILL_GRID[hill])

        def residuals(at: Numbers) -> Numbers:
            return self.residuals(float(at[0]), float(at[1]))

        # A little room past the grid, so that a start on its edge is inside.
        bounds = ([places[0] - 1, _HILL_GRID[0] - 1e-6], [places[-1] + 1, _HILL_GRID[-1] + 1e-6])
        found = least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-14, gtol=1e-14)
        return float(found.x[0]), float(found.x[1])

    def end(self, place: float, hill: float, last: float, limit: float) -> float | None:
        """The ln ic50 between the best (`place`, `hill`) and `last` whose best curve has `limit` squares, if any."""

        def over(at: float) -> float:
            n = int(self._grid(at).argmin())
            around = (_HILL_GRID[max(n - 1, 0)], _HILL_GRID[min(n + 1, len(_HILL_GRID) - 1)])
            found = minimize_scalar(lambda h: self.squares(at, h), bounds=around, method="bounded")
            return min(float(found.fun), self.squares(at, float(_HILL_GRID[n])), self.squares(at, hill)) - limit

        inside = place
        for outside in np.linspace(place, last, 60)[1:]:
            if over(float(outside)) > 0:
                return float(brentq(over, inside, outside, xtol=1e-9))
            inside = float(outside)
        return None

    def _grid(self, place: float) -> Numbers:
        """The squares at that ln ic50 for each ln hill of the grid."""
        parts = _part_left(self.x, place, _HILL_GRID[:, None])
        off = parts - parts.mean(axis=1, keepdims=True)
        centred = self.y - self.y.mean()
        spread = (off**2).sum(axis=1)
        slopes = np.divide(off @ centred, spread, out=np.zeros_like(spread), where=spread > 0)
        return np.asarray(((centred - slopes[:, None] * off) ** 2).sum(axis=1))
