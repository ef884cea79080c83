"""Images that are refused with an explanation: too large, damaged, not finite, or of another format."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
import tifffile

from spheroseg.errors import BadImage, ImageTooLarge, UnsupportedImage
from spheroseg.segmentation.image import check_headers, decode
from tests.support.pictures import GREY8, RNG, pillow, read, refused, tiff


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
def test_a_decompression_bomb_is_refused_by_its_header(header: Callable[[int, int], bytes]) -> None:
    assert "30000 × 30000" in refused(header(30_000, 30_000), ImageTooLarge)


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_a_size_that_only_pillow_would_warn_about_gives_no_warning(header: Callable[[int, int], bytes]) -> None:
    # Nearly all pixels are missing. Whatever a decoder does about that, it must not warn.
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
def test_a_corrupted_picture_fails_with_the_message_of_the_library(name: str) -> None:
    data = bytearray(WHOLE[name])
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xaa" * 40
    assert "damaged or incomplete: " in refused(bytes(data))


@pytest.mark.parametrize("name", WHOLE)
def test_the_headers_of_a_complete_picture_are_accepted(name: str) -> None:
    assert check_headers(io.BytesIO(WHOLE[name])) == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", [name for name in WHOLE if "jpeg" not in name])
def test_a_truncated_picture_is_recognised_without_decoding_it(name: str, share: float) -> None:
    with pytest.raises(BadImage):
        check_headers(io.BytesIO(WHOLE[name][: int(len(WHOLE[name]) * share)]))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_stack_truncated_anywhere_is_refused(bigtiff: bool) -> None:
    data = tiff(np.zeros((3, 20, 20), np.uint8), photometric="minisblack", bigtiff=bigtiff, metadata=None)
    assert check_headers(io.BytesIO(data)) == 3
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page, layout = opened.pages[-1].aspage(), opened.tiff
        # After the last header come only descriptions.
        last = page.offset + layout.tagnosize + len(page.tags) * layout.tagsize + layout.offsetsize
    for length in range(last):
        with pytest.raises(BadImage):
            check_headers(io.BytesIO(data[:length]))


def test_the_headers_show_what_cannot_be_read() -> None:
    for header in BOMBS.values():
        with pytest.raises(ImageTooLarge):
            check_headers(io.BytesIO(header(30_000, 30_000)))
    for data in (b"", b"text", pillow(np.zeros((15, 40), np.uint8), "PNG"), tiff(np.zeros((15, 40), np.uint8))):
        with pytest.raises(BadImage):
            check_headers(io.BytesIO(data))


def test_an_unsupported_page_is_no_reason_to_refuse_the_others() -> None:
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


def test_an_empty_file_and_a_text_file_are_named_as_such() -> None:
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
def test_a_microscope_format_is_named_and_tiff_recommended(magic: bytes, name: str) -> None:
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


def test_tiffs_that_are_not_flat_grey_or_colour_are_refused() -> None:
    volume = tiff(np.zeros((16, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16), photometric="minisblack")
    assert "not a flat picture" in refused(volume, UnsupportedImage)
    channels = tiff(np.zeros((40, 60, 3), np.uint16), photometric="minisblack", planarconfig="contig")
    assert "3 channels" in refused(channels, UnsupportedImage)
    assert "complex" in refused(tiff(np.zeros((40, 60), np.complex64)), UnsupportedImage)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_random_bytes_never_raise_another_error(kind: str) -> None:
    whole = pillow(SMOOTH, kind)
    rng = np.random.default_rng(11)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(4, len(data), 8):
            data[at] = rng.integers(0, 256)
        with contextlib.suppress(BadImage):
            decode(io.BytesIO(bytes(data)))
