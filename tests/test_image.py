import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image as Pillow

from spheroseg.errors import BadImage, ImageTooLarge, UnsupportedImage
from spheroseg.segmentation.image import PixelSize, check_headers, count_pages, decode

RNG = np.random.default_rng(5)
GREY8 = RNG.integers(0, 256, (40, 60), np.uint8)
GREY16 = RNG.integers(0, 65_536, (40, 60), np.uint16)
RGB8 = RNG.integers(0, 256, (40, 60, 3), np.uint8)
RGB16 = RNG.integers(0, 65_536, (40, 60, 3), np.uint16)


def luminance(rgb: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(rgb[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114])


def pillow(pixels: npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def read(data: bytes, page: int = 0) -> npt.NDArray[np.float32]:
    pixels = decode(io.BytesIO(data), page).pixels
    assert pixels.dtype == np.float32
    return pixels


def size_of(data: bytes) -> PixelSize | None:
    return decode(io.BytesIO(data)).pixel_size


def refused(data: bytes, kind: type[BadImage] = BadImage, page: int = 0) -> str:
    with pytest.raises(kind) as caught:
        decode(io.BytesIO(data), page)
    assert type(caught.value) is kind
    return str(caught.value)


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


def test_white_is_zero_is_turned_round() -> None:
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


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(pillow(GREY8, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(pillow(GREY8, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_header(width: int, height: int) -> bytes:
    data = bytearray(tiff(GREY8, compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        for name, value in (("ImageWidth", width), ("ImageLength", height), ("RowsPerStrip", height)):
            tag = opened.pages.first.tags[name]
            struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, value)
    return bytes(data)


BOMBS = {"png": png_header, "jpeg": jpeg_header, "bmp": bmp_header, "tiff": tiff_header}


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_by_its_header(header: Callable[[int, int], bytes]) -> None:
    assert "30000 × 30000" in refused(header(30_000, 30_000), ImageTooLarge)


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_a_size_that_only_pillow_would_warn_of_is_no_warning(header: Callable[[int, int], bytes]) -> None:
    # Nearly all pixels are missing; whatever a decoder makes of that, it must not warn.
    with contextlib.suppress(BadImage):
        decode(io.BytesIO(header(10_000, 10_000)))


def test_the_limit_can_be_set() -> None:
    with pytest.raises(ImageTooLarge, match="at most 2,399"):
        decode(io.BytesIO(pillow(GREY8, "PNG")), max_pixels=2399)
    assert decode(io.BytesIO(pillow(GREY8, "PNG")), max_pixels=2400).pixels.size == 2400


SMOOTH = np.clip(np.add.outer(np.arange(200), np.arange(300)) / 2, 0, 255).astype(np.uint8)
WHOLE = {
    "png": pillow(SMOOTH, "PNG"),
    "noisy png": pillow(RNG.integers(0, 256, (200, 300), np.uint8), "PNG"),
    "16-bit colour png": bytes(imagecodecs.png_encode(np.dstack([SMOOTH.astype(np.uint16) * 200] * 3))),
    "jpeg": pillow(SMOOTH, "JPEG"),
    "progressive jpeg": pillow(SMOOTH, "JPEG", progressive=True),
    "bmp": pillow(SMOOTH, "BMP"),
    "colour bmp": pillow(np.dstack([SMOOTH] * 3), "BMP"),
    "tiff": tiff(SMOOTH),
    "tiff in strips": tiff(SMOOTH, rowsperstrip=16),
    "tiff lzw": tiff(SMOOTH, compression="lzw", rowsperstrip=16),
    "tiff deflate": tiff(SMOOTH, compression="zlib", rowsperstrip=16),
}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_picture_fails(name: str, share: float) -> None:
    data = WHOLE[name]
    read(data)
    assert refused(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", ["png", "noisy png", "tiff deflate"])
def test_a_corrupted_picture_fails_with_the_words_of_the_library(name: str) -> None:
    data = bytearray(WHOLE[name])
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xaa" * 40
    assert "damaged or incomplete: " in refused(bytes(data))


@pytest.mark.parametrize("name", WHOLE)
def test_the_headers_of_a_whole_picture_are_good(name: str) -> None:
    assert check_headers(io.BytesIO(WHOLE[name])) == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", [name for name in WHOLE if "jpeg" not in name])
def test_a_truncated_picture_is_known_without_decoding_it(name: str, share: float) -> None:
    with pytest.raises(BadImage):
        check_headers(io.BytesIO(WHOLE[name][: int(len(WHOLE[name]) * share)]))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_stack_that_breaks_off_anywhere_is_refused(bigtiff: bool) -> None:
    data = tiff(np.zeros((3, 20, 20), np.uint8), photometric="minisblack", bigtiff=bigtiff, metadata=None)
    assert check_headers(io.BytesIO(data)) == 3
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page, layout = opened.pages[-1].aspage(), opened.tiff
        # What comes after the last header are remarks.
        last = page.offset + layout.tagnosize + len(page.tags) * layout.tagsize + layout.offsetsize
    for length in range(last):
        with pytest.raises(BadImage):
            check_headers(io.BytesIO(data[:length]))


def test_the_headers_tell_what_cannot_be_read() -> None:
    for header in BOMBS.values():
        with pytest.raises(ImageTooLarge):
            check_headers(io.BytesIO(header(30_000, 30_000)))
    for data in (b"", b"text", pillow(np.zeros((15, 40), np.uint8), "PNG"), tiff(np.zeros((15, 40), np.uint8))):
        with pytest.raises(BadImage):
            check_headers(io.BytesIO(data))


def test_a_page_that_is_not_read_does_not_spoil_the_others() -> None:
    pages = io.BytesIO()
    with tifffile.TiffWriter(pages) as writer:
        for shape in ((40, 60), (80, 80)):
            writer.write(np.zeros(shape, np.uint8), metadata=None)
    assert check_headers(pages, max_pixels=2400) == 2
    with pytest.raises(ImageTooLarge):
        check_headers(pages, max_pixels=2399)


def test_a_tiff_with_very_many_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spheroseg.segmentation.tiff.MAX_PAGES", 3)
    assert "split it" in refused(tiff(np.zeros((4, 20, 20), np.uint8), photometric="minisblack"))
    assert check_headers(io.BytesIO(tiff(np.zeros((3, 20, 20), np.uint8), photometric="minisblack"))) == 3


def test_a_tiff_with_missing_strips_fails() -> None:
    data = bytearray(WHOLE["tiff in strips"])
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        tag = opened.pages.first.tags["StripByteCounts"]
        data[tag.valueoffset : tag.valueoffset + 4] = b"\0" * 4
    assert "never written" in refused(bytes(data))


def test_an_empty_file_and_a_text_file_say_what_they_are() -> None:
    assert "0 bytes" in refused(b"")
    assert "text file" in refused(b"well,area\nA01,12.5\n")
    assert "text file" in refused("größe;µm\n".encode() * 100)
    assert "not an image of a known format" in refused(bytes(range(1, 256)))


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"ZISRAWFILE\0\0", "CZI"),
        (b"\xda\xce\xbe\x0a\0\0", "ND2"),
        (b"\x70\0\0\0\x10\0\0\0\x2a", "LIF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OIB"),
        (b"GIF89a\0\0", "GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"PK\x03\x04\0", "zip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_a_microscope_format_is_named_and_tiff_advised(magic: bytes, name: str) -> None:
    message = refused(magic + b"\0" * 600, UnsupportedImage)
    assert name in message
    assert "export the image as TIFF" in message


@pytest.mark.parametrize("shape", [(1, 1), (15, 400), (400, 15)])
def test_an_image_too_small_for_a_spheroid_is_refused(shape: tuple[int, int]) -> None:
    for data in (pillow(np.zeros(shape, np.uint8), "PNG"), tiff(np.zeros(shape, np.uint8))):
        assert "too small to hold a spheroid" in refused(data)


def test_values_that_are_not_finite_are_refused() -> None:
    values = np.ones((40, 60), np.float32)
    values[3, 3] = np.nan
    assert "not finite" in refused(tiff(values))


def test_tiffs_that_are_not_flat_grey_or_colour_say_so() -> None:
    volume = tiff(np.zeros((16, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16), photometric="minisblack")
    assert "not a flat picture" in refused(volume, UnsupportedImage)
    channels = tiff(np.zeros((40, 60, 3), np.uint16), photometric="minisblack", planarconfig="contig")
    assert "3 channels" in refused(channels, UnsupportedImage)
    assert "complex" in refused(tiff(np.zeros((40, 60), np.complex64)), UnsupportedImage)


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


def test_dots_per_inch_are_not_a_pixel_size() -> None:
    assert size_of(tiff(GREY8, resolution=(25_400, 25_400), resolutionunit="INCH")) is None
    assert size_of(pillow(GREY8, "PNG", dpi=(25_400, 25_400))) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_noise_in_the_bytes_never_escapes_as_another_error(kind: str) -> None:
    whole = pillow(SMOOTH, kind)
    rng = np.random.default_rng(11)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(4, len(data), 8):
            data[at] = rng.integers(0, 256)
        with contextlib.suppress(BadImage):
            decode(io.BytesIO(bytes(data)))
