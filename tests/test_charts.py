import json
import re
import socket
from typing import Any

import cv2
import numpy as np
import pytest
from altair.vegalite.v6.schema import core

from spheroseg.export.charts import (
    condition_chart,
    dose_chart,
    encode_json,
    encode_png,
    encode_svg,
    heat_map,
    plate_chart,
    well_chart,
)
from spheroseg.export.charts.measures import format_figures
from spheroseg.export.charts.style import AnyChart, wrap_text
from tests.support.plate_rows import Rows, condition_rows, of_well, well_rows

DAYS = [24.0 * day for day in range(8)]
FIT = {
    "measure": "volume_um3",
    "model": "gompertz",
    "from_h": 0.0,
    "to_h": 168.0,
    "y0": 8e6,
    "rate_per_h": 0.048,
    "rate_ci_low": 0.04,
    "rate_ci_high": 0.055,
    "doubling_time_h": 14.4,
    "doubling_time_ci_low": 12.6,
    "doubling_time_ci_high": 17.3,
    "capacity": 9e7,
    "r2": 0.9934,
    "refused": None,
}
IC50 = {
    "drug": "Doxorubicin",
    "unit": "µM",
    "measure": "rel_volume",
    "ic50": 0.81,
    "ic50_ci_low": 0.66,
    "ic50_ci_high": 0.97,
    "hill": 1.3,
    "top": 9.0,
    "bottom": 1.2,
    "r2": 0.981,
    "refused": None,
}


def endpoints(*concentrations: float, wells: int = 3) -> Rows:
    return [
        {
            "plate": "P1",
            "well": f"{letter}{column:02d}",
            "drug": "Doxorubicin" if dose else None,
            "concentration": dose,
            "unit": "µM" if dose else None,
            "time_h": 96.0,
            "rel_volume": 1.2 + 7.8 / (1 + (dose / 0.8) ** 1.3) + number / 10,
            "qc_flags": "",
        }
        for column, dose in enumerate(concentrations, start=1)
        for number, letter in enumerate("ABCDEFGH"[:wells])
    ]


def records(chart: AnyChart, **wanted: Any) -> list[dict[str, Any]]:
    found = json.loads(encode_json(chart))["datasets"]["rows"]
    return [record for record in found if all(record.get(name) == value for name, value in wanted.items())]


def words(chart: AnyChart) -> str:
    """Return all texts of the drawn chart in their order."""
    return "\n".join(re.findall(r"<t(?:ext|span)[^>]*>([^<]+)<", encode_svg(chart)))


def drawn(chart: AnyChart, mark: str) -> list[str]:
    """Return the subpaths of all lines, or the paths of all points, in the drawn chart."""
    groups = re.findall(rf'<g class="mark-{mark} role-mark[^"]*"[^>]*>(.*?)</g>', encode_svg(chart), re.DOTALL)
    return [path for group in groups for path in re.findall(r'd="([^"]+)"', group)]


