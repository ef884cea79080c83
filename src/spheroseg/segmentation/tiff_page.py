"""Checks whether a page of a TIFF can be read, and reads its pixels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from tifffile import TiffPage

from spheroseg.errors import BadImage, ImageTooLarge, UnsupportedImage
from spheroseg.extras import install_command, is_installed
from spheroseg.segmentation import codecs

if not is_installed("codecs"):
    codecs.register()

GREY = {"MINISBLACK", "MINISWHITE"}
COLOUR = {"RGB", "YCBCR"}


def read_pixels(page: TiffPage) -> npt.NDArray[Any]:
    """Return the pixels of a page, (height, width) or (height, width, 3 or 4), with the dtype that is stored.

    Raise UnsupportedImage if it is compressed by an optional codec that is not installed.
    """
    with _explain_missing_codec(page):
        pixels: npt.NDArray[Any] = np.asarray(page.asarray())
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    return _to_grey_or_colour(page, pixels)


def check_layout(page: TiffPage, *, is_only_page: bool) -> None:
    """Raise UnsupportedImage if the page is not a flat picture of grey values or colours."""
    if page.axes not in ("YX", "YXS", "SYX") or page.imagedepth > 1:
        raise UnsupportedImage(
            f"a page of this TIFF is not a flat picture (axes {page.axes}, shape {page.shape}): "
            "save one plane per page"
        )
    if _photometric(page) not in GREY | COLOUR | {"PALETTE"} or page.samplesperpixel > 4:
        raise UnsupportedImage(
            f"this TIFF stores {page.samplesperpixel} samples per pixel as {_photometric(page)}: "
            "save it as grey or RGB, one channel per page"
        )
    if _photometric(page) in GREY and page.samplesperpixel > 2:
        raise UnsupportedImage(
            f"a page of this TIFF holds {page.samplesperpixel} channels: save one channel per page"
        )
    if page.dtype is None or page.dtype.kind not in "buif":
        raise UnsupportedImage(f"pixels of type {page.dtype} are not grey values: save as 8 or 16 bit")
    if is_only_page and _imagej_plane_count(page.description) > 1:
        raise UnsupportedImage(
            f"this TIFF keeps {_imagej_plane_count(page.description)} planes behind one page header "
            "(ImageJ does so above 4 GB): save it as an image sequence"
        )


def check_complete(page: TiffPage, file_size_bytes: int) -> None:
    """Raise BadImage if part of the page was never written, or lies after the end of the file."""
    # Readers may fill missing parts with zeros, so that half a picture would look complete.
    strips = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not strips or any(count <= 0 or offset <= 0 for offset, count in strips):
        raise BadImage("the TIFF is incomplete: parts of the picture were never written")
    if max(offset + count for offset, count in strips) > file_size_bytes:
        raise BadImage("the TIFF is truncated: the picture continues after the end of the file")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageTooLarge if the image has more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image has {width} × {height} pixels; at most {max_pixels:,} are accepted: "
            "crop it or save it at a lower resolution"
        )


def check_side(width: int, height: int, min_side: int) -> None:
    """Raise BadImage if a side is shorter than `min_side` px."""
    if min(height, width) < min_side:
        raise BadImage(
            f"the image is {width} × {height} pixels: too small to hold a spheroid "
            f"(at least {min_side} px on each side)"
        )


def without_previews(pages: Sequence[TiffPage]) -> list[TiffPage]:
    """Return the pages without reduced copies: those marked as such, and those less than half as wide and high."""
    if not pages:
        raise BadImage("the TIFF holds no page")
    first = pages[0]
    return [first] + [
        page
        for page in pages[1:]
        if not page.is_reduced
        and (2 * page.imagewidth >= first.imagewidth or 2 * page.imagelength >= first.imagelength)
    ]


def pixels_per_unit(page: TiffPage, axis: str) -> float:
    """Return the resolution tag of an axis (X or Y), pixels per unit; 0 if there is none."""
    tag = page.tags.get(f"{axis}Resolution")
    if tag is None or not isinstance(tag.value, tuple) or not tag.value[1]:
        return 0.0
    return float(tag.value[0] / tag.value[1])


@contextmanager
def _explain_missing_codec(page: TiffPage) -> Iterator[None]:
    """Raise UnsupportedImage if decoding fails because an optional codec is not installed."""
    try:
        yield
    except Exception as error:
        # For packed integers that are compressed, tifffile passes a wrong size to our decoder.
        is_packed = page.bitspersample % 8 and page.compression != 1
        is_missing = isinstance(error, ModuleNotFoundError) or "imagecodecs" in str(error)
        if is_installed("codecs") or not (is_packed or is_missing):
            raise
        kind = str(getattr(page.compression, "name", page.compression))
        raise UnsupportedImage(
            f"this TIFF is compressed ({kind}) in a way that needs the extra 'codecs': {install_command('codecs')}; "
            "or save it without compression"
        ) from error


def _to_grey_or_colour(page: TiffPage, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if _photometric(page) == "PALETTE":
        return np.asarray(np.asarray(page.colormap).T[pixels])
    if _photometric(page) in GREY and pixels.ndim == 3:
        pixels = pixels[..., 0]  # the other sample is opacity
    if _photometric(page) == "MINISWHITE" and pixels.dtype.kind in "bu":
        return np.asarray(2**page.bitspersample - 1 - pixels.astype(np.float32))
    return pixels


def _photometric(page: TiffPage) -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _imagej_plane_count(description: str) -> int:
    if description.startswith("ImageJ="):
        for line in description.splitlines():
            if line.startswith("images=") and line[7:].strip().isdigit():
                return int(line[7:])
    return 1
