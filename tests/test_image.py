"""Images that can be read: all formats and bit depths, and the pixel sizes that files state."""

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image as Pillow

from spheroseg.segmentation.image import PixelSize, count_pages
from tests.support.pictures import GREY8, GREY16, RGB8, RGB16, RNG, luminance, pillow, read, refused, size_of, tiff

LOSSLESS = {
    "png": lambda p: pillow(p, "PNG"),
    "bmp": lambda p: pillow(p, "BMP"),
    "tiff": tiff,
    "tiff lzw": lambda p: tiff(p, compression="lzw", predictor=True),
    "tiff deflate, tiled": lambda p: tiff(p, compression="zlib", tile=(16, 16)),
    "big-endian tiff": lambda p: tiff(p, byteorder=">"),
    "bigtiff": lambda p: tiff(p, bigtiff=True),
}


@pytest.mark.parametrize("write", LOSSLESS.values(), ids=LOSSLESS)
def test_8_bit_grey_reads_as_stored(write: Callable[[npt.NDArray[Any]], bytes]) -> None:
    assert np.array_equal(read(write(GREY8)), GREY8)


@pytest.mark.parametrize(
    "write", [w for k, w in LOSSLESS.items() if k != "bmp"], ids=[k for k in LOSSLESS if k != "bmp"]
)
def test_16_bit_grey_reads_as_stored(write: Callable[[npt.NDArray[Any]], bytes]) -> None:
    assert np.array_equal(read(write(GREY16)), GREY16)


@pytest.mark.parametrize("write", LOSSLESS.values(), ids=LOSSLESS)
def test_8_bit_colour_becomes_luminance(write: Callable[[npt.NDArray[Any]], bytes]) -> None:
    assert np.allclose(read(write(RGB8)), luminance(RGB8), atol=1e-3)


@pytest.mark.parametrize("write", [imagecodecs.png_encode, tiff], ids=["png", "tiff"])
def test_16_bit_colour_keeps_all_its_bits(write: Callable[[npt.NDArray[Any]], bytes]) -> None:
    assert np.allclose(read(bytes(write(RGB16))), luminance(RGB16), rtol=1e-6)


def test_planar_colour_and_opacity_are_understood() -> None:
    rgba = np.dstack([RGB8, np.full(RGB8.shape[:2], 7, np.uint8)])
    assert np.allclose(read(pillow(rgba, "PNG")), luminance(RGB8), atol=1e-3)
    planar = tiff(np.moveaxis(RGB8, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.allclose(read(planar), luminance(RGB8), atol=1e-3)


def test_a_palette_is_looked_up() -> None:
    indexed = Pillow.fromarray(RGB8).quantize(64)
    expected = luminance(np.asarray(indexed.convert("RGB")))
    for kind in ("PNG", "BMP"):
        file = io.BytesIO()
        indexed.save(file, kind)
        assert np.allclose(read(file.getvalue()), expected, atol=1e-3)
    file = io.BytesIO()
    indexed.save(file, "TIFF")
    assert np.allclose(read(file.getvalue()) / 257, expected, atol=1)


def test_1_bit_and_float_pictures_are_read() -> None:
    bits = GREY8 > 127
    assert np.array_equal(read(pillow(bits, "PNG")) > 0, bits)
    assert np.array_equal(read(tiff(bits, photometric="minisblack")) > 0, bits)
    values = RNG.normal(0, 3, (40, 60)).astype(np.float32)
    assert np.array_equal(read(tiff(values)), values)


def test_white_is_zero_is_inverted() -> None:
    assert np.array_equal(read(tiff(GREY8, photometric="miniswhite")), 255 - GREY8)


def test_jpeg_is_read_and_its_orientation_tag_is_not_applied() -> None:
    wide = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (32, 1))
    exif = Pillow.Exif()
    exif[0x0112] = 6
    pixels = read(pillow(wide, "JPEG", quality=95, exif=exif))
    assert pixels.shape == (32, 64)
    assert np.abs(pixels - wide).max() < 6
    assert np.allclose(read(pillow(RGB8, "JPEG", quality=100, subsampling=0)), luminance(RGB8), atol=4)


def test_every_page_of_a_tiff_is_a_picture() -> None:
    stack = RNG.integers(0, 4000, (3, 40, 60), np.uint16)
    data = tiff(stack, photometric="minisblack")
    assert count_pages(io.BytesIO(data)) == 3
    for page in range(3):
        assert np.array_equal(read(data, page), stack[page])
    for page in (3, -1):
        assert f"no page {page}" in refused(data, page=page)


def test_an_imagej_hyperstack_has_its_planes_as_pages() -> None:
    stack = RNG.integers(0, 4000, (2, 3, 40, 60), np.uint16)
    data = tiff(stack, imagej=True, metadata={"axes": "TZYX", "unit": "um"}, resolution=(2.0, 2.0))
    assert count_pages(io.BytesIO(data)) == 6
    assert np.array_equal(read(data, 4), stack[1, 1])


def test_a_preview_in_the_file_is_not_a_page() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY8)
        writer.write(RGB8[:10, :15])
        writer.write(GREY8[::2, ::2], subfiletype=1)
    assert count_pages(io.BytesIO(file.getvalue())) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_other_formats_have_one_page(kind: str) -> None:
    data = pillow(GREY8, kind)
    assert count_pages(io.BytesIO(data)) == 1
    assert "no page 1" in refused(data, page=1)


