"""Endpoints and IC50: against published figures and known curves, and what must be refused."""

from collections.abc import Sequence

import numpy as np
import pytest

from spheroseg.plate.dose_response import DoseResponseFit, evaluate_dose_response, fit_dose_response
from spheroseg.plate.endpoints import ENDPOINT_COLUMNS, build_endpoint_rows
from spheroseg.plate.fit_refusal import FitRefusal
from spheroseg.plate.ic50 import IC50_COLUMNS, build_ic50_rows
from spheroseg.plate.rows import EndpointRow, WellRow

DOSES = np.repeat([0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30], 3)
# Root length of ryegrass (cm) at concentrations of ferulic acid (mM): Inderjit, Streibig and Olofsdotter 2002,
# Physiol Plant 114:422.
RYEGRASS = {
    0: [7.58, 8.0, 8.328571429, 7.25, 7.375, 7.9625],
    0.94: [8.355555556, 6.914285714, 7.75],
    1.88: [6.871428571, 6.45, 5.922222222],
    3.75: [1.925, 2.885714286, 4.233333333],
    7.5: [1.1875, 0.857142857, 1.057142857],
    15: [0.6875, 0.525, 0.825],
    30: [0.25, 0.22, 0.44],
}


def few(count: int) -> str:
    return f"an IC50 needs 4 concentrations above 0 that have a value; there are {count}"


