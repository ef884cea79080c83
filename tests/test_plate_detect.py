"""Whether a folder is recognised as a plate if the user does not say so."""

import pytest

from spheroseg.plate.detect import is_plate
from spheroseg.plate.names import parse_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"{row}{column}_t{time}.tif" for row in "AB" for column in (1, 2) for time in (0, 24)], True),
        ([f"{row}{column:02}.tif" for row in "AB" for column in (1, 2, 3)], True),
        (["1_day1.tif", "1_day3.tif", "2_day1.tif", "2_day3.tif"], True),
        ([f"image_{number:02}.png" for number in range(8)], False),
        (["A1.tif", "A2.tif"], False),
        (["IMG_2024-05-01.png", "notes.png"], False),
        # One in three has no well.
        (["A1_t0.tif", "A1_t1.tif", "overview.tif"], False),
        # All have the same position.
        ([f"A1_t0_{letter}xy.tif" for letter in "abcdefgh"], False),
        ([], False),
    ],
)
def test_a_folder_is_a_plate_if_most_names_have_a_position_and_a_time_or_many_wells(
    names: list[str], expected: bool
) -> None:
    assert is_plate([image.position for image in parse_names(names).images]) is expected
