"""Assesses how reliable an outline is, from the picture and the probability map along it.

docs/metrics.md explains each figure and flag to the readers of the tables.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.contours import Outline, Polygon, net_area

NO_OBJECT_FOUND = "no_object_found"
SEVERAL_OBJECTS = "several_objects"
TOUCHES_EDGE = "touches_edge"
UNCERTAIN_OUTLINE = "uncertain_outline"
LOW_CONTRAST = "low_contrast"
OUT_OF_FOCUS = "out_of_focus"

# The limits of the three flags. For each, the values of 36 real spheroids: unchanged / blurred by a fifth of their
# radius / with a sixteenth of their contrast in the same noise.
MAX_UNCERTAINTY = 0.5  # maximum .30 / .41 / .89
MIN_CONTRAST = 3.0  # minimum 11 / 4 / 1.5
MAX_EDGE_WIDTH = 0.25  # of the radius; maximum .10 / median .36 / maximum .10

MAX_RADIUS_PX = 64.0  # larger objects are assessed in a reduced copy, to limit the time
SHARP_EDGE_PX = 3.0  # the width of the sharpest edge that lens and pixels allow
SECTORS = 24  # of the outline
LINES_PER_SECTOR = 4  # across the outline
SAMPLES_PER_SIDE = 20  # of a line, on each side of the outline, up to half the radius
# In units of the radius:
BAND_START, BAND_END = 0.05, 0.25  # the bands on both sides of the outline whose grey values are compared
BACKGROUND_START = 0.1  # the background begins at this distance outside the outline
MAX_EDGE_OFFSET = 0.2  # the steepest slope is searched up to this distance from the outline
NEIGHBOURHOOD = 0.25  # plus 2 px; up to this distance outside, the map belongs to the object
MIN_VISIBLE_SHARE = 0.25  # of the outline with background beside it; with less, nothing is measured
# A quarter of the values of a normal distribution lie within this number of standard deviations.
QUARTILE_DEVIATION = 0.3186

Grey = npt.NDArray[np.float32]
Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Quality:
    """The quality of one outline.

    uncertainty: the area where the probability is between .25 and .75, divided by the area where it is above .5.
    contrast: the difference of grey values between both sides of the outline, divided by the noise of the background.
    edge_width: the width over which grey values change across the outline, corrected for the width of a sharp
        edge, in radii of the object.

    contrast and edge_width are None if there is too little background beside the object.
    """

    uncertainty: float
    contrast: float | None
    edge_width: float | None

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of the flags `uncertain_outline`, `low_contrast` and `out_of_focus` that apply."""
        is_set = {
            UNCERTAIN_OUTLINE: self.uncertainty > MAX_UNCERTAINTY,
            LOW_CONTRAST: self.contrast is not None and self.contrast < MIN_CONTRAST,
            OUT_OF_FOCUS: self.edge_width is not None and self.edge_width > MAX_EDGE_WIDTH,
        }
        return tuple(flag for flag, applies in is_set.items() if applies)


