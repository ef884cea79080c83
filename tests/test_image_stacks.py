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
    """Each pixel says which plane it is in: 100 t + 10 z + c, from 1."""
    sizes = [SIZES.get(axis, 20) for axis in axes]
    at = dict(zip(axes, np.indices(sizes), strict=True))
    values = sum(factor * (at[axis] + 1) for axis, factor in (("T", 100), ("Z", 10), ("C", 1)) if axis in at)
    return np.asarray(values, np.uint16)


def said(page: PagePosition) -> int:
    return 100 * (page.t or 0) + 10 * (page.z or 0) + (page.channel or 0)


def written(pixels: Any, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file


def pages(pixels: Any, **options: Any) -> list[PagePosition]:
    return read_pages(written(pixels, **options))


def axes_of(found: list[PagePosition]) -> list[tuple[int | None, int | None, int | None]]:
    return [(page.t, page.z, page.channel) for page in found]


def hours_of(found: list[PagePosition]) -> list[float | None]:
    return [page.time_h for page in found]


@pytest.mark.parametrize("order", ["".join(order) for order in permutations("TZC")])
def test_each_page_of_an_ome_tiff_knows_its_place_in_every_order(order: str) -> None:
    file = written(stack(f"{order}YX"), ome=True, photometric="minisblack", metadata={"axes": f"{order}YX"})
    found = read_pages(file)
    assert len(found) == 12
    for page in found:
        assert decode(file, page.page).pixels[0, 0] == said(page)


def test_a_hyperstack_and_the_axes_of_tifffile_are_understood() -> None:
    for options in ({"imagej": True}, {}):
        file = written(stack("TZCYX"), photometric="minisblack", metadata=STACK, **options)
        for page in (found := read_pages(file)):
            assert decode(file, page.page).pixels[0, 0] == said(page)
        assert len(found) == 12


def test_an_axis_of_one_is_no_axis() -> None:
    for options in ({"imagej": True}, {"ome": True}, {}):
        found = pages(np.zeros((3, 1, 1, 20, 20), np.uint8), photometric="minisblack", metadata=STACK, **options)
        assert axes_of(found) == [(1, None, None), (2, None, None), (3, None, None)]
        (one,) = pages(np.zeros((1, 1, 1, 20, 20), np.uint8), photometric="minisblack", metadata=STACK, **options)
        assert one == PagePosition(0)


@pytest.mark.parametrize("metadata", [{}, None, {"axes": "QYX"}])
def test_plain_pages_are_pages_without_a_place(metadata: Any) -> None:
    found = pages(np.zeros((3, 20, 20), np.uint8), photometric="minisblack", metadata=metadata)
    assert found == [PagePosition(0), PagePosition(1), PagePosition(2)]


def test_colours_of_a_page_are_no_channels() -> None:
    colour = np.zeros((4, 20, 20, 3), np.uint8)
    for options in ({"imagej": True}, {"ome": True}, {}):
        found = pages(colour, photometric="rgb", metadata={"axes": "TYXS"}, **options)
        assert axes_of(found) == [(t, None, None) for t in (1, 2, 3, 4)]


def test_previews_and_smaller_levels_are_left_out_and_the_count_goes_on() -> None:
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


def test_several_images_in_an_ome_file_have_each_their_own_axes() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(np.zeros((2, 20, 20), np.uint8), photometric="minisblack", metadata={"axes": "TYX"})
        writer.write(np.zeros((2, 20, 20), np.uint8), photometric="minisblack", metadata={"axes": "CYX"})
    assert axes_of(read_pages(file)) == [(1, None, None), (2, None, None), (None, None, 1), (None, None, 2)]


def in_set(own: str, description: str) -> list[PagePosition]:
    return pages(np.zeros((20, 20), np.uint8), description=description.replace("OWN", own), metadata=None)


def test_of_a_set_of_ome_files_each_knows_which_of_the_planes_are_its_own() -> None:
    xml = (
        '<OME UUID="urn:uuid:OWN"><Image><Pixels DimensionOrder="XYCZT" SizeC="2" SizeZ="1" SizeT="1">'
        '<Channel Name="BF"/><Channel Name="GFP"/>'
        '<TiffData FirstC="0"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>'
        '<TiffData FirstC="1"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    assert in_set("a", xml) == [PagePosition(0, channel=1, channel_name="BF")]
    assert in_set("b", xml) == [PagePosition(0, channel=2, channel_name="GFP")]
    assert in_set("c", xml) == [PagePosition(0)]


@pytest.mark.parametrize(
    ("interval", "unit", "hours"),
    [(30, "min", 0.5), (1800, "s", 0.5), (1_800_000, "ms", 0.5), (6, "h", 6), (1, "d", 24), (420, None, 420 / 3600)],
)
def test_the_time_between_pages_of_an_ome_tiff_is_in_hours(interval: float, unit: str | None, hours: float) -> None:
    metadata = {"axes": "TYX", "TimeIncrement": interval, **({"TimeIncrementUnit": unit} if unit else {})}
    found = pages(np.zeros((4, 20, 20), np.uint8), ome=True, photometric="minisblack", metadata=metadata)
    assert hours_of(found) == pytest.approx([0, hours, 2 * hours, 3 * hours])


def timed(seconds: list[float], **metadata: Any) -> list[float | None]:
    metadata |= {"axes": "TYX", "Plane": {"DeltaT": seconds, "DeltaTUnit": ["s"] * len(seconds)}}
    found = pages(np.zeros((len(seconds), 20, 20), np.uint8), ome=True, photometric="minisblack", metadata=metadata)
    return hours_of(found)


def test_measured_times_are_taken_since_the_first_and_zeros_are_none() -> None:
    assert timed([90.0, 3690.0, 12690.0]) == [0, 1, 3.5]
    assert timed([0.0, 0.0, 0.0]) == [None, None, None]
    assert timed([7200.0, 3600.0]) == [None, None]


def test_what_was_planned_holds_where_the_measured_times_are_those() -> None:
    assert timed([1.2, 3600.7, 7202.9], TimeIncrement=1, TimeIncrementUnit="h") == [0, 1, 2]
    assert timed([0.0, 3600.0, 18000.0], TimeIncrement=1, TimeIncrementUnit="h") == [0, 1, 5]
    assert timed([0.0, 0.0, 0.0], TimeIncrement=1, TimeIncrementUnit="h") == [0, 1, 2]


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


def test_a_hyperstack_that_has_lost_pages_has_no_places() -> None:
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
def test_whatever_a_file_says_of_its_pages_none_is_lost(text: str) -> None:
    found = pages(np.zeros((3, 20, 20), np.uint8), photometric="minisblack", description=text, metadata=None)
    assert [page.page for page in found] == [0, 1, 2]
    assert {page.z for page in found} == {None}


NAMED = {"axes": "TZCYX", "Channel": {"Name": ["BF", "GFP"]}}


def named() -> list[PagePosition]:
    return pages(stack("TZCYX"), ome=True, photometric="minisblack", metadata=NAMED)


def chosen(found: list[PagePosition], **choice: Any) -> list[int]:
    return [page.page for page in choose_pages(found, PlaneChoice(**choice))]


def refused(found: list[PagePosition], **choice: Any) -> str:
    with pytest.raises(ChoosePlane) as caught:
        choose_pages(found, PlaneChoice(**choice))
    return str(caught.value)


def test_several_planes_and_no_choice_are_a_question() -> None:
    assert refused(named()) == (
        "this stack has 3 z planes and 2 channels (BF, GFP): choose with --z and --channel, "
        "or take all with --z all --channel all"
    )
    assert refused(named(), z=2).startswith("this stack has 2 channels (BF, GFP): choose with --channel, or take all")
    assert refused(named(), channel=2).startswith(
        "this stack has 3 z planes: choose with --z, or take all with --z all"
    )


def test_a_choice_leaves_the_pages_that_it_names() -> None:
    assert chosen(named(), z=2, channel=1) == chosen(named(), z=2, channel="bf") == [2, 8]
    assert chosen(named(), z=3, channel="GFP", time=2) == [11]
    assert chosen(named(), z=ALL, channel=2) == [1, 3, 5, 7, 9, 11]
    assert chosen(named(), z=ALL, channel=ALL) == list(range(12))
    times = pages(np.zeros((4, 20, 20), np.uint8), imagej=True, metadata={"axes": "TYX"})
    assert chosen(times) == chosen(times, z=1, channel=1) == [0, 1, 2, 3]
    assert chosen(times, time=3) == [2]


def test_a_choice_that_a_file_does_not_have_says_what_it_has() -> None:
    assert refused(named(), z=4, channel=1) == "there is no z plane 4 in this file: it has z planes 1 to 3"
    assert refused(named(), z=1, channel=3) == (
        "there is no channel 3 in this file: it has channels 1 (BF) and 2 (GFP)"
    )
    assert "no channel RFP in this file: it has channels 1 (BF) and 2 (GFP)" in refused(named(), z=1, channel="RFP")
    assert "no time point 9 in this file: it has time points 1 and 2" in refused(named(), z=1, channel=1, time=9)
    unnamed = pages(stack("CYX"), imagej=True, metadata={"axes": "CYX"})
    assert "have no names, so none is GFP: choose by number" in refused(unnamed, channel="GFP")
    metadata = {"axes": "CYX", "Channel": {"Name": ["BF", "BF"]}}
    twice = pages(stack("CYX"), ome=True, photometric="minisblack", metadata=metadata)
    assert "2 channels of this file are named BF: choose by number" in refused(twice, channel="BF")


def test_pages_without_a_place_cannot_be_chosen_but_a_single_picture_is_what_its_name_says() -> None:
    plain = [PagePosition(0), PagePosition(1)]
    assert chosen(plain) == chosen(plain, z=ALL, channel=ALL) == [0, 1]
    assert "leave out --time 2 and --z 1 (each page is an image then)" in refused(plain, z=1, time=2)
    single = [PagePosition(0)]
    assert chosen(single, z=3, channel=2, time=5) == chosen(single, channel="GFP") == [0]
    green = [PagePosition(0, channel_name="GFP")]
    assert chosen(green, channel="gfp") == chosen(green, channel=2) == [0]
    assert "no channel BF in this file: it has channel 1 (GFP)" in refused(green, channel="BF")
