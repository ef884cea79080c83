"""From measured images to the tables of a plate: growth, wells, conditions."""

import math
from dataclasses import replace
from typing import Any

import pytest

from spheroseg.errors import BadPlate
from spheroseg.export.growth_tables import GROWTH_COLUMNS, GrowthTables, PlateImage, build_growth_tables, params_hash
from spheroseg.plate.condition_statistics import CONDITION_COLUMNS
from spheroseg.plate.conditions import Condition
from spheroseg.plate.options import GrowthOptions, VolumeMethod, WellValue
from spheroseg.plate.position import PlatePosition
from spheroseg.plate.well_curves import WELL_COLUMNS

from .support.plate_images import ellipse, of_area, plate_image, result

CONTRACT = (
    "plate,well,row,col,condition,time_h,image,object_id,n_objects,area_um2,perimeter_um,eq_diameter_um,circularity,"
    "solidity,feret_max_um,feret_min_um,eccentricity,volume_um3,volume_method,rel_volume,qc_flags,model_sha256,"
    "params_hash,pixel_size_um,pixel_size_source,metrics_version"
)


def tables(*images: PlateImage, **options: Any) -> GrowthTables:
    return build_growth_tables(images, GrowthOptions(**options))


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def flags(rows: list[dict[str, Any]]) -> list[str]:
    return column(rows, "qc_flags")


def test_every_row_has_the_documented_columns_first() -> None:
    made = tables(
        plate_image("A01", 0, 100, 50),
        plate_image("A02", 0),
        replace(plate_image("A03", 0), result=None, failed="timeout"),
    )
    assert ",".join(GROWTH_COLUMNS).startswith(f"{CONTRACT},")
    assert all(tuple(row) == GROWTH_COLUMNS for row in made.growth)
    assert all(tuple(row) == WELL_COLUMNS for row in made.wells)
    assert len(made.growth) == 4