def ome(**pixels: Any) -> bytes:
    return tiff(GREY8, ome=True, metadata={"axes": "YX", **pixels})


@pytest.mark.parametrize(
    ("unit", "value", "um"),
    [(None, 0.65, 0.65), ("µm", 0.65, 0.65), ("nm", 325, 0.325), ("mm", 0.001, 1.0), ("cm", 1e-4, 1.0)],
)
def test_the_pixel_size_of_an_ome_tiff_is_read(unit: str | None, value: float, um: float) -> None:
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    assert size_of(ome(PhysicalSizeX=value, PhysicalSizeY=value, **units)) == PixelSize(um, "OME-XML")


@pytest.mark.parametrize(
    "pixels",
    [
        {},
        {"PhysicalSizeX": 0.65},
        {"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.70},
        {"PhysicalSizeX": 0.0, "PhysicalSizeY": 0.0},
        {"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"},
    ],
    ids=["none", "one side", "not square", "zero", "in pixels"],
)
def test_an_ome_tiff_without_a_usable_pixel_size_has_none(pixels: dict[str, Any]) -> None:
    assert size_of(ome(**pixels)) is None


def imagej(unit: str | None, x: float, y: float | None = None) -> bytes:
    lines = ["ImageJ=1.54f"] + ([] if unit is None else [f"unit={unit}"])
    return tiff(
        GREY8,
        description="\n".join(lines) + "\n",
        metadata=None,
        resolution=(x, x if y is None else y),
        resolutionunit="NONE",
    )


@pytest.mark.parametrize(
    ("unit", "per_unit", "um"),
    [
        ("micron", 2.0, 0.5),
        ("um", 4.0, 0.25),
        ("\\u00B5m", 1 / 0.65, 0.65),
        ("nm", 0.002, 0.5),
        ("mm", 1000, 1.0),
        ("cm", 10_000, 1.0),
        ("inch", 25_400, 1.0),
    ],
)
def test_the_pixel_size_of_an_imagej_tiff_is_read(unit: str, per_unit: float, um: float) -> None:
    size = size_of(imagej(unit, per_unit))
    assert size is not None
    assert size.um == pytest.approx(um, rel=1e-6)
    assert size.source == "ImageJ"


def test_a_micro_sign_in_latin_1_is_understood() -> None:
    data = imagej("um", 2.0).replace(b"unit=um\n", b"unit=\xb5m\n")
    assert size_of(data) == PixelSize(0.5, "ImageJ")


@pytest.mark.parametrize(
    ("unit", "x", "y"),
    [(None, 2.0, 2.0), ("pixel", 2.0, 2.0), ("micron", 2.0, 2.1), ("inch", 300.0, 300.0)],
    ids=["no unit", "pixels", "not square", "dpi that passed through ImageJ"],
)
def test_an_imagej_tiff_without_a_usable_pixel_size_has_none(unit: str | None, x: float, y: float) -> None:
    assert size_of(imagej(unit, x, y)) is None


def test_dots_per_inch_are_no_pixel_size() -> None:
    assert size_of(tiff(GREY8, resolution=(25_400, 25_400), resolutionunit="INCH")) is None
    assert size_of(pillow(GREY8, "PNG", dpi=(25_400, 25_400))) is None