def assess_quality(
    pixels: Grey, probability: Grey, labels: npt.NDArray[np.uint16], number: int, outline: Outline
) -> Quality:
    """Assess the object whose label is `number`. The three arrays have the same shape (height, width)."""
    radius = math.sqrt(net_area(outline) / math.pi)
    height, width = pixels.shape
    margin = radius / 2 + 3
    left, top = np.maximum(0, np.floor(outline.outer.min(axis=0) - margin)).astype(int).tolist()
    right, bottom = np.ceil(outline.outer.max(axis=0) + margin).astype(int).tolist()
    window = np.s_[top : min(bottom, height), left : min(right, width)]
    scale = min(1.0, MAX_RADIUS_PX / radius)
    grey, map_, near_labels = pixels[window], probability[window], labels[window]
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey, map_ = (
            cv2.resize(array, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
            for array in (grey, map_)
        )
        near_labels = cv2.resize(near_labels, size, interpolation=cv2.INTER_NEAREST).astype(np.uint16, copy=False)
    zoom = np.array(near_labels.shape[::-1]) / (window[1].stop - left, window[0].stop - top)
    outer = (outline.outer - (left, top)) * zoom
    contrast, edge_width = _measure_edge(grey, near_labels, number, outer, radius * scale)
    return Quality(_measure_uncertainty(map_, near_labels, number, radius * scale), contrast, edge_width)


def _measure_uncertainty(probability: Grey, labels: npt.NDArray[np.uint16], number: int, radius: float) -> float:
    away = cv2.distanceTransform((labels != number).astype(np.uint8), cv2.DIST_L2, 5)
    own = probability[(labels == number) | ((labels == 0) & (away <= NEIGHBOURHOOD * radius + 2))]
    return float(((own > 0.25) & (own <= 0.75)).sum() / max(1, (own > 0.5).sum()))


def _measure_edge(
    grey: Grey, labels: npt.NDArray[np.uint16], number: int, outer: Polygon, radius: float
) -> tuple[float | None, float | None]:
    """Return contrast and edge width, measured on lines across the outline; None if too little of it is visible."""
    offsets = np.arange(-SAMPLES_PER_SIDE, SAMPLES_PER_SIDE + 1) / (2 * SAMPLES_PER_SIDE)
    points, outwards = _sample_outline(outer, SECTORS * LINES_PER_SECTOR)
    positions = points[:, None] + outwards[:, None] * (offsets * radius)[:, None]
    pixel = np.floor(positions).astype(int)
    x, y = pixel[..., 0], pixel[..., 1]
    height, width = grey.shape
    is_visible = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    label = labels[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    # Outside samples must be background and not a neighbour. Inside samples must be in the object and not across a
    # notch of its outline.
    is_visible &= np.where(offsets > BAND_START / 2, label == 0, True)
    is_visible &= np.where(offsets < -BAND_START / 2, label == number, True)
    at = (positions - 0.5).astype(np.float32)
    values = cv2.remap(grey, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lines: Masked = np.ma.masked_array(np.asarray(values, np.float64), ~is_visible)
    inner = lines[:, (offsets <= -BAND_START) & (offsets >= -BAND_END)].mean(axis=1)
    beside = lines[:, (offsets >= BAND_START) & (offsets <= BAND_END)].mean(axis=1)
    steps = np.ma.compressed(beside - inner)
    if len(steps) < MIN_VISIBLE_SHARE * len(points):
        return None, None
    background = lines[:, offsets >= BACKGROUND_START]
    residuals = np.abs(background - background.mean(axis=1)[:, None]).compressed()
    # The lower quartile, because scattered cells in the background are not noise.
    noise = float(np.percentile(residuals, 25)) / QUARTILE_DEVIATION if len(residuals) else 0.0
    contrast = abs(float(np.median(steps)))
    return contrast / max(noise, 1e-6 * contrast, 1e-12), _measure_edge_width(lines, offsets, radius)


def _measure_edge_width(values: Masked, offsets: Polygon, radius: float) -> float | None:
    """Return the range of grey values divided by their steepest slope, as the median of all sectors, in radii."""
    profiles = values.reshape(SECTORS, LINES_PER_SECTOR, -1).mean(axis=1)
    step = float(offsets[1] - offsets[0])
    slopes = np.abs(profiles[:, 2:] - profiles[:, :-2]) / (2 * step)
    steepest = slopes[:, np.abs(offsets[1:-1]) <= MAX_EDGE_OFFSET].max(axis=1)
    widths = (profiles.max(axis=1) - profiles.min(axis=1)) / np.ma.masked_equal(steepest, 0)
    visible = np.ma.compressed(widths)
    if len(visible) < MIN_VISIBLE_SHARE * SECTORS:
        return None
    width = float(np.median(visible)) * radius
    return math.sqrt(max(0.0, width**2 - SHARP_EDGE_PX**2)) / radius


def _sample_outline(polygon: Polygon, count: int) -> tuple[Polygon, Polygon]:
    """Return `count` points at equal distances along a polygon, and the outward unit vectors; both (count, 2).

    The polygon runs clockwise on the screen.
    """
    closed = np.vstack([polygon, polygon[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.arange(count) * (along[-1] / count)
    points = np.column_stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)])
    tangent = np.roll(points, -2, axis=0) - np.roll(points, 2, axis=0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    return points, np.column_stack([tangent[:, 1], -tangent[:, 0]])