def test_an_ellipse_has_its_known_values_in_micrometres() -> None:
    image = PlateImage(
        "a.tif", 2, PlatePosition(time_h=1 / 3), result=result([ellipse(150, 100)], 0.65), result_version=4
    )
    ((row,), (well,), _) = (tables(image).growth, tables(image).wells, None)
    um = 0.65
    expected = {
        "area_um2": 47123.89 * um**2,
        "perimeter_um": 793.272 * um,
        "eq_diameter_um": 244.949 * um,
        "circularity": 0.94104,
        "solidity": 1,
        "feret_max_um": 300 * um,
        "feret_min_um": 200 * um,
        "eccentricity": 0.745356,
        "volume_um3": 7_695_299 * um**3,
        "volume_sphere_um3": 7_695_299 * um**3,
        "volume_lw2_um3": 6_000_000 * um**3,
        "volume_prolate_um3": 6_283_185 * um**3,
        "volume_revolution_um3": 6_283_185 * um**3,
        "area_px2": 47123.89,
        "perimeter_px": 793.272,
        "eq_diameter_px": 244.949,
        "feret_max_px": 300,
        "feret_min_px": 200,
        "volume_px3": 7_695_299,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert (row["object_id"], row["n_objects"], row["page"], row["result_version"]) == ("obj-001", 1, 2, 4)
    assert (row["pixel_size_um"], row["pixel_size_source"], row["metrics_version"]) == (0.65, "OME-XML", "1")
    assert row["time_h"] == 0.333333
    assert {name: well[name] for name in ("area_um2", "volume_um3", "solidity")} == pytest.approx(
        {name: expected[name] for name in ("area_um2", "volume_um3", "solidity")}, rel=1e-4
    )


@pytest.mark.parametrize(
    ("method", "volume"),
    [("sphere", 11_847_688), ("lw2", 8_000_000), ("prolate", 8_377_580), ("revolution", 8_377_580)],
)
def test_the_volume_uses_the_chosen_formula_and_names_it(method: str, volume: float) -> None:
    image = PlateImage("a.tif", 1, PlatePosition(time_h=0.0), result=result([ellipse(200, 100)], 0.5))
    made = tables(image, volume_method=VolumeMethod(method))
    for (row,) in (made.growth, made.wells):
        assert row["volume_um3"] == pytest.approx(volume / 8, rel=1e-4)
        assert row["volume_px3"] == pytest.approx(volume, rel=1e-4)
        assert row["volume_method"] == method


def test_missing_values_are_none_and_never_0() -> None:
    made = tables(
        plate_image("A01", 0, 100, um=None),
        plate_image("A02", 0),
        replace(plate_image("A03", 0), result=None, failed="bad_image"),
        PlateImage("unplaced.tif", 1, PlatePosition(), result=result([of_area(100)])),
    )
    uncalibrated, nothing, failed, unplaced = made.growth
    micrometres = [name for name in GROWTH_COLUMNS if name.endswith(("_um", "_um2", "_um3"))]
    assert {uncalibrated[name] for name in (*micrometres, "pixel_size_source")} == {None}
    assert uncalibrated["area_px2"] == 100
    assert uncalibrated["rel_area"] == 1
    assert (nothing["n_objects"], nothing["qc_flags"]) == (0, "no_object_found;no_t0")
    assert (failed["n_objects"], failed["qc_flags"], failed["model_sha256"]) == (None, "image_failed;no_t0", None)
    empty = {"object_id", "area_um2", "area_px2", "circularity", "volume_um3", "volume_px3", "rel_area", "rel_volume"}
    assert {row[name] for row in (nothing, failed) for name in empty} == {None}
    assert (unplaced["image"], unplaced["well"], unplaced["rel_area"], unplaced["qc_flags"]) == (
        "unplaced.tif",
        None,
        None,
        "",
    )
    assert column(made.wells, "well") == ["A01", "A02", "A03"]
    assert column(made.wells, "area_px2") == [100, None, None]
    assert column(made.wells, "n_objects") == [1, 0, None]


def test_the_hash_of_parameters_does_not_depend_on_their_order() -> None:
    assert params_hash({"a": 1, "b": 0.5}) == params_hash({"b": 0.5, "a": 1})
    # echo -n '{"a":1,"b":0.5}' | sha256sum
    assert params_hash({"a": 1, "b": 0.5}) == "2e76599baa1e42fd9bf6253fdc2bf4ea1317abe64622c63aeb6c862f4b705306"


def test_the_largest_object_counts_for_its_well() -> None:
    made = tables(plate_image("A01", 0, 100), plate_image("A01", 24, 30, 200))
    assert column(made.growth, "rel_area") == [1, None, 2]
    assert column(made.growth, "rel_volume") == [1, None, pytest.approx(2**1.5, abs=1e-6)]
    assert column(made.growth, "t0_h") == [0, 0, 0]
    assert column(made.wells, "area_um2") == [100, 200]
    assert column(made.wells, "n_objects") == [1, 2]


def test_all_objects_together_count_for_their_well_if_chosen() -> None:
    made = tables(plate_image("A01", 0, 100), plate_image("A01", 24, 50, 250), well_value=WellValue.SUM)
    assert column(made.growth, "rel_area") == [1, 3, 3]
    assert column(made.wells, "area_um2") == [100, 300]
    assert made.wells[1]["eq_diameter_um"] == pytest.approx(2 * math.sqrt(300 / math.pi), abs=1e-4)
    volume = sum(4 / 3 * math.pi * math.sqrt(area / math.pi) ** 3 for area in (50, 250))
    assert made.wells[1]["volume_um3"] == pytest.approx(volume, abs=1e-3)


def test_flags_of_small_objects_are_not_those_of_the_well() -> None:
    image = replace(
        plate_image("A01", 0), result=result([of_area(10, ["touches_edge"]), of_area(100, ["low_contrast"])])
    )
    assert flags(tables(image).wells) == ["several_objects;low_contrast"]
    assert flags(tables(image, well_value=WellValue.SUM).wells) == ["several_objects;touches_edge;low_contrast"]


def test_t0_is_the_earliest_time_of_the_plate_and_a_well_without_a_value_there_is_flagged() -> None:
    made = tables(
        plate_image("A01", 24, 100, plate="p"),
        plate_image("A01", 48, 150, plate="p"),
        plate_image("A02", 24, plate="p"),
        plate_image("A02", 48, 150, plate="p"),
        plate_image("A01", 6, 80, plate="q"),
    )
    assert column(made.growth, "t0_h") == [24, 24, 24, 24, 6]
    assert column(made.growth, "rel_area") == [1, 1.5, None, None, 1]
    assert flags(made.growth) == ["", "", "no_object_found;no_t0", "no_t0", ""]
    assert flags(made.wells) == flags(made.growth)


def test_t0_can_be_given() -> None:
    images = [plate_image("A01", time, 100 + time) for time in (0, 24, 48)]
    made = tables(*images, t0_h=24)
    assert column(made.growth, "t0_h") == [24, 24, 24]
    assert column(made.growth, "rel_area") == [round(100 / 124, 6), 1, round(148 / 124, 6)]
    absent = tables(*images, t0_h=30)
    assert column(absent.growth, "rel_area") == [None] * 3
    assert flags(absent.growth) == ["no_t0"] * 3
    with pytest.raises(BadPlate, match="must be a number of hours"):
        GrowthOptions(t0_h=math.nan)


def test_numbered_time_points_have_a_first_one_but_no_hours() -> None:
    made = tables(*(plate_image("A01", None, 100 * number, time_point=number) for number in (10, 9, 11)))
    assert column(made.wells, "time_point") == [9, 10, 11]
    assert column(made.wells, "time_h") == [None] * 3
    assert column(made.wells, "t0_h") == [None] * 3
    assert column(made.wells, "rel_area") == [1, round(10 / 9, 6), round(11 / 9, 6)]


def test_images_without_any_time_have_no_t0_and_no_flag() -> None:
    made = tables(plate_image("A01", None, 100), plate_image("A02", None, 100))
    assert column(made.wells, "rel_area") == [None, None]
    assert flags(made.wells) == ["", ""]


def test_two_lenses_are_compared_in_micrometres_and_never_in_pixels() -> None:
    images = [plate_image("A01", 24.0 * day, 400 if day < 3 else 100, um=1.0 if day < 3 else 2.0) for day in range(6)]
    made = tables(*images)
    assert column(made.wells, "rel_area") == [1] * 6
    assert flags(made.wells) == [""] * 6
    unknown = tables(plate_image("A01", 0, 400), plate_image("A01", 24, 100, um=None))
    assert column(unknown.wells, "rel_area") == [1, None]
    assert flags(unknown.wells) == ["", "no_t0"]


def test_a_well_is_the_mean_of_its_sites_each_relative_to_its_own_t0() -> None:
    made = tables(
        plate_image("A01", 0, 100, site=1),
        plate_image("A01", 0, 300, site=2),
        plate_image("A01", 24, 200, site=1),
        plate_image("A01", 24, 900, site=2),
        plate_image("A01", 48, 400, site=1),
        plate_image("A01", 48, site=2),
    )
    assert column(made.wells, "area_um2") == [200, 550, 400]
    assert column(made.wells, "rel_area") == [1, 2.5, 4]
    assert column(made.wells, "n_images") == [2, 2, 2]
    assert column(made.wells, "n_objects") == [2, 2, 1]
    assert flags(made.wells) == ["", "", "no_object_found"]


def test_images_of_one_imaging_round_have_one_time() -> None:
    wells = ("A01", "B01", "C01")
    control = Condition("control")
    images = [
        plate_image(well, 24.0 * day + 0.1 * place, 100 + day, condition=control)
        for day in range(3)
        for place, well in enumerate(wells)
    ]
    made = tables(*images)
    assert column(made.wells, "time_h") == [0, 24, 48] * 3
    assert column(made.wells, "rel_area") == [1, 1.01, 1.02] * 3
    assert column(made.conditions, "n_wells") == [3, 3, 3]
    assert column(tables(*images, t0_h=24).wells, "rel_area")[1::3] == [1, 1, 1]
    assert column(made.growth, "time_h")[3] == 0.1


def test_images_of_one_well_a_quarter_of_an_hour_apart_have_different_times() -> None:
    made = tables(*(plate_image("A01", step / 4, 100 + step) for step in range(4)))
    assert column(made.wells, "time_h") == [0, 0.25, 0.5, 0.75]


def test_an_image_unlike_its_neighbours_is_flagged_in_all_tables() -> None:
    images = [plate_image("A01", 24.0 * day, 1000 * 1.3**day) for day in range(6)]
    images[3] = plate_image("A01", 72, 1000 * 1.3**3, 6000)
    made = tables(*images)
    assert flags(made.growth) == ["", "", "", *["several_objects;unlike_neighbours"] * 2, "", ""]
    assert flags(made.wells) == ["", "", "", "several_objects;unlike_neighbours", "", ""]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("channel", ("1", "2"), "channels of a well (1, 2); choose one, for example with --channel 1"),
        ("z", (3, 12), "--z 3"),
    ],
)
def test_several_channels_or_z_positions_give_no_curves_until_one_is_chosen(
    name: str, values: tuple[Any, Any], expected: str
) -> None:
    images = [plate_image("A01", time, 100, **{name: value}) for time in (0, 24) for value in values]
    made = tables(*images)
    assert expected in made.no_curves
    assert (len(made.growth), made.wells, made.conditions) == (4, [], [])
    assert column(made.growth, "rel_area") == [None] * 4
    assert tables(*images[::2]).no_curves == ""


