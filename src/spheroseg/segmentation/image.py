"""Decodes microscope images to grey values, with the pixel size if the file states it.

The format is detected from the content, never from the name. Sizes are checked in the header, before memory is
allocated for pixels. An incomplete image is refused, because a decoder would fill in the missing pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from spheroseg.errors import BadImage
from spheroseg.segmentation.file_format import TIFF, detect_format
from spheroseg.segmentation.parameters import check_pixel_size
from spheroseg.segmentation.pixel_size import PixelSize as PixelSize
from spheroseg.segmentation.pixel_size import StatedSize, resolve_pixel_size
from spheroseg.segmentation.tiff import Tiff
from spheroseg.segmentation.tiff_page import check_side, check_size

MAX_PIXELS = 150_000_000
MIN_SIDE = 16  # px; a smaller picture has no room for an object and the background around it
PNG_END = b"IEND\xaeB`\x82"
PNG_TRUNCATED = "the PNG is truncated: it ends without its end mark"
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class GreyImage:
    """A decoded page.

    `pixels`: float32 (height, width), grey values as stored (0..255, 0..65535, or the file's floats). `pixel_size`:
    None if it is not known. `flags`: what is wrong with the pixel size, see `resolve_pixel_size`.
    """

    pixels: npt.NDArray[np.float32]
    pixel_size: PixelSize | None
    flags: tuple[str, ...] = ()


def count_pages(file: BinaryIO) -> int:
    """Return the number of pages in the file, from its headers: 1 for everything but a multi-page TIFF.

    Previews and pyramid levels inside a TIFF are not pages. Raise `BadImage` as `decode` does.
    """
    with translate_library_errors():
        return len(Tiff(file).pages) if detect_format(file) == TIFF else 1


def check_headers(file: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> int:
    """Check the headers of the file without allocating memory for pixels. Return the number of pages.

    Raise `BadImage` as `decode` does. Some faults (a truncated JPEG, values that are not finite) are not
    visible in the headers, so only `decode` raises for them. If one page is too large or of an unsupported kind, the
    others are still accepted. If one is damaged, the file is refused.
    """
    with translate_library_errors():
        file_format = detect_format(file)
        if file_format == TIFF:
            tiff = Tiff(file)
            tiff.check_pages(MIN_SIDE, max_pixels)
            return len(tiff.pages)
        picture = _PLUGINS[file_format](file)
        check_size(*picture.size, max_pixels)
        check_side(*picture.size, MIN_SIDE)
        _check_complete(file, picture)
        return 1


def decode(
    file: BinaryIO, page: int = 0, *, pixel_size_um: float | None = None, max_pixels: int = MAX_PIXELS
) -> GreyImage:
    """Decode one page of a PNG, JPEG, BMP or TIFF (also OME-TIFF and ImageJ's) with 1, 8, 16 bit or float values.

    `page` counts from 0 in file order. `pixel_size_um` (µm) takes precedence over what the file states. Colour
    becomes luminance (ITU-R BT.601), opacity is ignored. Pixels are taken as stored: an orientation tag (EXIF, TIFF)
    is not applied, so that coordinates are those of the file.

    Raise `UnsupportedImage` for a format that is not supported, `ImageTooLarge` above `max_pixels`, and `BadImage` if
    the file is damaged, incomplete or too small (a side under 16 px), has values that are not finite, or has no such
    page.
    """
    with translate_library_errors():
        file_format = detect_format(file)
        stated: list[StatedSize] = []
        if file_format == TIFF:
            tiff = Tiff(file)
            pixels, stated = tiff.read(page, max_pixels), tiff.pixel_sizes(page)
        elif page != 0:
            raise BadImage(f"there is no page {page}: a {file_format} holds one picture")
        else:
            pixels = _READERS[file_format](file, max_pixels)
        return GreyImage(_to_grey(pixels), *resolve_pixel_size(pixel_size_um, stated))


def grey_image(pixels: npt.NDArray[Any], pixel_size_um: float | None = None) -> GreyImage:
    """Turn an array of the shape (height, width) or (height, width, channels) into an image, as `decode` does.

    pixel_size_um: µm per pixel, or None if it is not known. Raise `BadImage` for another shape or dtype, for a side
    under 16 px and for values that are not finite, and `BadParameters` for a pixel size that is not positive.
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= 4):
        raise BadImage(
            f"the image has the shape {pixels.shape}; it must be (height, width), or (height, width, channels) with "
            "1 to 4 channels. Pass the planes of a stack one by one."
        )
    if pixels.dtype.kind not in "buif":
        raise BadImage(f"the image has the dtype {pixels.dtype}; it must hold integers or floats")
    check_pixel_size(pixel_size_um)
    return GreyImage(_to_grey(pixels), *resolve_pixel_size(pixel_size_um, []))


@contextmanager
def translate_library_errors() -> Iterator[None]:
    """Raise BadImage, with the text of the error, for any error of a decoder. Decoders raise errors of all kinds."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:  # an error of the disk, not of the content
            raise
        raise BadImage(f"the image is damaged or incomplete: {error}") from error
    except Exception as error:
        raise BadImage(f"the image is damaged or incomplete: {type(error).__name__}: {error}") from error


def _check_complete(file: BinaryIO, picture: ImageFile) -> None:
    """Raise BadImage if a PNG or an uncompressed BMP is truncated. Read the file piece by piece, to save memory."""
    if isinstance(picture, PngImageFile):
        file.seek(0)
        tail = b""
        while piece := file.read(1024**2):
            if PNG_END in tail + piece:
                return
            tail = piece[-len(PNG_END) :]
        raise BadImage(PNG_TRUNCATED)
    for decoder, _, offset, arguments in picture.tile:
        if decoder == "raw" and isinstance(arguments, tuple):
            # Some programs do not pad the last row to a multiple of four bytes.
            needed = offset + arguments[1] * picture.size[1] - 3
            if needed > file.seek(0, 2):
                raise BadImage("the image is truncated: the picture continues after the end of the file")


def _read_png(file: BinaryIO, max_pixels: int) -> npt.NDArray[Any]:
    pixels = _load_pixels(PngImageFile(file), max_pixels)
    file.seek(0)
    data = file.read()
    if PNG_END not in data:
        raise BadImage(PNG_TRUNCATED)
    if data[24:26] not in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):  # bit depth 16, with colour or opacity
        return pixels
    # Pillow keeps only 8 of the 16 bits of such a file, but it has just checked that the file is complete. OpenCV
    # orders colours as blue, green, red, and repeats the grey of a file with opacity.
    deep: npt.NDArray[Any] = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    return deep[..., 0] if data[25:26] == b"\x04" else deep[..., 2::-1]


def _read_jpeg(file: BinaryIO, max_pixels: int) -> npt.NDArray[Any]:
    return _load_pixels(JpegImageFile(file), max_pixels)


def _read_bmp(file: BinaryIO, max_pixels: int) -> npt.NDArray[Any]:
    return _load_pixels(BmpImageFile(file), max_pixels)


_PLUGINS: Mapping[str, Callable[[BinaryIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "BMP": BmpImageFile,
}
_READERS = {"PNG": _read_png, "JPEG": _read_jpeg, "BMP": _read_bmp}


def _load_pixels(picture: ImageFile, max_pixels: int) -> npt.NDArray[Any]:
    # The plugins open files instead of Image.open, whose own size limits warn on stderr, or raise below our limit.
    check_size(*picture.size, max_pixels)
    picture.load()
    if picture.mode in ("1", "L", "LA", "I;16", "I", "F", "RGB", "RGBA"):
        return np.asarray(picture)
    return np.asarray(picture.convert("RGB"))


def _to_grey(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if pixels.ndim == 3:
        channels = pixels.shape[2]
        pixels = pixels[..., 0] if channels <= 2 else pixels[..., :3].astype(np.float32) @ LUMINANCE
    height, width = pixels.shape
    check_side(width, height, MIN_SIDE)
    grey = np.ascontiguousarray(pixels, np.float32)
    if not np.isfinite(grey).all():
        raise BadImage("the image holds values that are not finite numbers (NaN or infinity)")
    return grey
