"""The three models against known curves: exact without noise, and with correct intervals with noise."""

from collections import Counter
from math import log

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from spheroseg.plate.fit_refusal import FitRefusal
from spheroseg.plate.growth_fit import GrowthFit, fit_model
from spheroseg.plate.growth_models import GROWTH_MODELS, GrowthModel, evaluate_model

HOURS = np.arange(0.0, 97.0, 8.0)
CAPACITY: dict[GrowthModel, float | None] = {"exponential": None, "logistic": 6e6, "gompertz": 6e6}


def fitted(model: GrowthModel, hours: object, values: object) -> GrowthFit:
    outcome = fit_model(model, hours, values)  # type: ignore[arg-type]
    assert isinstance(outcome, GrowthFit), outcome
    return outcome


def refused(model: GrowthModel, hours: object, values: object) -> str:
    outcome = fit_model(model, hours, values)  # type: ignore[arg-type]
    assert isinstance(outcome, FitRefusal), outcome
    return outcome.reason


@pytest.mark.parametrize("model", GROWTH_MODELS)
def test_a_fit_without_noise_recovers_the_parameters(model: GrowthModel) -> None:
    found = fitted(model, HOURS + 3, evaluate_model(model, HOURS, 1e6, 0.04, CAPACITY[model]))
    assert np.exp(found.log_y0) == pytest.approx(1e6, rel=1e-6)
    assert found.rate == pytest.approx(0.04, rel=1e-6)
    assert (found.rate_low, found.rate_high) == pytest.approx((0.04, 0.04), rel=1e-5)
    assert (found.from_h, found.to_h, found.n) == (3, 99, 13)
    if found.log_capacity is not None:
        assert np.exp(found.log_capacity) == pytest.approx(6e6, rel=1e-6)


@pytest.mark.parametrize("model", GROWTH_MODELS)
def test_a_model_solves_its_differential_equation(model: GrowthModel) -> None:
    """The rate is the specific growth rate at the start, whatever the constant of the textbook equation."""
    mu, y0, top = 0.05, 1.0, 5.0
    slopes = {
        "exponential": lambda _, v: mu * v,
        "logistic": lambda _, v: mu / (1 - y0 / top) * v * (1 - v / top),
        "gompertz": lambda _, v: mu / log(top / y0) * v * np.log(top / v),
    }
    known = solve_ivp(slopes[model], (0, 96), [y0], t_eval=HOURS, rtol=1e-10, atol=1e-12).y[0]
    capacity = None if model == "exponential" else top
    assert evaluate_model(model, HOURS, y0, mu, capacity) == pytest.approx(known, rel=1e-7)


@pytest.mark.parametrize("model", GROWTH_MODELS)
def test_the_rate_at_a_later_hour_is_the_slope_there(model: GrowthModel) -> None:
    found = fitted(model, HOURS, evaluate_model(model, HOURS, 1e6, 0.04, CAPACITY[model]))
    before, after = np.log(evaluate_model(model, [29.99, 30.01], 1e6, 0.04, CAPACITY[model]))
    value, rate = found.at(30)
    assert value == pytest.approx((before + after) / 2, rel=1e-6)
    assert rate == pytest.approx((after - before) / 0.02, rel=1e-4)
    assert found.at(0)[1] == pytest.approx(0.04, rel=1e-6)


@pytest.mark.parametrize("model", GROWTH_MODELS)
def test_nineteen_of_twenty_intervals_contain_the_true_value(model: GrowthModel) -> None:
    draws, rng = 300, np.random.default_rng(6)
    held: Counter[str] = Counter()
    for _ in range(draws):
        noise = np.exp(rng.normal(0, 0.05, len(HOURS)))
        found = fitted(model, HOURS, evaluate_model(model, HOURS, 1e6, 0.05, CAPACITY[model]) * noise)
        held["rate"] += found.rate_low <= 0.05 <= found.rate_high
        if found.log_capacity_low is not None and found.log_capacity_high is not None:
            held["capacity"] += found.log_capacity_low <= log(6e6) <= found.log_capacity_high
    # Three standard errors of a share of 0.95 in 300 draws.
    for name, times in held.items():
        assert abs(times / draws - 0.95) < 0.038, name