def test_a_condition_has_mean_and_deviation_over_wells_not_over_images() -> None:
    drug = Condition("", "cisplatin", 2.5, "µM", "1")
    made = tables(
        plate_image("A01", 0, 100, site=1, condition=drug),
        plate_image("A01", 0, 140, site=2, condition=drug),
        plate_image("A02", 0, 100, condition=replace(drug, replicate="2")),
        plate_image("A03", 0, 110, condition=drug),
        plate_image("A04", 0, condition=drug),
        plate_image("B01", 0, 50, condition=Condition("control")),
        plate_image("C01", 0, 50),
    )
    control, treated = made.conditions
    assert tuple(treated) == CONDITION_COLUMNS
    assert (treated["condition"], treated["drug"], treated["concentration"]) == ("cisplatin 2.5 µM", "cisplatin", 2.5)
    assert (treated["n_wells"], treated["area_um2_n"]) == (4, 3)
    # Of 120, 100, 110: mean 110, squares of the deviations 100 + 100 + 0, over n - 1 = 2.
    assert (treated["area_um2_mean"], treated["area_um2_sd"]) == (110, 10)
    assert (control["condition"], control["area_um2_mean"], control["area_um2_sd"]) == ("control", 50, None)
    assert (control["n_wells"], control["drug"]) == (1, None)


