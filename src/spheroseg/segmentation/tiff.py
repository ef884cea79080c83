"""Reads TIFF files: the pages without previews, and the metadata."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import numpy.typing as npt
import tifffile
from tifffile import TiffPage

from spheroseg.errors import BadImage, ImageTooLarge, UnsupportedImage
from spheroseg.segmentation.ome import Pixels, read_ome
from spheroseg.segmentation.pixel_size import StatedSize, from_imagej, from_ome
from spheroseg.segmentation.tiff_page import (
    check_complete,
    check_layout,
    check_side,
    check_size,
    pixels_per_unit,
    read_pixels,
    without_previews,
)

# A limit, because a page header takes only 18 bytes in the file, but thousands of bytes in memory.
MAX_PAGES = 10_000
IMAGE_DESCRIPTION = 270


class Tiff:
    """An open TIFF file. `pages` are in file order, without previews and pyramid levels.

    Raise BadImage if the file is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0, 2)
        self._size_bytes = file.tell()
        file.seek(0)
        self._tiff = tifffile.TiffFile(file)
        if len(self._tiff.pages) > MAX_PAGES:
            raise BadImage(f"the TIFF holds more than {MAX_PAGES:,} pages: split it")
        # All are TiffPages and not TiffFrames, because `useframes` is off.
        pages = cast(list[TiffPage], list(self._tiff.pages))
        # tifffile leaves out a page that it cannot read and only logs the error, so check for a missing next page.
        if pages and self._next_page_offset(pages[-1]) not in {0, *(page.offset for page in pages)}:
            raise BadImage("the TIFF is truncated or damaged: it refers to a page that is not there")
        self.pages = without_previews(pages)

    def read(self, index: int, max_pixels: int) -> npt.NDArray[Any]:
        """Return the pixels of a page, (height, width) or (height, width, 3 or 4), with the dtype that is stored.

        Raise BadImage, UnsupportedImage or ImageTooLarge as `decode` does.
        """
        if not 0 <= index < len(self.pages):
            raise BadImage(f"there is no page {index}: the file has {len(self.pages)} (counted from 0)")
        page = self.pages[index]
        check_size(page.imagewidth, page.imagelength, max_pixels)
        check_layout(page, is_only_page=self.page_count == 1)
        check_complete(page, self._size_bytes)
        return read_pixels(page)

    def check_pages(self, min_side: int, max_pixels: int) -> None:
        """Raise as `read` does if a page is damaged, or if no page can be read."""
        first_refusal: BadImage | None = None
        is_readable = False
        for page in self.pages:
            try:
                check_size(page.imagewidth, page.imagelength, max_pixels)
                check_layout(page, is_only_page=self.page_count == 1)
                is_readable = True
            except (ImageTooLarge, UnsupportedImage) as error:
                first_refusal = first_refusal or error
            check_side(page.imagewidth, page.imagelength, min_side)
            check_complete(page, self._size_bytes)
        if first_refusal and not is_readable:
            raise first_refusal

    @property
    def descriptions(self) -> list[str]:
        """The descriptions of the first page, which apply to the whole file. Several programs may have added one."""
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
        """Yield the series that tifffile wrote: axes and shape of the stack of pictures, and page numbers."""
        # Only these series, because for others tifffile parses XML and opens the files that it names.
        if not self._tiff.is_shaped:
            return
        for series in self._tiff.series:
            numbers = [page.index for page in series.pages if page is not None]
            above = len(series.axes) - len(series.keyframe.axes)
            if series.kind == "shaped" and above > 0:
                yield series.axes[:above], series.shape[:above], numbers

    def pixel_sizes(self, index: int) -> list[StatedSize]:
        """Return the pixel sizes that the file states for a page: first OME-XML, then ImageJ."""
        pixels = self.ome
        number = self.pages[index].index
        own = [element for element in pixels if number in element.planes] or pixels
        page = self.pages[0]
        per_unit = [pixels_per_unit(page, axis) for axis in "XY"]
        stated = [from_ome(element.attributes) for element in own[:1]]
        stated += [from_imagej(text, *per_unit) for text in self.descriptions]
        return [size for size in stated if size is not None]

    def _next_page_offset(self, page: TiffPage) -> int:
        """Return the offset of the page after `page` that the file states; 0 if `page` is the last."""
        file, layout = self._tiff.filehandle, self._tiff.tiff
        file.seek(page.offset)
        tags = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))[0]
        file.seek(page.offset + layout.tagnosize + tags * layout.tagsize)
        (offset,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        return int(offset)


def is_ome(description: str) -> bool:
    """Return whether a description is OME-XML."""
    return description[-10:].strip().endswith("OME>")