def curve(doses: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> DoseResponseFit:
    found = fit_dose_response(doses, values)
    assert isinstance(found, DoseResponseFit), found
    return found


def reason(doses: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> str:
    found = fit_dose_response(doses, values)
    assert isinstance(found, FitRefusal), found
    return found.reason


def endpoint(dose: float | None, value: float | None, **more: object) -> EndpointRow:
    row: EndpointRow = {
        "plate": "p",
        "drug": "x",
        "concentration": dose,
        "unit": "µM",
        "time_h": 72.0,
        "qc_flags": "",
    }
    return row | {"time_h": 72.0, "qc_flags": "", "rel_volume": value} | more


def plate(noise: float = 0.1, **more: object) -> list[EndpointRow]:
    rng = np.random.default_rng(1)
    values = evaluate_dose_response(DOSES, 0.5, 1.2, 4, 1) + rng.normal(0, noise, len(DOSES))
    return [endpoint(float(d), float(v), **more) for d, v in zip(DOSES, values, strict=True)]


def test_the_published_fit_of_ryegrass_is_reproduced() -> None:
    """LL.4 of the R package drc: b 2.98222, c 0.48141, d 7.79296, e 3.05795, standard error of e 0.18573, 20 df.

    The interval is of the profile likelihood; lmfit 1.3 (conf_interval of ln e) gives 2.69110 to 3.47539.
    """
    found = curve(
        [dose for dose, lengths in RYEGRASS.items() for _ in lengths], [v for some in RYEGRASS.values() for v in some]
    )
    assert (found.hill, found.bottom) == pytest.approx((2.98222, 0.48141), abs=2e-5)
    assert (found.top, found.ic50) == pytest.approx((7.79296, 3.05795), abs=2e-5)
    assert (found.ic50_low, found.ic50_high) == pytest.approx((2.69110, 3.47539), abs=2e-5)
    assert (found.ic50_high - found.ic50_low) / 2 == pytest.approx(0.18573 * 2.086, rel=0.03)


def test_a_fit_without_noise_recovers_the_parameters() -> None:
    found = curve(DOSES, evaluate_dose_response(DOSES, 0.5, 1.2, 4e6, 1e6))
    assert (found.ic50, found.hill, found.top, found.bottom) == pytest.approx((0.5, 1.2, 4e6, 1e6), rel=1e-5)
    assert (found.ic50_low, found.ic50_high, found.r2) == pytest.approx((0.5, 0.5, 1), rel=1e-5)


def test_the_response_is_the_top_at_dose_0_and_half_way_at_the_ic50() -> None:
    assert list(evaluate_dose_response([0, 0.5], 0.5, 3, 4, 1)) == pytest.approx([4, 2.5])


def test_nineteen_of_twenty_intervals_contain_the_ic50() -> None:
    rng, draws, held = np.random.default_rng(3), 100, 0
    doses = np.repeat([0, 0.03, 0.3, 1, 3, 30], 3)
    for _ in range(draws):
        found = curve(doses, evaluate_dose_response(doses, 0.5, 1.2, 4, 1) + rng.normal(0, 0.15, len(doses)))
        held += found.ic50_low <= 0.5 <= found.ic50_high
    assert abs(held / draws - 0.95) <= 0.05


def test_without_an_effect_there_is_no_ic50() -> None:
    rng = np.random.default_rng(4)
    assert "no effect is shown" in reason(DOSES, rng.normal(3, 0.3, len(DOSES)))
    assert "no effect is shown" in reason(DOSES, np.full(len(DOSES), 3.0))


@pytest.mark.parametrize("ic50", [40.0, 300.0])
def test_without_a_plateau_there_is_no_ic50(ic50: float) -> None:
    noise = np.random.default_rng(5).normal(0, 0.05, len(DOSES))
    assert "a plateau was not reached" in reason(DOSES, evaluate_dose_response(DOSES, ic50, 1.2, 4, 1) + noise)


def test_an_ic50_beside_the_last_concentration_is_refused() -> None:
    assert "next to the highest concentration" in reason(DOSES, evaluate_dose_response(DOSES, 20, 1.2, 4, 1))
    treated = DOSES[DOSES > 0]
    assert "next to the lowest concentration" in reason(treated, evaluate_dose_response(treated, 0.02, 1.2, 4, 1))


def test_a_step_between_two_concentrations_is_refused() -> None:
    noise = np.random.default_rng(6).normal(0, 0.05, len(DOSES))
    assert "in one step between 0.3 and 1" in reason(DOSES, np.where(DOSES > 0.5, 1.0, 4.0) + noise)


def test_a_drug_that_makes_wells_grow_has_no_ic50() -> None:
    assert "rises with the concentration" in reason(DOSES, evaluate_dose_response(DOSES, 0.5, 1.2, 1, 4))


def test_too_few_concentrations_or_wells_are_refused() -> None:
    assert reason([0, 0, 1, 1, 3, 3, 9, 9], range(8)) == few(3)
    assert reason([0, 1, 2, 4, 8], [4, 3, 2, 1, 0.5]) == "an IC50 needs 6 wells that have a value; there are 5"


def test_the_row_of_a_drug_has_wells_concentrations_and_time() -> None:
    (row,) = build_ic50_rows(plate())
    assert tuple(row) == IC50_COLUMNS
    assert (row["drug"], row["unit"], row["measure"], row["time_h"]) == ("x", "µM", "rel_volume", 72)
    assert (row["n_wells"], row["n_concentrations"], row["refused"]) == (27, 8, None)
    low, middle, high = (row[name] for name in ("ic50_ci_low", "ic50", "ic50_ci_high"))
    assert isinstance(low, float)
    assert isinstance(middle, float)
    assert isinstance(high, float)
    assert low < 0.5 < high
    assert low < middle < high


def test_several_units_are_refused() -> None:
    rows = plate()
    rows[5]["unit"] = "nM"
    (row,) = build_ic50_rows(rows)
    assert (row["unit"], row["ic50"]) == ("µM, nM", None)
    assert "give all in one" in str(row["refused"])


def test_wells_without_drug_and_vehicles_are_untreated_for_every_drug_on_their_plate() -> None:
    treated = [row for row in plate() if row["concentration"]]
    other = [row | {"drug": "y"} for row in plate()]
    bare = [endpoint(0.0, 4.0, drug=""), endpoint(0.0, 4.0, drug="DMSO"), endpoint(0.0, 9.0, drug="", plate="q")]
    unknown = [endpoint(None, 4.0, drug="")]
    found = {row["drug"]: row["n_wells"] for row in build_ic50_rows(treated + other + bare + unknown)}
    assert found == {"x": 24 + 2, "y": 27 + 2}


def test_wells_without_a_value_or_unlike_their_neighbours_do_not_count() -> None:
    rows = plate()
    rows[3] |= {"rel_volume": None}
    rows[4] |= {"qc_flags": "unlike_neighbours"}
    rows[5] |= {"qc_flags": "touches_edge"}
    assert build_ic50_rows(rows)[0]["n_wells"] == 25


def test_the_measure_is_the_relative_volume_or_else_the_volume() -> None:
    rows = [row | {"rel_volume": None, "volume_px3": row["rel_volume"]} for row in plate()]
    assert build_ic50_rows(rows)[0]["measure"] == "volume_px3"
    assert build_ic50_rows(plate(), "rel_area")[0]["refused"] == few(0)
    assert build_ic50_rows([]) == []


def images(well: str, times: Sequence[float | None], **more: object) -> list[WellRow]:
    return [
        {"plate": "p", "well": well, "time_h": time, "volume_um3": 100.0 + n} | more for n, time in enumerate(times)
    ]


def test_the_endpoint_is_the_last_time_at_which_most_wells_have_a_value() -> None:
    rows = build_endpoint_rows(
        [*images("A01", [0, 24, 48, 72]), *images("A02", [0, 24, 48]), *images("A03", [0, 24, 48])]
    )
    assert [tuple(row) for row in rows] == [ENDPOINT_COLUMNS] * 3
    assert [(row["well"], row["time_h"], row["volume_um3"]) for row in rows] == [
        (f"A0{n}", 48, 102) for n in (1, 2, 3)
    ]


def test_an_image_without_a_value_is_not_an_endpoint() -> None:
    failed = images("A02", [72], volume_um3=None, qc_flags="image_failed")
    rows = build_endpoint_rows(images("A01", [0, 24, 48, 72]) + images("A02", [0, 24, 48]) + failed)
    assert [row["time_h"] for row in rows] == [48, 48]


def test_a_well_without_an_image_at_the_endpoint_is_flagged() -> None:
    rows = build_endpoint_rows([*images("A01", [0, 24, 48]), *images("A02", [0, 24, 48]), *images("A03", [0, 24])])
    assert (rows[2]["volume_um3"], rows[2]["time_h"], rows[2]["qc_flags"]) == (None, 48, "no_endpoint")


def test_images_of_one_round_are_at_one_endpoint() -> None:
    rows = build_endpoint_rows(
        [*images("A01", [0, 24, 48]), *images("A02", [0.5, 24.5, 48.5]), *images("A03", [0, 24, 42])]
    )
    assert [row["time_h"] for row in rows] == [48, 48.5, 48.5]
    assert [row["volume_um3"] for row in rows] == [102, 102, None]


def test_the_time_can_be_chosen() -> None:
    rows = build_endpoint_rows([*images("A01", [0, 24, 48]), *images("A02", [0, 48])], at_h=24)
    assert [(row["time_h"], row["volume_um3"]) for row in rows] == [(24, 101), (24, None)]


def test_time_points_have_an_endpoint_without_hours() -> None:
    rows = [frame | {"time_point": n} for n, frame in enumerate(images("A01", [None, None, None]))]
    assert [(row["time_h"], row["volume_um3"]) for row in build_endpoint_rows(rows)] == [(None, 102)]


def test_no_wells_have_no_endpoints() -> None:
    assert build_endpoint_rows([]) == []