@pytest.mark.parametrize("model", GROWTH_MODELS)
def test_the_true_model_has_the_lowest_aicc(model: GrowthModel) -> None:
    rng, chosen = np.random.default_rng(2), Counter[str]()
    for _ in range(40):
        values = evaluate_model(model, HOURS, 1e6, 0.05, CAPACITY[model]) * np.exp(rng.normal(0, 0.02, len(HOURS)))
        fits = [
            outcome for other in GROWTH_MODELS if isinstance(outcome := fit_model(other, HOURS, values), GrowthFit)
        ]
        chosen[min(fits, key=lambda found: found.aicc or 0).model] += 1
    assert chosen[model] >= 38


def test_the_interval_of_a_straight_line_is_that_of_the_textbook() -> None:
    """ln V = 0, 2, 2, 4 at 0, 1, 2, 3 h: slope 1.2, residual sum of squares 0.8, t(0.975; 2) = 4.302653."""
    found = fitted("exponential", [0, 1, 2, 3], np.exp([0, 2, 2, 4]))
    assert found.rate == pytest.approx(1.2)
    assert found.residual_squares == pytest.approx(0.8)
    assert found.rate_high - found.rate == pytest.approx(4.302653 * (0.8 / 2 / 5) ** 0.5, rel=1e-6)


def test_aicc_counts_the_error_as_a_parameter() -> None:
    found = fitted("exponential", [0, 1, 2, 3, 4], np.exp([0, 2, 2, 4, 4]))
    assert found.aicc == pytest.approx(5 * log(found.residual_squares / 5) + 6 + 24)
    assert fitted("exponential", [0, 1, 2, 3], np.exp([0, 2, 2, 4])).aicc is None


def test_too_few_points_are_refused() -> None:
    assert refused("exponential", [0, 1, 2], [1, 2, 4]) == "3 points; a fit of this model needs 4"
    assert refused("gompertz", [0, 1, 2, 3, 4], [1, 2, 3, 3.5, 3.6]) == "5 points; a fit of this model needs 6"
    assert "of 1 different times" in refused("exponential", [5] * 4, [1, 2, 3, 4])
    assert "of 3 different times" in refused("logistic", [1, 2, 3] * 2, [1, 2, 3] * 2)


@pytest.mark.parametrize("model", ["logistic", "gompertz"])
def test_growth_that_does_not_slow_down_has_no_capacity(model: GrowthModel) -> None:
    noise = np.exp(np.random.default_rng(1).normal(0, 0.03, len(HOURS)))
    assert "does not slow down" in refused(model, HOURS, evaluate_model("exponential", HOURS, 1e6, 0.03) * noise)
    assert "does not slow down" in refused(model, HOURS, evaluate_model("exponential", HOURS, 1e6, 0.03))


@pytest.mark.parametrize("model", ["logistic", "gompertz"])
def test_a_plateau_that_was_not_seen_gives_no_capacity(model: GrowthModel) -> None:
    assert "the plateau was not seen" in refused(model, HOURS[:8], evaluate_model(model, HOURS[:8], 1e6, 0.03, 1e8))


@pytest.mark.parametrize("model", ["logistic", "gompertz"])
def test_a_well_that_shrinks_or_does_not_grow_has_no_capacity(model: GrowthModel) -> None:
    assert "does not slow down" in refused(model, HOURS, evaluate_model("exponential", HOURS, 1e6, -0.03))
    assert "does not slow down" in refused(model, HOURS, np.full(len(HOURS), 1e6))


@pytest.mark.parametrize("model", ["logistic", "gompertz"])
def test_a_jump_to_the_plateau_between_two_images_gives_no_rate(model: GrowthModel) -> None:
    values = np.array([1.0, *[5.0] * 9]) * np.exp(np.random.default_rng(3).normal(0, 0.01, 10))
    assert "over at the second time" in refused(model, np.arange(10.0), values)


def test_the_unit_and_the_order_of_the_points_change_nothing() -> None:
    rng = np.random.default_rng(4)
    values = evaluate_model("gompertz", HOURS, 1e6, 0.05, 5e6) * np.exp(rng.normal(0, 0.03, len(HOURS)))
    order = rng.permutation(len(HOURS))
    one, other = fitted("gompertz", HOURS, values), fitted("gompertz", HOURS[order], values[order] / 1e9)
    assert (one.rate, one.rate_low) == pytest.approx((other.rate, other.rate_low), rel=1e-5)
