"""Simulated plates: the pictures show what the tables of the truth state."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from spheroseg.errors import BadImage, BadParameters
from spheroseg.plate.condition_assignment import assign_conditions
from spheroseg.plate.condition_table import read_conditions
from spheroseg.plate.names import parse_names
from spheroseg.segmentation.contours import signed_area
from spheroseg.segmentation.image import count_pages, decode
from spheroseg.segmentation.pixel_size import PixelSize
from spheroseg.simulate.appearance import Appearance, render
from spheroseg.simulate.design import Design, Format, Naming, half_effect_dose
from spheroseg.simulate.frames import Fault, plan_frames
from spheroseg.simulate.laws import DoseResponse, Growth, Law, disk_um2, rate_of, sphere_um3
from spheroseg.simulate.outlines import ShapeSeries, coverage
from spheroseg.simulate.plate import count_files, draw_files
from spheroseg.simulate.truth import make_tables

# Small pictures draw quickly.
SMALL = Design(wells=6, times=3, size=96, pixel_size_um=8)


def rows_of(design: Design, name: str = "truth.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(make_tables(design)[name].decode())))


@pytest.mark.parametrize("diameter", [20, 60, 150, 350])
@pytest.mark.parametrize("seed", range(4))
def test_the_outline_encloses_exactly_the_area_of_the_law(diameter: float, seed: int) -> None:
    area = math.pi / 4 * diameter**2
    shapes = ShapeSeries.draw(np.random.default_rng(seed), 512)
    for hours in (0.0, 84.0):
        depth, _ = shapes.outline_at(hours, area, 512).depth(512)
        assert coverage(depth).sum() == pytest.approx(area, rel=0.002)


@pytest.mark.parametrize("seed", range(4))
def test_the_light_is_half_way_at_the_true_outline(seed: int) -> None:
    from skimage.measure import find_contours

    rng = np.random.default_rng(seed)
    area = math.pi / 4 * 150**2
    outline = ShapeSeries.draw(rng, 300).outline_at(30, area, 300)
    appearance = Appearance.draw(rng, 300, 2, 0)
    flat = np.zeros_like(appearance.background)
    appearance = replace(appearance, background=flat + 1, clouds=(flat, flat), asymmetry=(0, 0))
    picture = render(appearance, outline, 30, rng, 0)
    depth, _ = outline.depth(300)
    background, rim = (float(picture[abs(depth - where) < 0.3].mean()) for where in (-3.5, 3))
    found = find_contours(picture.astype(np.float64), (background + rim) / 2)  # type: ignore[no-untyped-call]
    assert max(abs(signed_area(polygon)) for polygon in found) == pytest.approx(area, rel=0.004)


def test_the_outline_changes_slowly_and_stays_near_the_middle() -> None:
    shapes = ShapeSeries.draw(np.random.default_rng(3), 512)
    masks = [shapes.outline_at(hours, 20_000, 512).depth(512)[0] > 0 for hours in (0.0, 12.0, 84.0)]
    near, far = (int((masks[0] ^ mask).sum()) for mask in masks[1:])
    assert 0 < near < 0.12 * 20_000
    assert near < far
    assert masks[2][236:276, 236:276].all()


def test_an_exponential_law_doubles_in_its_doubling_time() -> None:
    growth = Growth(Law.EXPONENTIAL, 1000.0, rate_of(Law.EXPONENTIAL, 36, 1000, 8000))
    assert growth.volume_um3(36) == pytest.approx(2000)
    assert growth.volume_um3(72) == pytest.approx(4000)
    assert growth.doubling_time_h == pytest.approx(36)


@pytest.mark.parametrize("law", [Law.LOGISTIC, Law.GOMPERTZ])
def test_limited_laws_solve_their_equation(law: Law) -> None:
    growth = Growth(law, 1000.0, rate_of(law, 36, 1000, 8000), 8000.0)
    assert growth.volume_um3(0) == pytest.approx(1000)
    assert growth.volume_um3(5000) == pytest.approx(8000)
    assert growth.doubling_time_h == pytest.approx(36)
    for hours in (0.0, 20.0, 90.0):
        volume = growth.volume_um3(hours)
        slope = (growth.volume_um3(hours + 1e-3) - growth.volume_um3(hours - 1e-3)) / 2e-3
        limited = 1 - volume / 8000 if law == Law.LOGISTIC else math.log(8000 / volume)
        assert slope == pytest.approx(growth.rate_per_h * volume * limited, rel=1e-6)


def test_a_spheroid_that_does_not_grow_has_no_doubling_time() -> None:
    assert Growth(Law.EXPONENTIAL, 1000.0, -0.01).doubling_time_h is None


def test_the_projected_area_of_a_sphere_is_that_of_its_great_circle() -> None:
    assert disk_um2(sphere_um3(300)) == pytest.approx(math.pi / 4 * 300**2)


def test_the_response_is_half_at_the_ic50() -> None:
    response = DoseResponse(ic50=2, hill=1.5, bottom=0.2)
    assert response.share(0) == 1
    assert response.share(2) == pytest.approx(0.6)
    assert response.share(1e9) == pytest.approx(0.2)


def test_the_growth_rates_of_the_wells_follow_the_response() -> None:
    design = Design()
    by_dose: dict[float, list[float]] = {}
    for plan in design.plan:
        by_dose.setdefault(plan.concentration, []).append(plan.growth.rate_per_h)
    assert list(by_dose) == [0, 0.03, 0.1, 0.3, 1, 3, 10, 30]
    assert {len(rates) for rates in by_dose.values()} == {12}
    for dose, rates in by_dose.items():
        assert np.mean(rates) * 36 / math.log(2) == pytest.approx(design.response.share(dose), rel=0.05)


def test_at_the_half_effect_dose_the_final_volume_is_half_way() -> None:
    design = Design()
    dose = half_effect_dose(design)
    assert dose
    volumes = [
        2 ** (design.hours[-1] / 36 * share) for share in (1, design.response.bottom, design.response.share(dose))
    ]
    assert volumes[2] == pytest.approx((volumes[0] + volumes[1]) / 2, rel=1e-4)
    assert half_effect_dose(replace(design, doses=())) is None


def test_the_table_of_the_truth_follows_the_law() -> None:
    rows = rows_of(SMALL)
    assert len(rows) == 18
    for row in rows:
        volume, area = float(row["volume_um3"]), float(row["area_um2"])
        assert volume == pytest.approx(math.pi / 6 * float(row["eq_diameter_um"]) ** 3, rel=1e-6)
        assert area == pytest.approx(float(row["area_px2"]) * 64, rel=1e-6)
        first = next(other for other in rows if other["well"] == row["well"])
        grown = math.exp(float(row["rate_per_h"]) * float(row["time_h"]))
        assert volume == pytest.approx(float(first["volume_um3"]) * grown, rel=1e-6)
        assert math.log(2) / float(row["rate_per_h"]) == pytest.approx(float(row["doubling_time_h"]), rel=1e-6)


def test_the_same_seed_gives_the_same_plate_and_another_seed_another() -> None:
    first = dict(draw_files(SMALL))
    assert first == dict(draw_files(SMALL))
    other = dict(draw_files(replace(SMALL, seed=2)))
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_a_well_does_not_depend_on_the_number_of_wells() -> None:
    more = dict(draw_files(replace(SMALL, wells=8, doses=(10.0,))))
    assert dict(draw_files(SMALL))["A01_t012h.tif"] == more["A01_t012h.tif"]


@pytest.mark.parametrize("naming", Naming)
@pytest.mark.parametrize("wells", [6, 96])
def test_names_and_conditions_are_recognised(naming: Naming, wells: int) -> None:
    design = Design(wells=wells, naming=naming, interval_h=7.5)
    found = parse_names({frame.name for frame in plan_frames(design)}, interval_h=7.5)
    assert found.preset == naming
    assert not found.failed
    assert not found.clashes
    found = assign_conditions(found, read_conditions(make_tables(design)["conditions.csv"], "conditions.csv"))
    truth = {row["image"]: row for row in rows_of(design)}
    assert len(found.placed) == len(truth) == count_files(design)
    for picture, place in found.placed:
        row = truth[picture.name]
        assert (place.plate, place.well_or_sample, place.time_h) == (row["plate"], row["well"], float(row["time_h"]))
        assert picture.condition.label == row["condition"]
        assert picture.condition.concentration == float(row["concentration"])


@pytest.mark.parametrize("um", [8.0, 7.3, 1000 / 137])
def test_the_pixel_size_reads_back(um: float) -> None:
    _, data = next(draw_files(replace(SMALL, pixel_size_um=um)))
    found = decode(io.BytesIO(data)).pixel_size
    assert found
    assert found.source == "ImageJ"
    assert found.um == pytest.approx(um, rel=1e-6)


def test_png_carries_no_pixel_size() -> None:
    name, data = next(draw_files(replace(SMALL, format=Format.PNG)))
    assert name == "A01_t000h.png"
    assert decode(io.BytesIO(data)).pixel_size is None


@pytest.mark.parametrize("format", Format)
def test_faulty_files_are_faulty_and_listed(format: Format) -> None:
    design = replace(SMALL, has_faults=True, format=format)
    files = dict(draw_files(design))
    listed = {row["image"]: row["fault"] for row in rows_of(design, "faults.csv")}
    assert sorted(set(listed.values())) == sorted(Fault)
    truth = {(row["image"], int(row["page"])): row for row in rows_of(design)}
    assert len(truth) == 18
    assert {image for image, _ in truth} == files.keys()
    broken = set()
    for name, data in files.items():
        file = io.BytesIO(data)
        try:
            assert decode(file).pixels.shape == (96, 96)
            assert count_pages(file) == (3 if listed.get(name) == Fault.STACK else 1)
        except BadImage:
            broken.add(listed[name])
    assert broken == {Fault.TRUNCATED, Fault.TEXT, Fault.ZERO_BYTES}
    empty = [row for row in truth.values() if row["fault"] == Fault.EMPTY_WELL]
    assert len(empty) == 3
    assert {(row["n_objects"], row["area_um2"], row["volume_um3"], row["doubling_time_h"]) for row in empty} == {
        ("0", "", "", "")
    }


def test_a_stack_holds_all_times_of_a_well_at_16_bit() -> None:
    design = replace(SMALL, has_faults=True)
    (name,) = {frame.name for frame in plan_frames(design) if frame.fault == Fault.STACK}
    pages = [decode(io.BytesIO(dict(draw_files(design))[name]), page) for page in range(3)]
    assert all(page.pixel_size == PixelSize(8.0, "ImageJ") for page in pages)
    assert all(page.pixels.max() > 4095 for page in pages)
    assert not np.array_equal(pages[0].pixels, pages[2].pixels)
    assert [frame.page for frame in plan_frames(design) if frame.name == name] == [1, 2, 3]
    assert parse_names([name]).placed[0][1].time_h is None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"wells": 0}, "1 to 1536 wells"),
        ({"times": 0}, "at least one time"),
        ({"interval_h": 0.001}, "whole minutes"),
        ({"interval_h": float("nan")}, "interval must be a positive number"),
        ({"pixel_size_um": -1.0}, "pixel size must be a positive number"),
        ({"doses": (0.0, 1.0)}, "dose 0 must be a positive number"),
        ({"doses": (1.0, 1.0)}, "twice"),
        ({"wells": 3, "doses": (1.0, 2.0, 3.0)}, "more conditions than wells"),
        ({"law": Law.LOGISTIC, "capacity_um": 200.0}, "larger diameter"),
        ({"response": DoseResponse(1, 1, 1.0)}, "floor must be below 1"),
        ({"wells": 4, "has_faults": True}, "faults need 6 wells"),
        ({"times": 20}, "too much for a picture"),
        ({"diameter_um": 20.0}, "fewer than 16 px"),
    ],
)
def test_a_design_that_cannot_be_drawn_is_refused_with_a_sentence(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadParameters, match=sentence):
        replace(Design(), **wrong)  # type: ignore[arg-type]