def test_conditions_are_ordered_by_dose_and_by_the_numbers_in_their_names() -> None:
    doses = [Condition("", "x", dose, "µM") for dose in (10, 2, 0)]
    made = tables(*(plate_image(f"A{place + 1}", 0, 10, condition=dose) for place, dose in enumerate(doses)))
    assert column(made.conditions, "concentration") == [0, 2, 10]
    named = tables(
        *(plate_image(f"A{n}", 0, 10, condition=Condition(name)) for n, name in ((1, "10 µM"), (2, "2 µM")))
    )
    assert column(named.conditions, "condition") == ["2 µM", "10 µM"]


def test_rows_are_in_the_order_of_the_plate_and_of_time() -> None:
    made = tables(
        plate_image("AA01", 0, 1),
        plate_image("B02", 24, 1),
        plate_image("B02", 3, 1),
        plate_image("Z10", 0, 1),
        plate_image("B10", 0, 1),
    )
    assert [(row["well"], row["time_h"]) for row in made.growth] == [
        ("B02", 3),
        ("B02", 24),
        ("B10", 0),
        ("Z10", 0),
        ("AA01", 0),
    ]
    assert (made.growth[-1]["row"], made.growth[-1]["col"]) == ("AA", 1)


def test_samples_count_as_wells_if_there_are_none() -> None:
    made = tables(
        plate_image("", 0, 100, sample="1E5"),
        plate_image("", 24, 200, sample="1E5"),
        plate_image("", 0, 10, sample="x"),
    )
    assert column(made.wells, "sample") == ["1E5", "1E5", "x"]
    assert column(made.wells, "rel_area") == [1, 2, 1]
    assert column(made.wells, "well") == [None] * 3


def test_columns_of_the_user_are_kept_and_never_overwrite_ours() -> None:
    own = Condition("c", extra_columns=(("cells", "HCT116"), ("area_um2", "mine")))
    first, second = tables(plate_image("A01", 0, 100, condition=own), plate_image("A02", 0, 100)).growth
    assert (first["cells"], first["own_area_um2"], first["area_um2"]) == ("HCT116", "mine", 100)
    assert (second["cells"], second["own_area_um2"]) == (None, None)
    names = list(first)
    assert names.index("replicate") + 1 == names.index("cells")
    assert names.index("own_area_um2") + 1 == names.index("model")


def test_channels_of_a_time_lapse_without_wells_are_not_averaged() -> None:
    images = [plate_image("", hours, 100.0, channel=channel) for hours in (0.0, 24.0) for channel in ("BF", "GFP")]
    made = build_growth_tables(images, GrowthOptions())
    assert made.wells == []
    assert "choose one, for example with --channel BF" in made.no_curves
