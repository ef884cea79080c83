"""Growth rates and doubling times of wells and conditions, and what is refused and why."""

from collections.abc import Sequence
from math import log

import numpy as np
import pytest

from spheroseg.plate.fit_table import COLUMNS, NO_HOURS, build_fit_rows
from spheroseg.plate.growth_models import GrowthModel, evaluate_model
from spheroseg.plate.rows import FitRow, WellRow

HOURS = np.arange(0.0, 97.0, 8.0)


def well(
    name: str, values: Sequence[float | None] | np.ndarray, condition: str = "", **more: object
) -> list[WellRow]:
    return [
        {"plate": "p", "well": name, "sample": None, "condition": condition, "time_h": float(hour), "qc_flags": ""}
        | {"volume_um3": None if value is None else float(value)}
        | more
        for hour, value in zip(HOURS, values, strict=False)
    ]


def grown(
    rng: np.random.Generator, model: GrowthModel = "exponential", rate: float = 0.03, noise: float = 0.03
) -> np.ndarray:
    capacity = None if model == "exponential" else 6e6
    return evaluate_model(model, HOURS, 1e6, rate, capacity) * np.exp(rng.normal(0, noise, len(HOURS)))


def find(rows: list[FitRow], level: str, model: str, **identity: object) -> FitRow:
    (row,) = [r for r in rows if r["level"] == level and r["model"] == model and identity.items() <= r.items()]
    return row


def number(row: FitRow, name: str) -> float:
    value = row[name]
    assert isinstance(value, float), (name, value)
    return value


def test_a_well_that_doubles_each_day_has_a_doubling_time_of_a_day() -> None:
    rows = build_fit_rows(well("A01", 1e6 * 2 ** (HOURS / 24)))
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    best = find(rows, "well", "exponential")
    assert number(best, "doubling_time_h") == pytest.approx(24)
    assert number(best, "rate_per_h") == pytest.approx(log(2) / 24)
    assert number(best, "r2") == pytest.approx(1)
    assert (best["best"], best["n_points"], best["n_wells"], best["from_h"], best["to_h"]) == (True, 13, 1, 0, 96)
    assert (best["plate"], best["well"], best["measure"], best["refused"]) == ("p", "A01", "volume_um3", None)
    for model in ("logistic", "gompertz"):
        row = find(rows, "well", model)
        assert "the capacity cannot be estimated" in str(row["refused"])
        assert not row["best"]
        assert {row[name] for name in ("y0", "rate_per_h", "doubling_time_h", "capacity", "r2", "aicc")} == {None}


@pytest.mark.parametrize("model", ["logistic", "gompertz"])
def test_one_row_per_well_and_condition_is_the_best(model: GrowthModel) -> None:
    rng = np.random.default_rng(5)
    rows = build_fit_rows([row for n in range(4) for row in well(f"A0{n}", grown(rng, model, 0.06, 0.01), "control")])
    assert [row["model"] for row in rows if row["best"]] == [model] * 5
    best = find(rows, "condition", model)
    assert number(best, "rate_ci_low") < 0.06 < number(best, "rate_ci_high")
    assert number(best, "capacity_ci_low") < 6e6 < number(best, "capacity_ci_high")
    assert number(best, "doubling_time_h") == pytest.approx(log(2) / number(best, "rate_per_h"))
    assert number(best, "doubling_time_ci_low") == pytest.approx(log(2) / number(best, "rate_ci_high"))
    assert number(best, "doubling_time_ci_high") == pytest.approx(log(2) / number(best, "rate_ci_low"))


def test_the_interval_of_a_condition_is_over_wells_and_not_over_images() -> None:
    """The wells differ and have no noise: their rates are exact, and the interval is that of three wells."""
    rates = (0.02, 0.03, 0.04)
    rows = build_fit_rows(
        [r for n, mu in enumerate(rates) for r in well(f"A0{n}", evaluate_model("exponential", HOURS, 1e6, mu), "x")]
    )
    mean = find(rows, "condition", "exponential")
    assert (mean["n_wells"], mean["n_points"], mean["well"]) == (3, 39, None)
    assert number(mean, "rate_per_h") == pytest.approx(0.03)
    # t(0.975; 2) = 4.302653, standard error 0.01 / sqrt(3).
    assert number(mean, "rate_ci_high") - 0.03 == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    assert number(mean, "rate_ci_low") > 0
    assert number(mean, "doubling_time_h") == pytest.approx(log(2) / 0.03)


def test_nineteen_of_twenty_intervals_of_a_condition_contain_the_mean_rate() -> None:
    rng, draws, held = np.random.default_rng(7), 300, 0
    for _ in range(draws):
        rates = rng.normal(0.03, 0.004, 6)
        rows = [r for n, mu in enumerate(rates) for r in well(f"A0{n}", grown(rng, rate=mu)[:5], "x")]
        mean = find(build_fit_rows(rows), "condition", "exponential")
        held += number(mean, "rate_ci_low") <= 0.03 <= number(mean, "rate_ci_high")
    assert abs(held / draws - 0.95) < 0.038


def test_two_wells_have_a_mean_but_no_interval() -> None:
    rows = build_fit_rows([r for n in range(2) for r in well(f"A0{n}", 1e6 * 2 ** (HOURS / 24), "x")])
    mean = find(rows, "condition", "exponential")
    assert mean["refused"] == "no interval: 2 of the 3 wells that it needs"
    assert number(mean, "doubling_time_h") == pytest.approx(24)
    assert (mean["rate_ci_low"], mean["doubling_time_ci_high"]) == (None, None)


