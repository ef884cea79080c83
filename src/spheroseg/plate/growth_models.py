"""Computes three models of growth: exponential, logistic and Gompertz.

V is the measure, s the hours since the first point, V0 the value of the curve at s = 0, and K the capacity:

    exponential   dV/dt = r V                    V = V0 exp(r s)
    logistic      dV/dt = r V (1 - V/K)          V = K / (1 + (K/V0 - 1) exp(-r s))
    Gompertz      dV/dt = a V ln(K/V)            V = K (V0/K) ^ exp(-a s)

(Benzekry et al. 2014, PLoS Comput Biol 10:e1003800; Gerlee 2013, Cancer Res 73:2407.) The constants r and a have
different meanings. All three models are therefore written with the same rate: mu, the specific growth rate d ln V/dt
at s = 0, per hour. It is r, r (1 - V0/K) and a ln(K/V0). The specific growth rate never rises afterwards, so mu is
its maximum, and ln 2 / mu is the doubling time at the start.
"""

from math import log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

GrowthModel = Literal["exponential", "logistic", "gompertz"]
GROWTH_MODELS: tuple[GrowthModel, ...] = ("exponential", "logistic", "gompertz")
Numbers = NDArray[np.float64]


def evaluate_model(
    model: GrowthModel, hours: ArrayLike, y0: float, rate: float, capacity: float | None = None
) -> Numbers:
    """Return the values of a model at `hours` since its start, in the unit of `y0` and the shape of `hours`.

    y0: the value at the start. rate: the specific growth rate at the start, per hour. capacity: in the unit of `y0`,
    needed for all models but the exponential one.
    """
    log_capacity = None if capacity is None else log(capacity)
    return np.exp(evaluate_log_model(model, np.asarray(hours, dtype=np.float64), log(y0), rate, log_capacity))


def evaluate_log_model(
    model: GrowthModel, hours: Numbers, log_y0: float, rate: float, log_capacity: float | None
) -> Numbers:
    """Return the natural logarithm of a model at `hours` since its start. `log_` arguments are natural logarithms."""
    if log_capacity is None:
        return log_y0 + rate * hours
    room = log_capacity - log_y0
    if model == "gompertz":
        return np.asarray(log_y0 - room * np.expm1(-rate / room * hours))
    # ln of V0/K + (1 - V0/K) exp(-r s), without overflow.
    free = -np.expm1(-room)
    return np.asarray(log_y0 - np.logaddexp(-room, np.log(free) - rate / free * hours))


def evaluate_specific_rate(
    model: GrowthModel, log_value: float, log_y0: float, rate: float, log_capacity: float | None
) -> float:
    """Return the specific growth rate d ln V/dt, per hour, where the model has the value exp(log_value)."""
    if log_capacity is None:
        return rate
    room, left = log_capacity - log_y0, log_capacity - log_value
    if model == "gompertz":
        return rate * left / room
    return rate * float(np.expm1(-left) / np.expm1(-room))
