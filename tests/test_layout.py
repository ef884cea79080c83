"""The positions of the images of a run, from names, conditions and the pages of stacks together."""

import pytest

from spheroseg.errors import BadPlate
from spheroseg.plate.condition_table import read_conditions
from spheroseg.plate.layout import ImagePage, lay_out_plate, select_positions
from spheroseg.plate.position import NO_POSITION

PLATE = [ImagePage(f"{well}_t{hours}h.tif") for well in ("A01", "A02", "B01") for hours in (0, 24)]


def test_a_plate_is_recognised_and_images_without_a_position_are_listed() -> None:
    layout = lay_out_plate([*PLATE, ImagePage("overview.tif")])
    assert layout.is_plate
    assert [(str(position.well), position.time_h) for position in layout.positions[:2]] == [("A01", 0), ("A01", 24)]
    assert layout.positions[-1] == NO_POSITION
    assert [name for name, _ in layout.unplaced] == ["overview.tif"]


def test_a_folder_that_is_not_a_plate_has_no_positions_unless_the_user_asks() -> None:
    pages = [ImagePage(f"image_{number:02}.png") for number in range(8)]
    assert not lay_out_plate(pages).is_plate
    assert lay_out_plate(pages).positions == (NO_POSITION,) * 8
    assert not lay_out_plate(PLATE, "off").is_plate
    with pytest.raises(BadPlate, match="plate preview"):
        lay_out_plate(pages, "{well}_t{time}")
    two = [ImagePage("A01.tif"), ImagePage("A02.tif")]
    assert not lay_out_plate(two).is_plate
    assert lay_out_plate(two, "plain").is_plate


def test_a_table_of_conditions_makes_a_plate_and_wells_get_their_conditions() -> None:
    table = "well,drug,concentration,unit\nA1,cisplatin,0.5,µM\nA2,DMSO,0,µM\n"
    rows = read_conditions(table.encode(), "c.csv")
    layout = lay_out_plate([ImagePage("A01.tif"), ImagePage("A02.tif")], conditions=rows)
    assert layout.is_plate
    assert [condition.label for condition in layout.conditions] == ["cisplatin 0.5 µM", "DMSO 0 µM"]


def test_pages_of_a_stack_are_later_than_the_time_in_the_name() -> None:
    names = [ImagePage("A01_t48h.tif", t=number + 1, time_h=number * 2.0) for number in range(3)]
    layout = lay_out_plate(names, "plain")
    assert [position.time_h for position in layout.positions] == [48, 50, 52]
    assert not layout.clashes


def test_numbered_pages_need_an_interval_for_hours() -> None:
    pages = [ImagePage("A01.tif", t=number) for number in (1, 2, 3)]
    assert [(position.time_point, position.time_h) for position in lay_out_plate(pages, "plain").positions] == [
        (1, None),
        (2, None),
        (3, None),
    ]
    assert [position.time_h for position in lay_out_plate(pages, "plain", interval_h=6).positions] == [0, 6, 12]


def test_channel_and_z_come_from_the_stack_if_the_name_has_none() -> None:
    pages = [ImagePage("A01_t0h.tif", channel=channel, z=z) for channel in ("BF", "GFP") for z in (1, 2)]
    assert [(position.channel, position.z) for position in lay_out_plate(pages, "plain").positions] == [
        ("BF", 1),
        ("BF", 2),
        ("GFP", 1),
        ("GFP", 2),
    ]


def test_two_images_with_the_same_position_are_reported() -> None:
    layout = lay_out_plate([*PLATE, ImagePage("copy/A01_t0h.tif")], "{well}_t{hour}h")
    assert layout.clashes == (("A01_t0h.tif", "copy/A01_t0h.tif"),)


def test_positions_can_be_selected_by_channel_and_z() -> None:
    pages = [ImagePage(f"A01_t0h_{channel}.tif", z=z) for channel in ("C1", "C2") for z in (1, 2)]
    positions = lay_out_plate(pages, "plain").positions
    assert [position.channel for position in positions] == ["1", "1", "2", "2"]
    assert select_positions(positions, channel=2, z=None) == [2, 3]
    assert select_positions(positions, channel="all", z=1) == [0, 2]
    assert select_positions([NO_POSITION], channel=2, z=1) == [0]
