"""Pixel sizes in files: units in all spellings, contradictions, and several images in one file."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from spheroseg.cli.pixel_size import pixel_size_notes
from spheroseg.run.result import ImageOutcome
from spheroseg.segmentation.image import GreyImage, decode
from spheroseg.segmentation.ome import read_ome
from spheroseg.segmentation.pixel_size import CONTRADICTION, NOT_SQUARE, PixelSize, from_ome

GREY = np.zeros((40, 60), np.uint8)
IMAGEJ = "ImageJ=1.54f\nunit=micron\n"


def open_image(*, page: int = 0, um: float | None = None, pixels: Any = GREY, **options: Any) -> GreyImage:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return decode(file, page, pixel_size_um=um)


def xml_of(um: float) -> str:
    file = io.BytesIO()
    tifffile.imwrite(file, GREY, ome=True, metadata={"axes": "YX", "PhysicalSizeX": um, "PhysicalSizeY": um})
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        return str(tiff.ome_metadata)


def with_both(ome_um: float, imagej_um: float, um: float | None = None) -> GreyImage:
    """Return an image of a file with a description of ImageJ beside that of OME."""
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        GREY,
        description=xml_of(ome_um),
        metadata={"room": "for another description"},
        resolution=(1 / imagej_um, 1 / imagej_um),
        resolutionunit="NONE",
    )
    # tifffile writes a second description only if it is its own.
    data = file.getvalue()
    start = data.index(b'{"shape"')
    end = data.index(b"}", start) + 1
    return decode(io.BytesIO(data[:start] + IMAGEJ.encode().ljust(end - start, b"\0") + data[end:]), pixel_size_um=um)


def test_equal_sizes_are_no_contradiction() -> None:
    image = with_both(0.65, 0.6501)
    assert (image.pixel_size, image.flags) == (PixelSize(0.65, "OME-XML"), ())


def test_ome_takes_precedence_over_imagej_and_the_contradiction_is_flagged() -> None:
    image = with_both(0.65, 1.3)
    assert image.pixel_size is not None
    assert image.flags == (CONTRADICTION,)
    assert image.pixel_size.to_record() == {
        "um": 0.65,
        "source": "OME-XML",
        "contradicted_by": [{"um": pytest.approx(1.3), "source": "ImageJ"}],
    }


def test_an_explicit_size_takes_precedence_and_is_compared_with_all_in_the_file() -> None:
    image = with_both(0.65, 1.3, um=1.3)
    assert image.pixel_size == PixelSize(1.3, "option", (PixelSize(0.65, "OME-XML"),))
    assert image.flags == (CONTRADICTION,)
    both = with_both(0.65, 1.3, um=2.0).pixel_size
    assert both is not None
    assert [other.source for other in both.contradicted_by] == ["OME-XML", "ImageJ"]


@pytest.mark.parametrize(
    ("um", "flags"), [(0.5049, ()), (0.5051, (CONTRADICTION,)), (0.4951, ()), (0.49, (CONTRADICTION,))]
)
def test_a_difference_of_a_hundredth_is_no_contradiction(um: float, flags: tuple[str, ...]) -> None:
    image = open_image(um=um, ome=True, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    assert image.flags == flags


def test_dots_per_inch_contradict_nothing() -> None:
    image = open_image(um=0.65, resolution=(300, 300), resolutionunit="INCH")
    assert (image.pixel_size, image.flags) == (PixelSize(0.65, "option"), ())
    ome = open_image(
        ome=True, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, resolution=(72, 72), resolutionunit="INCH"
    )
    assert (ome.pixel_size, ome.flags) == (PixelSize(0.5, "OME-XML"), ())


def test_without_a_contradiction_the_record_has_only_size_and_source() -> None:
    assert PixelSize(0.65, "option").to_record() == {"um": 0.65, "source": "option"}


@pytest.mark.parametrize("um", [None, 0.65])
def test_pixels_that_are_not_square_are_flagged(um: float | None) -> None:
    ome = open_image(um=um, ome=True, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.6})
    imagej = open_image(um=um, imagej=True, metadata={"unit": "um"}, resolution=(2.0, 1.0))
    for image in (ome, imagej):
        assert image.pixel_size == (PixelSize(0.65, "option") if um else None)
        assert image.flags == (NOT_SQUARE,)


def test_sides_in_different_units_are_understood() -> None:
    image = open_image(imagej=True, metadata={"unit": "um", "yunit": "nm"}, resolution=(2.0, 0.002))
    assert image.pixel_size == PixelSize(0.5, "ImageJ")


def test_each_page_has_the_size_of_its_own_image_in_an_ome_file() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        for count, um in ((2, 0.5), (3, 1.25)):
            pixels = np.zeros((count, 40, 60), np.uint8)
            metadata = {"axes": "TYX", "PhysicalSizeX": um, "PhysicalSizeY": um}
            writer.write(pixels, photometric="minisblack", metadata=metadata)
    sizes = [decode(file, page).pixel_size for page in range(5)]
    assert [size.um for size in sizes if size] == [0.5, 0.5, 1.25, 1.25, 1.25]


@pytest.mark.parametrize(
    ("unit", "in_um"),
    [
        *((unit, 1.0) for unit in ("µm", "μm", "um", "UM", " µm ", "micron", "Microns", "micrometer", "micrometre")),
        *((unit, 1.0) for unit in ("&#181;m", "&#xB5;m", "\\u00B5m", "\\u00b5m", "Âµm", "Î¼m", "\ufffdm")),
        *((unit, 1e-3) for unit in ("nm", "nanometers", "nanometre")),
        *((unit, 1e-4) for unit in ("Å", "\u212b", "\\u00C5", "angstrom")),
        *((unit, factor) for unit, factor in (("pm", 1e-6), ("mm", 1e3), ("cm", 1e4), ("m", 1e6), ("in.", 25_400))),
    ],
)
def test_units_are_understood_in_all_spellings(unit: str, in_um: float) -> None:
    xml = (
        '<?xml version="1.0"?><!-- <Pixels PhysicalSizeX="9" PhysicalSizeY="9"/> --><ome:OME><ome:GreyImage>'
        f'<ome:Pixels PhysicalSizeX="0.65" PhysicalSizeXUnit="{unit}"\n PhysicalSizeY = \'0.65\''
        f' PhysicalSizeYUnit="{unit}"></ome:Pixels></ome:GreyImage></ome:OME>'
    )
    (pixels,) = read_ome(xml, 1)
    size = from_ome(pixels.attributes)
    assert isinstance(size, PixelSize)
    assert size.um == pytest.approx(0.65 * in_um)


def test_a_malicious_text_is_read_in_linear_time() -> None:
    for text in (
        "<A " * 200_000,
        "<!--" * 200_000,
        "<Pixels " + "a" * 500_000 + ">",
        "<Pixels " + "a='" * 100_001 + ">",
    ):
        assert len(read_ome(text, 100)) <= 1
    many = "<Pixels DimensionOrder='XYCZT' SizeT='999999999'/>" * 2000
    assert sum(len(pixels.planes) for pixels in read_ome(many, 100)) == 100


def line(pixel_size: dict[str, Any] | None, *flags: str) -> ImageOutcome:
    return ImageOutcome("a.tif", "completed", flags=flags, pixel_size=pixel_size)


def test_a_run_reports_each_contradiction_once() -> None:
    contradicted = {"um": 0.65, "source": "option", "contradicted_by": [{"um": 0.5, "source": "ImageJ"}]}
    notes = list(pixel_size_notes([line(contradicted, CONTRADICTION)] * 3 + [line({"um": 1, "source": "ImageJ"})]))
    assert notes == [
        "3 images: the ImageJ tags in the file say 0.5 µm, but --pixel-size says 0.65 µm, which was used. "
        "Find out which one is right."
    ]
    (unknown,) = pixel_size_notes([line(None, NOT_SQUARE), line(None)])
    assert unknown.startswith("1 image: the pixels are not square, so there are no measurements in µm.")
