"""Time, z plane and channel of the pages of stacks, as tifffile, ImageJ and OME write them."""

import io
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import tifffile

from spheroseg.errors import ChoosePlane
from spheroseg.segmentation.image import decode
from spheroseg.segmentation.planes import ALL, PlaneChoice, choose_pages
from spheroseg.segmentation.stack import PagePosition, read_pages

SIZES = {"T": 2, "Z": 3, "C": 2}
STACK = {"axes": "TZCYX"}


def stack(axes: str) -> Any:
    """Return a stack whose pixels are the number of their plane: 100 t + 10 z + c, each from 1."""
    sizes = [SIZES.get(axis, 20) for axis in axes]
    at = dict(zip(axes, np.indices(sizes), strict=True))
    values = sum(factor * (at[axis] + 1) for axis, factor in (("T", 100), ("Z", 10), ("C", 1)) if axis in at)
    return np.asarray(values, np.uint16)


def plane_number(page: PagePosition) -> int:
    return 100 * (page.t or 0) + 10 * (page.z or 0) + (page.channel or 0)


def write_stack(pixels: Any, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file


def pages(pixels: Any, **options: Any) -> list[PagePosition]:
    return read_pages(write_stack(pixels, **options))


def axes_of(found: list[PagePosition]) -> list[tuple[int | None, int | None, int | None]]:
    return [(page.t, page.z, page.channel) for page in found]


def hours_of(found: list[PagePosition]) -> list[float | None]:
    return [page.time_h for page in found]


@pytest.mark.parametrize("order", ["".join(order) for order in permutations("TZC")])
def test_each_page_of_an_ome_tiff_has_its_position_in_every_order(order: str) -> None:
    file = write_stack(stack(f"{order}YX"), ome=True, photometric="minisblack", metadata={"axes": f"{order}YX"})
    found = read_pages(file)
    assert len(found) == 12
    for page in found:
        assert decode(file, page.page).pixels[0, 0] == plane_number(page)


def test_a_hyperstack_and_the_axes_of_tifffile_are_understood() -> None:
    for options in ({"imagej": True}, {}):
        file = write_stack(stack("TZCYX"), photometric="minisblack", metadata=STACK, **options)
        for page in (found := read_pages(file)):
            assert decode(file, page.page).pixels[0, 0] == plane_number(page)
        assert len(found) == 12


def test_an_axis_of_one_is_no_axis() -> None:
    for options in ({"imagej": True}, {"ome": True}, {}):
        found = pages(np.zeros((3, 1, 1, 20, 20), np.uint8), photometric="minisblack", metadata=STACK, **options)
        assert axes_of(found) == [(1, None, None), (2, None, None), (3, None, None)]
        (one,) = pages(np.zeros((1, 1, 1, 20, 20), np.uint8), photometric="minisblack", metadata=STACK, **options)
        assert one == PagePosition(0)


@pytest.mark.parametrize("metadata", [{}, None, {"axes": "QYX"}])
def test_plain_pages_have_no_position(metadata: Any) -> None:
    found = pages(np.zeros((3, 20, 20), np.uint8), photometric="minisblack", metadata=metadata)
    assert found == [PagePosition(0), PagePosition(1), PagePosition(2)]


def test_the_colours_of_a_page_are_no_channels() -> None:
    colour = np.zeros((4, 20, 20, 3), np.uint8)
    for options in ({"imagej": True}, {"ome": True}, {}):
        found = pages(colour, photometric="rgb", metadata={"axes": "TYXS"}, **options)
        assert axes_of(found) == [(t, None, None) for t in (1, 2, 3, 4)]


def test_previews_and_pyramid_levels_are_not_counted() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(stack("TCYX"), photometric="minisblack", subifds=1, metadata={"axes": "TCYX"})
        for plane in stack("TCYX").reshape(4, 20, 20):
            writer.write(plane[::2, ::2], subfiletype=1, metadata=None)
    found = read_pages(file)
    assert axes_of(found) == [(1, None, 1), (1, None, 2), (2, None, 1), (2, None, 2)]
    with_preview = io.BytesIO()
    with tifffile.TiffWriter(with_preview) as writer:
        for number in range(3):
            writer.write(np.zeros((40, 40), np.uint8), metadata=None)
            if not number:
                writer.write(np.zeros((40, 40), np.uint8)[::4, ::4], metadata=None)
    assert [page.page for page in read_pages(with_preview)] == [0, 1, 2]


def test_each_image_in_an_ome_file_has_its_own_axes() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(np.zeros((2, 20, 20), np.uint8), photometric="minisblack", metadata={"axes": "TYX"})
        writer.write(np.zeros((2, 20, 20), np.uint8), photometric="minisblack", metadata={"axes": "CYX"})
    assert axes_of(read_pages(file)) == [(1, None, None), (2, None, None), (None, None, 1), (None, None, 2)]


def pages_in_set(own: str, description: str) -> list[PagePosition]:
    return pages(np.zeros((20, 20), np.uint8), description=description.replace("OWN", own), metadata=None)


def test_each_file_of_an_ome_set_has_only_its_own_planes() -> None:
    xml = (
        '<OME UUID="urn:uuid:OWN"><Image><Pixels DimensionOrder="XYCZT" SizeC="2" SizeZ="1" SizeT="1">'
        '<Channel Name="BF"/><Channel Name="GFP"/>'
        '<TiffData FirstC="0"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>'
        '<TiffData FirstC="1"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    assert pages_in_set("a", xml) == [PagePosition(0, channel=1, channel_name="BF")]
    assert pages_in_set("b", xml) == [PagePosition(0, channel=2, channel_name="GFP")]
    assert pages_in_set("c", xml) == [PagePosition(0)]


@pytest.mark.parametrize(
    ("interval", "unit", "hours"),
    [(30, "min", 0.5), (1800, "s", 0.5), (1_800_000, "ms", 0.5), (6, "h", 6), (1, "d", 24), (420, None, 420 / 3600)],
)
def test_the_time_between_pages_of_an_ome_tiff_is_in_hours(interval: float, unit: str | None, hours: float) -> None:
    metadata = {"axes": "TYX", "TimeIncrement": interval, **({"TimeIncrementUnit": unit} if unit else {})}
    found = pages(np.zeros((4, 20, 20), np.uint8), ome=True, photometric="minisblack", metadata=metadata)
    assert hours_of(found) == pytest.approx([0, hours, 2 * hours, 3 * hours])


def hours_in_ome(seconds: list[float], **metadata: Any) -> list[float | None]:
    metadata |= {"axes": "TYX", "Plane": {"DeltaT": seconds, "DeltaTUnit": ["s"] * len(seconds)}}
    found = pages(np.zeros((len(seconds), 20, 20), np.uint8), ome=True, photometric="minisblack", metadata=metadata)
    return hours_of(found)


def test_measured_times_count_from_the_first_and_zeros_are_ignored() -> None:
    assert hours_in_ome([90.0, 3690.0, 12690.0]) == [0, 1, 3.5]
    assert hours_in_ome([0.0, 0.0, 0.0]) == [None, None, None]
    assert hours_in_ome([7200.0, 3600.0]) == [None, None]


def test_planned_times_are_used_if_the_measured_ones_are_close() -> None:
    assert hours_in_ome([1.2, 3600.7, 7202.9], TimeIncrement=1, TimeIncrementUnit="h") == [0, 1, 2]
    assert hours_in_ome([0.0, 3600.0, 18000.0], TimeIncrement=1, TimeIncrementUnit="h") == [0, 1, 5]
    assert hours_in_ome([0.0, 0.0, 0.0], TimeIncrement=1, TimeIncrementUnit="h") == [0, 1, 2]


def test_each_channel_begins_at_0_hours() -> None:
    delays = [float(second) for second in (0, 20, 3600, 3620)]
    metadata = {"axes": "TCYX", "Plane": {"DeltaT": delays}}
    found = pages(np.zeros((2, 2, 20, 20), np.uint8), ome=True, photometric="minisblack", metadata=metadata)
    assert hours_of(found) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("interval", "unit", "hours"), [(1800, None, 0.5), (30, "min", 0.5), (0.5, "hour", 0.5), (2, "days", 48)]
)
def test_the_frame_interval_of_imagej_is_in_hours(interval: float, unit: str | None, hours: float) -> None:
    metadata = {"axes": "TYX", "finterval": interval, **({"tunit": unit} if unit else {})}
    found = pages(np.zeros((3, 20, 20), np.uint8), imagej=True, metadata=metadata)
    assert hours_of(found) == [0, hours, 2 * hours]


@pytest.mark.parametrize("metadata", [{}, {"finterval": 0}, {"finterval": "nan"}, {"finterval": 3, "tunit": "moons"}])
def test_without_a_usable_interval_there_are_times_but_no_hours(metadata: dict[str, Any]) -> None:
    found = pages(np.zeros((2, 20, 20), np.uint8), imagej=True, metadata={"axes": "TYX", **metadata})
    assert axes_of(found) == [(1, None, None), (2, None, None)]
    assert hours_of(found) == [None, None]


def test_a_hyperstack_with_missing_pages_has_no_positions() -> None:
    lines = "ImageJ=1.54f\nimages=6\nslices=3\nframes=2\n"
    found = pages(np.zeros((5, 20, 20), np.uint8), photometric="minisblack", description=lines, metadata=None)
    assert found == [PagePosition(number) for number in range(5)]


@pytest.mark.parametrize(
    "text",
    [
        '{"shape": "x", "axes": 3}',
        '{"shape": [3, 20, 20], "axes": "TZ"}',
        '{"shape": [1000000000, 1000000000, 20, 20], "axes": "TZYX"}',
        '{"shape": [-3, 20, 20], "axes": "TYX"}',
        '{"shape": ',
        "ImageJ=\nframes=-3\nslices=x\nchannels=99999999999999999999\n",
        "<OME><Pixels DimensionOrder='XYCZT' SizeT='-3' SizeC='x'/></OME>",
        "<OME><Pixels DimensionOrder='XYCZT' SizeT='0'><TiffData IFD='7' FirstT='99'/></Pixels></OME>",
        "<OME><BinaryOnly MetadataFile='x'/></OME>",
    ],
)
def test_no_page_is_lost_whatever_the_metadata_state(text: str) -> None:
    found = pages(np.zeros((3, 20, 20), np.uint8), photometric="minisblack", description=text, metadata=None)
    assert [page.page for page in found] == [0, 1, 2]
    assert {page.z for page in found} == {None}


NAMED = {"axes": "TZCYX", "Channel": {"Name": ["BF", "GFP"]}}


def pages_with_names() -> list[PagePosition]:
    return pages(stack("TZCYX"), ome=True, photometric="minisblack", metadata=NAMED)


def choose_numbers(found: list[PagePosition], **choice: Any) -> list[int]:
    return [page.page for page in choose_pages(found, PlaneChoice(**choice))]


def refusal(found: list[PagePosition], **choice: Any) -> str:
    with pytest.raises(ChoosePlane) as caught:
        choose_pages(found, PlaneChoice(**choice))
    return str(caught.value)


def test_several_planes_without_a_choice_are_refused_with_a_question() -> None:
    assert refusal(pages_with_names()) == (
        "this stack has 3 z planes and 2 channels (BF, GFP): choose with --z and --channel, "
        "or take all with --z all --channel all"
    )
    assert refusal(pages_with_names(), z=2).startswith(
        "this stack has 2 channels (BF, GFP): choose with --channel, or take all"
    )
    assert refusal(pages_with_names(), channel=2).startswith(
        "this stack has 3 z planes: choose with --z, or take all with --z all"
    )


def test_a_choice_keeps_the_pages_that_it_names() -> None:
    assert (
        choose_numbers(pages_with_names(), z=2, channel=1)
        == choose_numbers(pages_with_names(), z=2, channel="bf")
        == [2, 8]
    )
    assert choose_numbers(pages_with_names(), z=3, channel="GFP", time=2) == [11]
    assert choose_numbers(pages_with_names(), z=ALL, channel=2) == [1, 3, 5, 7, 9, 11]
    assert choose_numbers(pages_with_names(), z=ALL, channel=ALL) == list(range(12))
    times = pages(np.zeros((4, 20, 20), np.uint8), imagej=True, metadata={"axes": "TYX"})
    assert choose_numbers(times) == choose_numbers(times, z=1, channel=1) == [0, 1, 2, 3]
    assert choose_numbers(times, time=3) == [2]


def test_a_choice_that_does_not_exist_is_refused_with_those_that_do() -> None:
    assert refusal(pages_with_names(), z=4, channel=1) == "there is no z plane 4 in this file: it has z planes 1 to 3"
    assert refusal(pages_with_names(), z=1, channel=3) == (
        "there is no channel 3 in this file: it has channels 1 (BF) and 2 (GFP)"
    )
    assert "no channel RFP in this file: it has channels 1 (BF) and 2 (GFP)" in refusal(
        pages_with_names(), z=1, channel="RFP"
    )
    assert "no time point 9 in this file: it has time points 1 and 2" in refusal(
        pages_with_names(), z=1, channel=1, time=9
    )
    unnamed = pages(stack("CYX"), imagej=True, metadata={"axes": "CYX"})
    assert "have no names, so none is GFP: choose by number" in refusal(unnamed, channel="GFP")
    metadata = {"axes": "CYX", "Channel": {"Name": ["BF", "BF"]}}
    twice = pages(stack("CYX"), ome=True, photometric="minisblack", metadata=metadata)
    assert "2 channels of this file are named BF: choose by number" in refusal(twice, channel="BF")


def test_pages_without_a_position_cannot_be_chosen_but_a_single_page_is_always_taken() -> None:
    plain = [PagePosition(0), PagePosition(1)]
    assert choose_numbers(plain) == choose_numbers(plain, z=ALL, channel=ALL) == [0, 1]
    assert "leave out --time 2 and --z 1 (each page is an image then)" in refusal(plain, z=1, time=2)
    single = [PagePosition(0)]
    assert choose_numbers(single, z=3, channel=2, time=5) == choose_numbers(single, channel="GFP") == [0]
    green = [PagePosition(0, channel_name="GFP")]
    assert choose_numbers(green, channel="gfp") == choose_numbers(green, channel=2) == [0]
    assert "no channel BF in this file: it has channel 1 (GFP)" in refusal(green, channel="BF")
