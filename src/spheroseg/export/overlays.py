"""Pictures for the eye: outlines and object numbers drawn on the image, to be looked through in the morning."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.contours import Outline, Polygon
from spheroseg.segmentation.pipeline import SegmentedObject
from spheroseg.segmentation.quality import LOW_CONTRAST, OUT_OF_FOCUS, UNCERTAIN_OUTLINE

SMALLEST, LARGEST = 600, 2048  # px, longer side: a number must be legible, a contact sheet must load
STRETCH = (0.2, 99.8)  # percentiles that become black and white
ENOUGH = 30_000  # px, evenly spread: more do not move the percentiles by a grey value that an eye would see
# Colours as sharp as the grey, for thin outlines. A PNG is five times the size and takes seven times as long.
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
OUTLINE = (0, 215, 255)  # blue, green, red: amber, which no grey looks like
DOUBTFUL = (255, 80, 255)  # magenta, for an outline with a flag that says not to believe it
DOUBTS = frozenset({UNCERTAIN_OUTLINE, LOW_CONTRAST, OUT_OF_FOCUS})
TRUTH = (255, 120, 30)  # blue, which everybody can tell from amber
INK = 255  # white on a dark halo reads on any grey
FONT = cv2.FONT_HERSHEY_SIMPLEX
SUBPIXEL_BITS = 4

Canvas = npt.NDArray[np.uint8]


def encode_overlay(
    pixels: npt.NDArray[np.float32], objects: Sequence[SegmentedObject], *, truth: Sequence[Outline] = ()
) -> bytes:
    """A JPEG of `pixels` (height, width), contrast-stretched, with the outlines and numbers (from 1) of `objects`.

    Amber, and magenta where a flag says that an outline is not to be believed. Outlines that are known to be true,
    where there are any, lie below in blue. Small images are enlarged to 600 px on the longer side, very large ones
    reduced to 2048 px.
    """
    longer = max(pixels.shape)
    scale = max(1.0, SMALLEST / longer) if longer <= LARGEST else LARGEST / longer
    canvas = cv2.cvtColor(_stretched(_resized(pixels, scale)), cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
    thickness = 3 if max(canvas.shape) > 1200 else 2
    drawn = [(outline, TRUTH) for outline in truth] + [
        (segmented.outline, DOUBTFUL if DOUBTS & set(segmented.flags) else OUTLINE) for segmented in objects
    ]
    for outline, colour in drawn:
        for polygon in (outline.outer, *outline.holes):
            _draw(canvas, polygon, scale, thickness, colour)
    for number, segmented in enumerate(objects, start=1):
        _write(canvas, str(number), segmented, scale)
    done, jpeg = cv2.imencode(".jpg", canvas, JPEG)
    assert done, "a canvas of 8-bit colour can always be written as JPEG"
    return jpeg.tobytes()


def _resized(pixels: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    height, width = pixels.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, size, interpolation=how).astype(np.float32, copy=False)


def _stretched(pixels: npt.NDArray[np.float32]) -> Canvas:
    step = max(1, math.isqrt(pixels.size // ENOUGH))
    low, high = np.percentile(pixels[::step, ::step], STRETCH)
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return np.full(pixels.shape, 128, np.uint8)
    steepness = 255 / (high - low)
    # In one pass, rounded and cut at black and white.
    return np.asarray(cv2.addWeighted(pixels, steepness, pixels, 0, -low * steepness, dtype=cv2.CV_8U), np.uint8)


def _draw(canvas: Canvas, polygon: Polygon, scale: float, thickness: int, colour: tuple[int, int, int]) -> None:
    # Outlines count from the corner of the first pixel, OpenCV from its centre.
    points = np.round((polygon * scale - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.polylines(canvas, [points], True, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _write(canvas: Canvas, text: str, segmented: SegmentedObject, scale: float) -> None:
    """In the middle of an object that has the room, else just above and to the right of it."""
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
    ink = np.zeros((height, width), np.uint8)
    box = np.s_[max(0, at[1] - text_height - 8) : at[1] + 12, max(0, at[0] - 8) : at[0] + text_width + 12]
    cv2.putText(ink, text, at, FONT, size, 255, 2, cv2.LINE_AA)
    # A halo grown from the letters themselves: a second, thicker text is wider and would not lie behind the first.
    letters = ink[box].astype(np.float32)[..., None] / 255
    halo = cv2.GaussianBlur(cv2.dilate(ink[box], np.ones((5, 5), np.uint8)), (0, 0), 1.0)
    shade = np.asarray(halo, np.float32)[..., None] / 255
    patch = canvas[box] * (1 - shade) * (1 - letters) + np.float32(INK) * letters
    canvas[box] = np.round(patch).astype(np.uint8)
