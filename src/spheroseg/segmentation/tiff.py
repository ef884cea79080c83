"""TIFF files: their pages without previews, the pixels of a page, and what the tags state."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from spheroseg.errors import BadImage, ImageTooLarge, UnsupportedImage
from spheroseg.extras import install_command, is_installed
from spheroseg.segmentation import codecs
from spheroseg.segmentation.ome import Pixels, read_ome
from spheroseg.segmentation.pixel_size import StatedSize, from_imagej, from_ome

if not is_installed("codecs"):
    codecs.register()

GREY = {"MINISBLACK", "MINISWHITE"}
COLOUR = {"RGB", "YCBCR"}
# A page header takes 18 bytes in the file and thousands of bytes in memory.
MAX_PAGES = 10_000
IMAGE_DESCRIPTION = 270


class Tiff:
    """An open TIFF file. `pages` are in file order; previews and pyramid levels are not among them.

    Raise BadImage if the file is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0, 2)
        self._size_bytes = file.tell()
        file.seek(0)
        self._tiff = tifffile.TiffFile(file)
        if len(self._tiff.pages) > MAX_PAGES:
            raise BadImage(f"the TIFF holds more than {MAX_PAGES:,} pages: split it")
        pages = list(self._tiff.pages)
        # tifffile leaves out a page that it cannot read, and only logs it.
        if pages and self._next_page_offset(pages[-1]) not in {0, *(page.offset for page in pages)}:
            raise BadImage("the TIFF is truncated or damaged: it refers to a page that is not there")
        self.pages = _without_previews(pages)

    def read(self, index: int, max_pixels: int) -> npt.NDArray[Any]:
        """Return the pixels of a page, (height, width) or (height, width, 3 or 4), with the dtype that is stored.

        Raise BadImage, UnsupportedImage or ImageTooLarge as `decode` does.
        """
        if not 0 <= index < len(self.pages):
            raise BadImage(f"there is no page {index}: the file has {len(self.pages)} (counted from 0)")
        page = self.pages[index]
        check_size(page.imagewidth, page.imagelength, max_pixels)
        self._check_layout(page)
        self._check_complete(page)
        with _plain_words_for_missing_codecs(page):
            pixels: npt.NDArray[Any] = np.asarray(page.asarray())
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        return _to_grey_or_colour(page, pixels)

    def check_pages(self, min_side: int, max_pixels: int) -> None:
        """Raise as `read` does if a page is damaged, or if no page can be read."""
        first_refusal: BadImage | None = None
        is_readable = False
        for page in self.pages:
            try:
                check_size(page.imagewidth, page.imagelength, max_pixels)
                self._check_layout(page)
                is_readable = True
            except (ImageTooLarge, UnsupportedImage) as error:
                first_refusal = first_refusal or error
            check_side(page.imagewidth, page.imagelength, min_side)
            self._check_complete(page)
        if first_refusal and not is_readable:
            raise first_refusal

    @property
    def descriptions(self) -> list[str]:
        """The descriptions of the first page, which hold for the file. A page may have those of several programs."""
        tags = self.pages[0].tags.getall(IMAGE_DESCRIPTION) or []
        return [tag.value for tag in tags if isinstance(tag.value, str)]

    @property
    def ome(self) -> list[Pixels]:
        """The `Pixels` elements of the file's OME-XML; empty if it has none."""
        return [pixels for text in self.descriptions if is_ome(text) for pixels in read_ome(text, self.page_count)]

    @property
    def page_count(self) -> int:
        """The number of all pages, including previews."""
        return len(self._tiff.pages)

    def shaped_series(self) -> Iterator[tuple[str, Sequence[int], list[int]]]:
        """Yield the series that tifffile wrote: axes and shape above a single picture, and page numbers."""
        # Only these, because for others tifffile parses XML and opens files that are named in it.
        if not self._tiff.is_shaped:
            return
        for series in self._tiff.series:
            numbers = [page.index for page in series.pages if page is not None]
            above = len(series.axes) - len(series.keyframe.axes)
            if series.kind == "shaped" and above > 0:
                yield series.axes[:above], series.shape[:above], numbers

    def pixel_sizes(self, index: int) -> list[StatedSize]:
        """Return the pixel sizes that the file states for a page: that of OME-XML, then that of ImageJ's tags."""
        pixels = self.ome
        number = self.pages[index].index
        own = [element for element in pixels if number in element.planes] or pixels
        page = self.pages[0]
        per_unit = [_per_unit(page, axis) for axis in "XY"]
        stated = [from_ome(element.attributes) for element in own[:1]]
        stated += [from_imagej(text, *per_unit) for text in self.descriptions]
        return [size for size in stated if size is not None]

    def _next_page_offset(self, page: Any) -> int:
        """Return the offset of the page after `page`, as the file states it; 0 if there is none."""
        file, layout = self._tiff.filehandle, self._tiff.tiff
        file.seek(page.offset)
        tags = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))[0]
        file.seek(page.offset + layout.tagnosize + tags * layout.tagsize)
        (offset,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        return int(offset)

    def _check_layout(self, page: Any) -> None:
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
        if len(self._tiff.pages) == 1 and _imagej_plane_count(page.description) > 1:
            raise UnsupportedImage(
                f"this TIFF keeps {_imagej_plane_count(page.description)} planes behind one page header "
                "(ImageJ does so above 4 GB): save it as an image sequence"
            )

    def _check_complete(self, page: Any) -> None:
        # A reader may fill what is missing with zeros. Half a picture must not pass for a whole one.
        strips = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if not strips or any(count <= 0 or offset <= 0 for offset, count in strips):
            raise BadImage("the TIFF is incomplete: parts of the picture were never written")
        if max(offset + count for offset, count in strips) > self._size_bytes:
            raise BadImage("the TIFF is truncated: the picture continues after the end of the file")


@contextmanager
def _plain_words_for_missing_codecs(page: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Packed integers that are compressed have another size than tifffile tells the decoder.
        is_packed = page.bitspersample % 8 and page.compression != 1
        is_missing = isinstance(error, ModuleNotFoundError) or "imagecodecs" in str(error)
        if is_installed("codecs") or not (is_packed or is_missing):
            raise
        kind = str(getattr(page.compression, "name", page.compression))
        raise UnsupportedImage(
            f"this TIFF is compressed ({kind}) in a way that needs the extra 'codecs': {install_command('codecs')}; "
            "or save it without compression"
        ) from error


def is_ome(description: str) -> bool:
    """Return whether a description is OME-XML."""
    return description[-10:].strip().endswith("OME>")


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


def _without_previews(pages: Sequence[Any]) -> list[Any]:
    """Leave out pages that are marked as reduced copies, and unmarked previews less than half as wide and high."""
    if not pages:
        raise BadImage("the TIFF holds no page")
    first = pages[0]
    return [first] + [
        page
        for page in pages[1:]
        if not page.is_reduced
        and (2 * page.imagewidth >= first.imagewidth or 2 * page.imagelength >= first.imagelength)
    ]


def _to_grey_or_colour(page: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if _photometric(page) == "PALETTE":
        return np.asarray(np.asarray(page.colormap).T[pixels])
    if _photometric(page) in GREY and pixels.ndim == 3:
        pixels = pixels[..., 0]  # the other sample is opacity
    if _photometric(page) == "MINISWHITE" and pixels.dtype.kind in "bu":
        return np.asarray(2**page.bitspersample - 1 - pixels.astype(np.float32))
    return pixels


def _photometric(page: Any) -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _imagej_plane_count(description: str) -> int:
    if description.startswith("ImageJ="):
        for line in description.splitlines():
            if line.startswith("images=") and line[7:].strip().isdigit():
                return int(line[7:])
    return 1


def _per_unit(page: Any, axis: str) -> float:
    tag = page.tags.get(f"{axis}Resolution")
    if tag is None or not isinstance(tag.value, tuple) or not tag.value[1]:
        return 0.0
    return float(tag.value[0] / tag.value[1])