@pytest.mark.parametrize(
    "chart",
    [
        pytest.param(lambda wells: condition_chart(condition_rows(wells), wells), id="conditions"),
        pytest.param(lambda wells: well_chart(of_well(wells, "B03"), FIT), id="well"),
        pytest.param(lambda wells: plate_chart(wells), id="plate"),
        pytest.param(lambda wells: heat_map(wells), id="heat"),
        pytest.param(lambda wells: dose_chart(endpoints(0, 0.1, 1, 10), IC50), id="dose"),
    ],
)
def test_each_chart_is_valid_vega_lite_and_the_same_bytes_each_time_and_needs_no_network(
    chart: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any) -> None:
        raise AssertionError("a picture wanted the network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    wells = well_rows(wells=6, missing=[("B03", 48.0)], flagged=[("B03", 96.0)])
    first, second = chart(wells), chart(wells)

    definition = json.loads(encode_json(first))
    core.Root.from_dict(definition)  # raises where the schema says no
    assert encode_json(first) == encode_json(second)
    assert encode_png(first) == encode_png(second)
    assert encode_svg(first) == encode_svg(second)
    urls = set(re.findall(r'https?://[^"\s)]+', encode_json(first) + encode_svg(first)))
    assert {url.split("/")[2] for url in urls} <= {"vega.github.io", "www.w3.org"}, "names of schemas only"


def test_a_url_in_a_definition_is_refused_and_not_fetched() -> None:
    chart = well_chart(of_well(well_rows(wells=6), "A01"))
    chart["datasets"] = {}
    chart["data"] = {"url": "http://127.0.0.1:1/rows.json"}

    with pytest.raises(ValueError, match="allowed"):
        encode_png(chart)


def test_a_png_has_the_size_of_its_definition_times_the_scale() -> None:
    chart = heat_map(well_rows(wells=96))

    width, height = (float(n) for n in re.findall(r'viewBox="0 0 (\S+) (\S+)"', encode_svg(chart))[0])
    for scale in (1.0, 3.0):
        picture = cv2.imdecode(np.frombuffer(encode_png(chart, scale), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[:2] == pytest.approx((height * scale, width * scale), abs=3)


def test_the_curve_of_a_condition_is_the_mean_of_its_wells_with_deviation_and_number() -> None:
    wells = well_rows(empty=("A01",), missing=[("B01", 48.0)])
    chart = condition_chart(condition_rows(wells), wells)

    means = records(chart, kind="mean", condition="DMSO (n = 22–23)")
    assert [record["x"] for record in means] == DAYS
    assert [record["n"] for record in means] == [23, 23, 22, 23, 23, 23, 23, 23]
    of_last = [row["volume_um3"] for row in wells if row["condition"] == "DMSO" and row["time_h"] == 168]
    assert means[-1]["y"] == pytest.approx(np.mean(of_last))
    assert means[-1]["high"] - means[-1]["low"] == pytest.approx(2 * np.std(of_last, ddof=1))
    assert len({record["well"] for record in records(chart, kind="well")}) == 95
    assert len(drawn(chart, "symbol")) == 4 * 8, "a point for each mean"
    said = words(chart)
    assert "Time (h)" in said
    assert "Volume (million µm³)" in said
    assert "Staurosporine 1 µM (n = 24)" in said


def test_a_line_is_not_drawn_across_a_missing_value() -> None:
    whole, broken = well_rows(wells=6), well_rows(wells=6, missing=[("A01", 72.0)])
    dropped = [row for row in whole if (row["well"], row["time_h"]) != ("A01", 72.0)]

    def pieces(rows: Rows) -> int:
        lines_of = drawn(well_chart(of_well(rows, "A01"), expected=DAYS), "line")
        return sum(path.count("M") for path in lines_of)

    assert pieces(whole) == 1
    assert pieces(broken) == pieces(dropped) == 2


def test_wells_imaged_at_minutes_of_their_own_lack_no_image() -> None:
    wells = well_rows(wells=6)
    shifted = [row | {"time_h": row["time_h"] + row["col"] / 10 + "AB".index(row["row"])} for row in wells]

    assert all(record["y"] is not None for record in records(plate_chart(shifted)))


def test_a_condition_of_one_well_has_no_deviation() -> None:
    wells = well_rows(wells=6, rates={"a": 0.02, "b": 0.01, "c": 0.0})
    wells = [row for row in wells if row["well"] == "A01" or row["condition"] != "a"]
    means = records(condition_chart(condition_rows(wells), wells), kind="mean")

    assert {(m["low"], m["high"]) for m in means if m["condition"] == "a (n = 1)"} == {(None, None)}


def test_more_conditions_than_colours_have_a_panel_each() -> None:
    wells = well_rows(hours=(0, 24), wells=384, rates={f"Compound {number}": number / 1000 for number in range(24)})
    said = words(condition_chart(condition_rows(wells), wells))

    assert all(f"Compound {number}" in said for number in range(24))


def test_long_names_of_conditions_are_broken_into_lines_and_stay_apart() -> None:
    long = "Doxorubicin hydrochloride in collagen-embedded HT-29 spheroids of passage 12, medium A, "
    wells = well_rows(wells=6, rates={f"{long * 2}{dose} µM": 0.01 for dose in (1, 2, 3)})
    means = records(condition_chart(condition_rows(wells), wells), kind="mean")

    assert len({record["condition"] for record in means}) == 3
    assert all(len(line) <= 36 for record in means for line in record["condition"].split("\n"))


def test_names_that_are_the_same_when_shortened_are_numbered() -> None:
    start, end = "a" * 200, "b" * 200
    wells = well_rows(wells=6, rates={f"{start}{middle}{end}": 0.01 for middle in "xyz"})

    assert len({record["condition"] for record in records(condition_chart(condition_rows(wells)))}) == 3


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        (None, "Volume (thousand px³)"),
        ("area_um2", "Area (px²)"),
        ("rel_volume", "Volume relative to t0"),
        ("circularity", "Circularity"),
    ],
)
def test_without_calibration_the_unit_is_px(asked: str | None, title: str) -> None:
    wells = well_rows(wells=6, calibrated=False, volume=8e4)

    assert title in words(condition_chart(condition_rows(wells), measure=asked))


def test_an_unknown_measure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no such measure: mass; choose one of volume_um3, area_um2"):
        heat_map(well_rows(wells=6), measure="mass")


def test_without_hours_the_axis_counts_time_points() -> None:
    wells = [row | {"time_h": None} for row in well_rows(wells=6)]

    assert "Time point" in words(condition_chart(condition_rows(wells), wells))
    assert "P1: volume at time point 7" in words(heat_map(wells))


def test_a_well_shows_its_fit_its_flags_and_what_is_missing() -> None:
    wells = well_rows(missing=[("B03", 48.0)], flagged=[("B03", 96.0)])
    chart = well_chart(of_well(wells, "B03"), FIT)

    said = words(chart)
    assert "Doubling time 14.4 h (95 % CI 12.6 to 17.3)" in said
    assert "Gompertz fit, R² = 0.993" in said
    assert "Flags: 48 h no_object_found; 96 h out_of_focus" in said
    assert len(records(chart, kind="measured")) == 6
    assert [(r["x"], r["y"]) for r in records(chart, kind="no value")] == [(48.0, None)]
    curve = records(chart, kind="fit")
    assert (curve[0]["x"], curve[0]["y"]) == (0.0, pytest.approx(8e6))
    assert curve[-1]["y"] < 9e7
    early = curve[1]
    assert np.log(early["y"] / 8e6) / early["x"] == pytest.approx(0.048, rel=0.05), "the rate is that of the start"


@pytest.mark.parametrize("model", ["exponential", "logistic", "gompertz"])
def test_every_model_starts_at_y0_with_the_rate_of_the_table(model: str) -> None:
    fit = FIT | {"model": model, "from_h": 10.0, "to_h": 10.1}
    curve = records(well_chart(of_well(well_rows(wells=6), "A01"), fit), kind="fit")

    assert curve[0]["y"] == pytest.approx(8e6)
    assert np.log(curve[-1]["y"] / curve[0]["y"]) / 0.1 == pytest.approx(0.048, rel=0.01)


def test_a_refused_fit_gives_the_reason_and_no_curve() -> None:
    refused = dict.fromkeys(FIT) | {"measure": "volume_um3", "model": "logistic", "refused": "3 points are too few"}
    chart = well_chart(of_well(well_rows(wells=6), "A01"), refused)

    assert "No fit: 3 points are too few" in words(chart)
    assert not records(chart, kind="fit")


def test_a_well_that_shrinks_has_a_rate_and_the_reason_for_no_doubling_time() -> None:
    fit = FIT | {"model": "exponential", "doubling_time_h": None, "rate_per_h": -0.012, "rate_ci_low": -0.013}
    said = words(well_chart(of_well(well_rows(wells=6), "A01"), fit | {"refused": "it shrinks: no doubling time"}))

    assert "Specific growth rate −0.0120 per h (95 % CI −0.0130 to 0.0550)" in said
    assert "It shrinks: no doubling time" in said


def test_a_fit_of_another_measure_is_not_drawn_over_the_points() -> None:
    with pytest.raises(ValueError, match="the fit is of volume_um3, the chart of area_um2"):
        well_chart(of_well(well_rows(wells=6), "A01"), FIT, measure="area_um2")


@pytest.mark.parametrize("wells", [6, 96, 384])
def test_a_plate_has_a_curve_for_each_well_at_its_position(wells: int) -> None:
    chart = plate_chart(well_rows(wells=wells, hours=(0, 84, 168), empty=("A02",)), wells=wells)

    assert len(drawn(chart, "line")) == wells - 1
    last = max(records(chart), key=lambda record: (record["down"], record["across"]))
    column = int(last["well"].lstrip("ABCDEFGHIJKLMNOP"))
    assert column - 1 < last["across"] < column
    assert "Each panel: time 0 to 168 h across, 0 to 100 million µm³ up" in words(chart)


def test_several_plates_and_samples_without_wells_are_refused() -> None:
    wells = well_rows(wells=6)

    with pytest.raises(ValueError, match="the rows are of 2 plates"):
        plate_chart([*wells, wells[0] | {"plate": "P2"}])
    with pytest.raises(ValueError, match="no row has a well"):
        heat_map([row | {"well": None} for row in wells])


def test_a_heat_map_shows_the_value_of_each_well_at_the_time_and_marks_what_is_missing() -> None:
    wells = well_rows(empty=("H12",), missing=[("A01", 48.0)], flagged=[("C03", 48.0)])
    chart = heat_map(wells, time=48)

    cells = {record["well"]: record for record in records(chart)}
    assert len(cells) == 95
    assert cells["A01"]["value"] is None
    assert cells["A01"]["text"] == "×"
    value = next(row["volume_um3"] for row in wells if (row["well"], row["time_h"]) == ("B02", 48.0))
    assert cells["B02"]["value"] == value
    assert cells["B02"]["text"] == f"{value / 1e6:.1f}"
    said = words(chart)
    assert "P1: volume at 48 h" in said
    assert "Volume (million µm³)" in said
    assert "× no value at this time; dot: a quality flag" in said
    with pytest.raises(ValueError, match="no images at 50 h; it has 0 h, 24 h"):
        heat_map(wells, time=50)


def test_wells_that_are_all_the_same_have_one_colour() -> None:
    wells = [row | {"rel_volume": 1.0 + number * 1e-12} for number, row in enumerate(well_rows(wells=6))]
    svg = encode_svg(heat_map(wells, measure="rel_volume"))

    assert len(set(re.findall(r'aria-label="[^"]*Well: [^"]+"[^>]*fill="([^"]+)"', svg))) == 1


def test_the_concentration_0_is_left_of_a_break_that_the_curve_does_not_reach() -> None:
    chart = dose_chart(endpoints(0, 0.01, 0.1, 1, 10), IC50)

    assert len(records(chart, kind="well")) == 15
    assert [r["x"] for r in records(chart, kind="well", dose=0.0)] == pytest.approx([0.001] * 3)
    curve = records(chart, kind="fit")
    assert (curve[0]["x"], curve[-1]["x"]) == (pytest.approx(0.01), pytest.approx(10))
    assert curve[-1]["y"] == pytest.approx(1.2 + 7.8 / (1 + (10 / 0.81) ** 1.3))
    said = words(chart).split("\n")
    assert "IC50 0.810 µM (95 % CI 0.660 to 0.970)" in said
    assert "Doxorubicin (µM)" in said
    assert "//" in said
    assert [text for text in said if re.fullmatch(r"[\d.]+", text)][:5] == ["0", "0.01", "0.1", "1", "10"]


def test_the_untreated_wells_of_another_drug_are_not_those_of_this_one() -> None:
    other = [row | {"drug": "Other", "well": f"H{row['well'][1:]}"} for row in endpoints(0, 1, wells=1)]
    vehicle = [row | {"drug": "DMSO", "well": "G01"} for row in endpoints(0, wells=1)]
    wells = records(dose_chart([*endpoints(0, 1, 10, wells=1), *other, *vehicle], IC50), kind="well")

    assert [well["well"] for well in wells] == ["P1 A01", "P1 A02", "P1 A03", "P1 G01"]


def test_a_refused_ic50_gives_the_reason() -> None:
    refused = dict.fromkeys(IC50) | {"drug": "Doxorubicin", "measure": "rel_volume", "refused": "no effect is shown"}
    chart = dose_chart(endpoints(0, 1, 2, 4), refused)

    assert "No IC50: no effect is shown" in words(chart)
    assert not records(chart, kind="fit")


def test_rows_without_a_concentration_are_refused() -> None:
    with pytest.raises(ValueError, match="no row has a concentration"):
        dose_chart([row | {"concentration": None} for row in endpoints(1)])


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(well_rows(wells=6, hours=(0,)), id="one time"),
        pytest.param([row | {"volume_um3": None, "volume_px3": None} for row in well_rows(wells=6)], id="no values"),
        pytest.param([row | {"volume_um3": -1.5e6} for row in well_rows(wells=6)], id="negative"),
        pytest.param([row | {"volume_um3": float("nan")} for row in well_rows(wells=6)], id="nan"),
        pytest.param([row | {"condition": None} for row in well_rows(wells=6)], id="no condition"),
    ],
)
def test_unusual_rows_still_give_a_chart(rows: Rows) -> None:
    assert encode_png(condition_chart(condition_rows(rows), rows), 1.0)
    assert encode_png(well_chart(of_well(rows, "A01")), 1.0)
    assert encode_png(plate_chart(rows), 1.0)
    assert encode_png(heat_map(rows), 1.0)


def test_rows_without_a_time_are_refused() -> None:
    timeless = [row | {"time_h": None, "time_point": None} for row in well_rows(wells=6)]

    for draw in (condition_chart, well_chart, plate_chart, heat_map):
        with pytest.raises(ValueError, match="no row has a"):
            draw([])
        with pytest.raises(ValueError, match="no row has a time"):
            draw(timeless)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.345, "12.3"),
        (0.0123, "0.0123"),
        (9.999, "10.0"),
        (999.9, "1000"),
        (1e-7, "1.00e−07"),
        (-2.0, "−2.00"),
    ],
)
def test_numbers_have_three_significant_figures(value: float, text: str) -> None:
    assert format_figures(value) == text


def test_a_text_too_long_for_its_lines_loses_its_middle() -> None:
    text = " ".join(f"word{number}" for number in range(60))

    found = wrap_text(text, 30)
    assert len(found) <= 3
    assert found[0].startswith("word0")
    assert found[-1].endswith("word59")
    assert wrap_text("", 30) == [""]
