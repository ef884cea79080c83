"""Decodes compressed TIFF pages if imagecodecs is not installed.

tifffile itself reads uncompressed, deflate and LZMA pages, and asks imagecodecs for all others. This module
replaces the functions of imagecodecs that images of microscopes need: LZW and PackBits (by the libtiff of Pillow),
JPEG (by the libjpeg of Pillow), the floating-point predictor, and integers packed without gaps. The tests compare the
results with those of imagecodecs.
"""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import _imagecodecs

LZW, PACKBITS = 5, 32773
# TIFF's photometric interpretations of JPEG data, which are also the values of `colorspace`.
GREY, RGB, YCBCR = 1, 2, 6
# Tells libjpeg how the colours of a JPEG are stored. A last byte follows: 0 for RGB, 1 for YCbCr.
ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def register() -> None:
    """Make tifffile call the functions of this module instead of those of imagecodecs."""
    fallback: Any = _imagecodecs
    fallback.lzw_decode = lzw_decode
    fallback.packbits_decode = packbits_decode
    fallback.jpeg_decode = jpeg_decode
    fallback.floatpred_decode = floatpred_decode
    fallback.packints_decode = packints_decode


def lzw_decode(data: bytes, /, *, out: int) -> bytes:
    """Decompress LZW `data`. `out`: the number of bytes of the result."""
    return _libtiff_decode(data, LZW, out)


def packbits_decode(data: bytes, /, *, out: int) -> bytes:
    """Decompress PackBits `data`. `out`: the number of bytes of the result."""
    return _libtiff_decode(data, PACKBITS, out)


def jpeg_decode(
    data: bytes,
    /,
    *,
    bitspersample: int = 8,
    tables: bytes | None = None,
    header: bytes | None = None,
    colorspace: int | None = None,
    outcolorspace: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the pixels of a JPEG strip or tile, of shape (height, width) or (height, width, 3).

    tables: a JPEG with the tables that all strips share. colorspace: how the colours of `data` are stored.
    """
    if bitspersample != 8 or header is not None or not {colorspace, outcolorspace} <= {None, GREY, RGB, YCBCR}:
        raise NotImplementedError("this kind of JPEG requires the 'imagecodecs' package")
    start = data[:2]
    if tables:
        start += tables[2:-2]
    if colorspace in (RGB, YCBCR):
        start += ADOBE_MARKER + bytes([colorspace == YCBCR])
    picture = JpegImageFile(io.BytesIO(start + data[2:]))
    picture.load()
    return np.asarray(picture)


def floatpred_decode(
    data: npt.NDArray[Any], /, axis: int = -1, dist: int = 1, *, out: Any = None
) -> npt.NDArray[Any]:
    """Undo the floating-point predictor (Adobe Photoshop TIFF Technical Note 3) in the rows along `axis`."""
    if dist != 1 or axis != -2:
        raise NotImplementedError("this floating-point predictor requires the 'imagecodecs' package")
    size = data.dtype.itemsize
    *rows, width, samples = data.shape
    # A row has the first bytes of all its numbers, then all second bytes and so on. Each byte is stored as the
    # difference from the byte before it.
    planes = np.ascontiguousarray(data).view(np.uint8).reshape(*rows, size * width, samples)
    planes = np.cumsum(planes, axis=-2, dtype=np.uint8).reshape(*rows, size, width * samples)
    numbers = np.ascontiguousarray(np.moveaxis(planes, -2, -1))
    return numbers.view(data.dtype.newbyteorder(">")).reshape(data.shape).astype(data.dtype)


def packints_decode(
    data: bytes, /, dtype: Any, bitspersample: int, runlen: int = 0, *, out: Any = None
) -> npt.NDArray[Any]:
    """Return the integers of `bitspersample` bits in `data`. Each row of `runlen` integers begins at a new byte."""
    bits: npt.NDArray[np.uint8] = np.unpackbits(np.frombuffer(data, np.uint8))
    if runlen:
        row = -(-runlen * bitspersample // 8) * 8
        bits = bits[: bits.size // row * row].reshape(-1, row)[:, : runlen * bitspersample]
    bits = bits.ravel()[: bits.size // bitspersample * bitspersample].reshape(-1, bitspersample)
    weights = 2 ** np.arange(bitspersample - 1, -1, -1, dtype=np.uint64)
    return np.asarray((bits * weights).sum(axis=1), dtype)


def _libtiff_decode(data: bytes, compression: int, size: int) -> bytes:
    """Unpack `data` as the one strip of a grey picture that is `size` pixels wide and one pixel high."""
    entries = [(256, size), (257, 1), (258, 8), (259, compression), (262, 1), (277, 1), (278, 1), (279, len(data))]
    offset = 8 + len(data)
    file = bytearray(struct.pack("<2sHI", b"II", 42, offset) + data)
    file += struct.pack("<H", len(entries) + 1)
    for tag, value in sorted([*entries, (273, 8)]):
        file += struct.pack("<HHII", tag, 4, 1, value)
    file += bytes(4)
    picture = TiffImageFile(io.BytesIO(bytes(file)))
    picture.load()
    return picture.tobytes()
