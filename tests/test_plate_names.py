"""File names as instruments and people write them, and the positions read from them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spheroseg.errors import BadPlate
from spheroseg.plate.names import PRESETS, parse_names
from spheroseg.plate.position import PlatePosition
from spheroseg.plate.wells import PLATE_FORMATS, Well, parse_well

INVASION = Path(__file__).parents[2] / "shared" / "data" / "unlabelled" / "invasion"
GUID = "1A2B3C4D-0011-2233-4455-66778899AABB"


def read_position(name: str, pattern: str = "auto", interval_h: float | None = None) -> PlatePosition:
    (image,) = parse_names([name], pattern, interval_h=interval_h).images
    assert image.position, image.reason
    return image.position


def reason(name: str, pattern: str = "auto") -> str:
    (image,) = parse_names([name], pattern).images
    assert image.position is None
    return image.reason


def at(well: str, **more: object) -> PlatePosition:
    return PlatePosition(**{"well": parse_well(well), **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        ("plate1_B02_s1_w1.TIF", "imagexpress", at("B02", plate="plate1", site=1, channel="1")),
        (f"exp_7_H12_w2{GUID}.tif", "imagexpress", at("H12", plate="exp_7", channel="2")),
        (f"exp_P24_s10_w10{GUID}.tif", "imagexpress", at("P24", plate="exp", site=10, channel="10")),
        (
            "2024-01-02/1234/TimePoint_3/ZStep_2/p_C05_s4.tif",
            "imagexpress",
            at("C05", plate="p", site=4, time_point=3, z=2),
        ),
        ("HCT_A1_1_00d06h00m.tif", "incucyte", at("A01", plate="HCT", site=1, time_h=6.0)),
        ("HCT_Phase_B12_2_02d12h30m.tif", "incucyte", at("B12", plate="HCT", channel="Phase", site=2, time_h=60.5)),
        ("VID19_H12_3_2024y01m02d_03h00m.tif", "incucyte", at("H12", plate="VID19", site=3)),
        (
            "Greiner_#655090_B02_T0012F003L01A02Z04C02.png",
            "yokogawa",
            at("B02", plate="Greiner_#655090", time_point=12, site=3, z=4, channel="2"),
        ),
        (
            "x_AF48_T0001F001L01A01Z01C01.tif",
            "yokogawa",
            at("AF48", plate="x", time_point=1, site=1, z=1, channel="1"),
        ),
        ("A01_t03.png", "plain", at("A01", time_point=3)),
        ("B2 day 3.tif", "plain", at("B02", time_h=72.0)),
        ("b2-48h.jpg", "plain", at("B02", time_h=48.0)),
        ("well A7, 2h30m.tif", "plain", at("A07", time_h=2.5)),
        ("HCT116_C05_d1.5_s2_ch3.tif", "plain", at("C05", time_h=36.0, site=2, channel="3")),
        ("D3_d3.tif", "plain", at("D03", time_h=72.0)),
        ("d3_D4.tif", "plain", at("D04", time_h=72.0)),
        ("C01_c1_z5.tif", "plain", at("C01", channel="1", z=5)),
        ("20240102_A01_day3.tif", "plain", at("A01", time_h=72.0)),
        ("3D_A01_24hrs.tif", "plain", at("A01", time_h=24.0)),
        ("3d_A01_t2.tif", "plain", at("A01", time_point=2)),
        ("day2_48h_A01.tif", "plain", at("A01", time_h=48.0)),
        ("day1_6h_A01.tif", "plain", at("A01", time_h=30.0)),
        ("week 2/A01.tif", "plain", at("A01", time_h=336.0)),
        ("plate 4/day2/A01.tif", "plain", at("A01", plate="4", time_h=48.0)),
        ("first/A01_90min.tif", "plain", at("A01", plate="first", time_h=1.5)),
        ("moved.zip/E05/t07.tif", "plain", at("E05", plate="moved", time_point=7)),
        ("1_day2_10x_CH1_8bit_18D(2).tif", "words", PlatePosition(sample="1_18D", time_h=48.0, channel="1")),
        ("spheroid 12 48h.png", "words", PlatePosition(sample="spheroid 12", time_h=48.0)),
        ("S1_d3.png", "words", PlatePosition(sample="S1", time_h=72.0)),
        ("spheroid4/day_3.png", "words", PlatePosition(sample="spheroid4", time_h=72.0)),
    ],
)
def test_the_position_of_an_image_is_read_from_its_name(name: str, preset: str, expected: PlatePosition) -> None:
    assert read_position(name, preset) == expected
    assert read_position(name) == expected
    assert parse_names([name]).preset == preset


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image_08.png", "no well in the name"),
        ("A549_x.png", "no well in the name"),
        ("A01_24h_48h.png", "two times in one name"),
        ("A01_day2_30h.png", "two times in one name"),
        ("A01_t1_t2.png", "two time points in one name"),
        ("A01_B02.png", "which one is the well, A01 or B02"),
        ("A01_s1_w1_thumb1.tif", "a thumbnail"),
        ("A99_day.png", "no well"),
        (f"A01_t{'9' * 300}.png", "too large to be meant"),
        (f"A01_{'9' * 400}h.png", "too large to be meant"),
        (f"A01_t{'9' * 5000}.png", "more than 2000 characters"),
    ],
)
def test_a_name_without_a_position_has_a_reason(name: str, expected: str) -> None:
    assert expected in reason(name)


def test_incucyte_dates_become_hours_since_the_first_image_of_the_plate() -> None:
    names = [
        "a_A1_1_2024y02m28d_21h00m.tif",
        "a_A1_1_2024y03m01d_03h30m.tif",
        "b_A1_1_2024y06m01d_00h00m.tif",
        "b_A1_1_2024y06m01d_03h00m.tif",
    ]
    found = parse_names(names)
    assert [position.time_h for _, position in found.placed] == [0.0, 30.5, 0.0, 3.0]
    assert found.notes == ("time counts from the first image of each plate",)


def test_one_date_on_all_images_is_not_a_time() -> None:
    assert [position.time_h for _, position in parse_names(["20240102_A01.tif", "20240102_A02.tif"]).placed] == [
        None,
        None,
    ]
    assert [position.time_h for _, position in parse_names(["2024-01-02/A01.tif", "2024-01-04/A01.tif"]).placed] == [
        0.0,
        48.0,
    ]


def test_numbered_time_points_become_hours_once_the_interval_is_given() -> None:
    names = [f"A01_t{number:02d}.png" for number in (3, 4, 6)]
    found = parse_names(names)
    assert [position.time_h for _, position in found.placed] == [None, None, None]
    assert "--interval" in found.notes[0]
    found = parse_names(names, interval_h=6)
    assert [position.time_h for _, position in found.placed] == [0, 6, 18]
    assert found.notes == ("time point 3 is 0 h, each further one is 6 h later",)


def test_the_preset_that_reads_the_most_names_is_chosen() -> None:
    names = [f"p_{well}_s{site}_w1.tif" for well in ("A01", "B02") for site in (1, 2)]
    found = parse_names([*names, "notes.png"])
    assert (found.preset, found.is_guessed, len(found.placed)) == ("imagexpress", True, 4)
    assert [image.name for image in found.failed] == ["notes.png"]
    # A preset that the user names is used even if it fits no name.
    assert parse_names(names, "yokogawa").placed == []
    assert not parse_names(names, "yokogawa").is_guessed


def test_an_ambiguous_well_is_decided_by_the_other_names_of_the_folder() -> None:
    names = [f"D3_{row}1.tif" for row in "ABCD"]
    assert [position.well_or_sample for _, position in parse_names(names).placed] == ["A01", "B01", "C01", "D01"]
    names = [f"{row}01_C1.tif" for row in "ABCD"]
    assert [position.well_or_sample for _, position in parse_names(names).placed] == ["A01", "B01", "C01", "D01"]


def test_a_small_d_and_a_number_is_a_day_and_a_capital_d_a_well() -> None:
    assert [position.well_or_sample for _, position in parse_names(["S1_d3.png", "S1_d7.png"]).placed] == ["S1", "S1"]
    found = parse_names(["S1_D3.png", "S1_D7.png"])
    assert [position.well_or_sample for _, position in found.placed] == ["D03", "D07"]
    assert found.notes == ("every well is in row D: if D3 means day 3, use --pattern words",)


def test_2d_and_3d_are_days_only_among_other_days() -> None:
    hours = [position.time_h for _, position in parse_names([f"A01_{day}d.tif" for day in (1, 2, 3)]).placed]
    assert hours == [24, 48, 72]
    assert read_position("A01_3d.tif").time_h is None


def test_two_names_with_the_same_position_are_reported() -> None:
    found = parse_names(["x_A1_t1.tif", "y_a01_t01.tif", "y_A2_t1.tif", "x_A1_t1.tif"])
    assert found.clashes == [["x_A1_t1.tif", "y_a01_t01.tif"]]
    assert len(found.images) == 3


@given(st.sampled_from(sorted(PLATE_FORMATS)), st.data())
def test_every_well_of_every_plate_is_found_in_a_plain_name(size: int, data: st.DataObject) -> None:
    rows, columns = PLATE_FORMATS[size]
    well = Well(data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1)))
    for name in (f"{well}_t04.png", f"exp {well.name.lower()} day 3.png", f"{well}.tif"):
        (image,) = parse_names([name], "plain", wells=size).images
        assert image.position
        assert image.position.well == well


def test_rows_after_p_are_read_if_the_plate_is_given_or_evident() -> None:
    assert reason("R02.tif").startswith("no well")
    found = parse_names(["AF48_t1.png", "T24_t1.png", "R02_t1.png"])
    assert [position.well_or_sample for _, position in found.placed] == ["AF48", "T24", "R02"]
    assert found.plates == {"": 1536}


def test_a_well_that_the_plate_does_not_have_is_refused() -> None:
    found = parse_names(["p_A01_s1.tif", "p_P24_s1.tif"], "imagexpress", wells=96)
    assert [image.reason for image in found.failed] == ["P24 is not on a plate of 96 wells"]
    assert found.plates == {"p": 96}
    with pytest.raises(BadPlate, match="no plates of 95 wells"):
        parse_names([], wells=95)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{well}_day{day}", "B3_day2.5.tif", at("B03", time_h=60.0)),
        ("{plate}-{well}-{hour}h{minute}*", "x/my-plate-C4-1h30_final.tif", at("C04", plate="my-plate", time_h=1.5)),
        ("{time}/{sample}", "48h/organoid 3.tif", PlatePosition(sample="organoid 3", time_h=48.0)),
        ("r{row}c{column}f{site}p{z}-ch{channel}*", "r02c03f04p01-ch1sk1.tiff", at("B03", site=4, z=1, channel="1")),
        (r"(?P<sample>s\d+)_(?P<time>\d+)", "x/s12_03.tif", PlatePosition(sample="s12", time_point=3)),
        (
            r"(?P<row>\w)-(?P<column>\d+)_(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)",
            "A-1_20240102.tif",
            at("A01"),
        ),
    ],
)
def test_a_pattern_of_the_user_is_used(pattern: str, name: str, expected: PlatePosition) -> None:
    assert read_position(name, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("yokogava", "has no placeholder or named group"),
        ("(?P<well>", "is not a regular expression"),
        ("{well}_{tiem}", "names {tiem}; known are plate, well"),
        ("{well}_{well}", "twice"),
        (r"(?P<t>\d+)", "names t; known are"),
        ("{row}_{time}", "a row or a column alone"),
        ("{time}", "identifies no well or sample"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_the_reason(pattern: str, expected: str) -> None:
    with pytest.raises(BadPlate) as caught:
        parse_names(["A01.tif"], pattern)
    assert expected in str(caught.value)


def test_a_name_that_does_not_fit_the_pattern_has_a_reason() -> None:
    assert "no well Z99" in reason("Z99.tif", "{well}")
    assert "does not follow {well}_{day}" in reason("A1.tif", "{well}_{day}")
    assert "no date 2024-13-02" in reason("A1_20241302.tif", r"(?P<well>\w+)_(?P<year>.{4})(?P<month>..)(?P<day>..)")
    assert "'late' is not a time" in reason("A1_late.tif", r"(?P<well>[^_]+)_(?P<time>\w+)")


@given(st.lists(st.text(max_size=40), max_size=8))
def test_no_name_prevents_the_others_from_being_read(names: list[str]) -> None:
    for pattern in ("auto", *PRESETS, "{well}_{time}"):
        found = parse_names([*names, "A01_t1.png"], pattern)
        assert len(found.images) == len({*names, "A01_t1.png"})
        assert all(image.reason for image in found.failed)


@pytest.mark.skipif(not INVASION.exists(), reason="the real images are not here: shared/data beside the checkout")
def test_the_real_images_form_four_curves_of_three_days() -> None:
    found = parse_names(path.name for path in INVASION.iterdir())
    assert not found.failed
    assert not found.clashes
    curves: dict[str, set[float | None]] = {}
    for _, position in found.placed:
        curves.setdefault(position.well_or_sample, set()).add(position.time_h)
    assert curves == {label: {0.0, 48.0, 96.0} for label in ("1_18D", "1_18S", "2_18D", "2_18S")}
