"""Overlays for people: the image with outlines and object numbers drawn on it."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.contours import Outline, Polygon
from spheroseg.segmentation.pipeline import SegmentedObject
from spheroseg.segmentation.quality import LOW_CONTRAST, OUT_OF_FOCUS, UNCERTAIN_OUTLINE

# Limits of the longer side: object numbers must be legible, and contact sheets must load quickly.
MIN_SIDE_PX, MAX_SIDE_PX = 600, 2048
STRETCH_PERCENTILES = (0.2, 99.8)  # these grey values become black and white
MAX_SAMPLED_PX = 30_000  # for the percentiles; more pixels do not change them visibly
# Keep colours at full resolution for thin outlines. A PNG would be five times as large and take seven times as long.
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
# Colours are (blue, green, red).
OUTLINE_COLOUR = (0, 215, 255)  # amber, unlike any grey
DOUBTFUL_COLOUR = (255, 80, 255)  # magenta
TRUTH_COLOUR = (255, 120, 30)  # blue, which everybody can tell from amber
DOUBTFUL_FLAGS = frozenset({UNCERTAIN_OUTLINE, LOW_CONTRAST, OUT_OF_FOCUS})
TEXT_GREY = 255  # white on a dark halo is legible on any grey
FONT = cv2.FONT_HERSHEY_SIMPLEX
SUBPIXEL_BITS = 4

Canvas = npt.NDArray[np.uint8]


def encode_overlay(
    pixels: npt.NDArray[np.float32], objects: Sequence[SegmentedObject], *, truth: Sequence[Outline] = ()
) -> bytes:
    """Return a JPEG of `pixels` (height, width), contrast-stretched, with the outlines and numbers of the objects.

    Objects are numbered from 1. Their outlines are amber, or magenta if a flag says that the outline is doubtful.
    truth: outlines that are known to be true, drawn below the others in blue. Small images are enlarged to 600 px on
    the longer side, and large ones reduced to 2048 px.
    """
    longer = max(pixels.shape)
    scale = max(1.0, MIN_SIDE_PX / longer) if longer <= MAX_SIDE_PX else MAX_SIDE_PX / longer
    canvas = cv2.cvtColor(_stretch_contrast(_resize(pixels, scale)), cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
    thickness = 3 if max(canvas.shape) > 1200 else 2
    outlines = [(outline, TRUTH_COLOUR) for outline in truth] + [
        (segmented.outline, DOUBTFUL_COLOUR if DOUBTFUL_FLAGS & set(segmented.flags) else OUTLINE_COLOUR)
        for segmented in objects
    ]
    for outline, colour in outlines:
        for polygon in (outline.outer, *outline.holes):
            _draw_polygon(canvas, polygon, scale, thickness, colour)
    for number, segmented in enumerate(objects, start=1):
        _write_number(canvas, str(number), segmented, scale)
    done, jpeg = cv2.imencode(".jpg", canvas, JPEG_OPTIONS)
    assert done, "a canvas of 8-bit colour can always be written as JPEG"
    return jpeg.tobytes()


def _resize(pixels: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    height, width = pixels.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, size, interpolation=interpolation).astype(np.float32, copy=False)


def _stretch_contrast(pixels: npt.NDArray[np.float32]) -> Canvas:
    step = max(1, math.isqrt(pixels.size // MAX_SAMPLED_PX))
    low, high = np.percentile(pixels[::step, ::step], STRETCH_PERCENTILES)
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return np.full(pixels.shape, 128, np.uint8)
    steepness = 255 / (high - low)
    # OpenCV scales, rounds and clips in one pass.
    return np.asarray(cv2.addWeighted(pixels, steepness, pixels, 0, -low * steepness, dtype=cv2.CV_8U), np.uint8)


def _draw_polygon(
    canvas: Canvas, polygon: Polygon, scale: float, thickness: int, colour: tuple[int, int, int]
) -> None:
    # The origin of outlines is the corner of the first pixel, that of OpenCV is its centre.
    points = np.round((polygon * scale - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.polylines(canvas, [points], True, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _write_number(canvas: Canvas, text: str, segmented: SegmentedObject, scale: float) -> None:
    """Write the text in the middle of the object, or just above and to the right of it if the object is too small."""
    height, width = canvas.shape[:2]
    size = 0.8 if max(height, width) <= 1200 else 1.1
    (text_width, text_height), _ = cv2.getTextSize(text, FONT, size, 2)
    m = segmented.measurements
    if m.feret_min * scale > 4 * max(text_width, text_height):
        x, y = m.centroid_x * scale - text_width / 2, m.centroid_y * scale + text_height / 2
    else:
        x, y = m.bbox_x1 * scale + 2, m.bbox_y0 * scale - 2
    at = (
        round(min(max(x, 3), max(3, width - text_width - 3))),
        round(min(max(y, text_height + 3), height - 4)),
    )
    text_mask = np.zeros((height, width), np.uint8)
    box = np.s_[max(0, at[1] - text_height - 8) : at[1] + 12, max(0, at[0] - 8) : at[0] + text_width + 12]
    cv2.putText(text_mask, text, at, FONT, size, 255, 2, cv2.LINE_AA)
    # The halo is grown from the letters, because a second, thicker text would be wider and not lie behind the first.
    letters = text_mask[box].astype(np.float32)[..., None] / 255
    halo = cv2.GaussianBlur(cv2.dilate(text_mask[box], np.ones((5, 5), np.uint8)), (0, 0), 1.0)
    shade = np.asarray(halo, np.float32)[..., None] / 255
    patch = canvas[box] * (1 - shade) * (1 - letters) + np.float32(TEXT_GREY) * letters
    canvas[box] = np.round(patch).astype(np.uint8)