def test_without_growth_there_is_a_rate_but_no_doubling_time() -> None:
    rng = np.random.default_rng(8)
    rows = build_fit_rows([r for n in range(4) for r in well(f"A0{n}", grown(rng, rate=0.0), "drug")])
    for level, identity in (("well", {"well": "A02"}), ("condition", {})):
        row = find(rows, level, "exponential", **identity)
        assert "no growth is shown" in str(row["refused"])
        assert number(row, "rate_ci_low") < 0 < number(row, "rate_ci_high")
        assert (row["doubling_time_h"], row["doubling_time_ci_low"], row["doubling_time_ci_high"]) == (
            None,
            None,
            None,
        )
        assert row["best"]


def test_a_well_that_shrinks_has_no_doubling_time() -> None:
    rng = np.random.default_rng(9)
    row = find(build_fit_rows(well("A01", grown(rng, rate=-0.03))), "well", "exponential")
    assert "it shrinks" in str(row["refused"])
    assert number(row, "rate_ci_high") < 0
    assert (row["doubling_time_h"], row["doubling_time_ci_low"]) == (None, None)


def test_a_well_without_growth_rarely_gets_a_doubling_time() -> None:
    """2.5 % by chance for the exponential; the choice among three models may add a little."""
    rng, draws = np.random.default_rng(10), 300
    said = 0
    for _ in range(draws):
        said += any(r["doubling_time_h"] for r in build_fit_rows(well("A01", grown(rng, rate=0.0))) if r["best"])
    assert said / draws < 0.05


def test_time_points_without_hours_are_refused() -> None:
    rows = build_fit_rows(well("A01", 1e6 * 2 ** (HOURS / 24), "x", time_h=None, time_point=3))
    assert {row["refused"] for row in rows if row["level"] == "well"} == {NO_HOURS}
    assert all(NO_HOURS in str(row["refused"]) for row in rows)
    assert not any(row["best"] for row in rows)


def test_missing_values_are_left_out_and_reported() -> None:
    row = find(build_fit_rows(well("A01", [1e6, None, 2e6, None, 0.0, 3e6])), "well", "exponential")
    assert row["refused"] == "3 points; a fit of this model needs 4 (3 without a value of volume_um3)"
    assert row["n_points"] == 3


def test_images_unlike_their_neighbours_are_left_out_and_those_at_the_edge_are_kept() -> None:
    rows = well("A01", 1e6 * 2 ** (HOURS / 24))
    rows[4] |= {"volume_um3": 9e9, "qc_flags": "touches_edge;unlike_neighbours"}
    rows[5] |= {"qc_flags": "touches_edge"}
    row = find(build_fit_rows(rows), "well", "exponential")
    assert row["n_points"] == 12
    assert number(row, "doubling_time_h") == pytest.approx(24)
    assert "1 left out as unlike_neighbours" in str(find(build_fit_rows(rows[:5]), "well", "gompertz")["refused"])


def test_the_measure_is_the_volume_in_um3_or_px3_or_the_requested_one() -> None:
    rows = [row | {"volume_px3": 7.0, "rel_area": 2.0} for row in well("A01", [1e6] * 5)]
    assert {row["measure"] for row in build_fit_rows(rows)} == {"volume_um3"}
    assert {row["measure"] for row in build_fit_rows([row | {"volume_um3": None} for row in rows])} == {"volume_px3"}
    assert {row["measure"] for row in build_fit_rows(rows, "rel_area")} == {"rel_area"}


def test_a_model_that_few_wells_support_is_refused_for_the_condition() -> None:
    rng = np.random.default_rng(11)
    bent = well("A00", grown(rng, "gompertz", 0.06, 0.01), "x")
    rows = build_fit_rows(bent + [r for n in range(1, 4) for r in well(f"A0{n}", grown(rng), "x")])
    row = find(rows, "condition", "gompertz")
    assert row["refused"] == "only 1 of 4 wells support this model; more than half must"
    assert (row["n_wells"], row["rate_per_h"]) == (1, None)
    mean = find(rows, "condition", "exponential")
    assert (mean["best"], mean["n_wells"]) == (True, 4)


def test_a_well_that_begins_late_counts_with_its_rate_at_that_time() -> None:
    values = [evaluate_model("gompertz", HOURS, 1e6, 0.06, 6e6)] * 4
    rows = [r for n, v in enumerate(values) for r in well(f"A0{n}", v, "x")]
    late = [row for row in rows if row["well"] != "A00" or row["time_h"] != 0]
    whole, less = (find(build_fit_rows(some), "condition", "gompertz") for some in (rows, late))
    assert number(whole, "rate_per_h") == pytest.approx(0.06, rel=1e-6)
    assert (less["from_h"], less["n_points"]) == (0, 51)
    assert 0.055 < number(less, "rate_per_h") < 0.06


def test_wells_and_samples_without_a_condition_give_no_rows_of_conditions() -> None:
    rows = build_fit_rows([*well("", [1e6] * 5, "", sample="1_18D"), *well("", [1e6] * 5, "", sample="2_18D")])
    assert [(row["level"], row["sample"]) for row in rows] == [("well", "1_18D")] * 3 + [("well", "2_18D")] * 3


def test_no_rows_give_no_rows() -> None:
    assert build_fit_rows([]) == []
