"""Image files of many formats for tests, and helpers that read them."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image as Pillow

from spheroseg.errors import BadImage
from spheroseg.segmentation.image import PixelSize, decode

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
