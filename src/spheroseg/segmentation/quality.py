"""How far an outline can be believed: what the picture and the map of probabilities look like along it.

docs/metrics.md explains each figure and flag for the person who reads the table.
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

# The three limits, each with what was seen on the 36 real spheroids: as they are / blurred by a fifth of their
# radius / with a sixteenth of their contrast in the same noise.
MOST_UNCERTAIN = 0.5  # at most .30 / .41 / .89
LEAST_CONTRAST = 3.0  # at least 11 / 4 / 1.5
WIDEST_EDGE = 0.25  # of the radius; at most 0.10 / .36 in the middle / 0.10

RADIUS = 64.0  # px: larger objects are looked at in a smaller copy, where noise is less and time is the same
SHARP = 3.0  # px: as wide is the sharpest edge, by lens and pixels
SECTORS, LINES = 24, 4  # of the outline; lines across it in each
REACH = 20  # samples to either side of the outline, up to half the radius
NEAR, FAR = 0.05, 0.25  # of the radius: the bands on both sides whose grey values are compared
GROUND = 0.1  # of the radius: from there outwards is the ground
AT_EDGE = 0.2  # of the radius: within which the steepest place is sought
LEAST_SEEN = 0.25  # share of the outline with ground beside it, below which nothing is said
NEIGHBOURHOOD = 0.25  # of the radius, and 2 px: what of a map outside an object is still its own
QUARTER_OF_GAUSS = 0.3186  # standard deviations that a quarter of all values lie within

Grey = npt.NDArray[np.float32]
Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Quality:
    """Of one object.

    uncertainty: the area where the probability is between .25 and .75, in parts of that where it is above .5.
    contrast: grey values between both sides of the outline, in parts of the noise of the ground beside it.
    edge_width: of the fall of grey values across the outline, in parts of the radius, beyond that of a sharp edge.
    None where too little ground is beside the object to tell.
    """

    uncertainty: float
    contrast: float | None
    edge_width: float | None

    @property
    def flags(self) -> tuple[str, ...]:
        found = {
            UNCERTAIN_OUTLINE: self.uncertainty > MOST_UNCERTAIN,
            LOW_CONTRAST: self.contrast is not None and self.contrast < LEAST_CONTRAST,
            OUT_OF_FOCUS: self.edge_width is not None and self.edge_width > WIDEST_EDGE,
        }
        return tuple(flag for flag, is_so in found.items() if is_so)


def assess_quality(
    pixels: Grey, probability: Grey, labels: npt.NDArray[np.uint16], number: int, outline: Outline
) -> Quality:
    """Judge the object whose label is `number`. The three pictures have one size (height, width)."""
    radius = math.sqrt(net_area(outline) / math.pi)
    height, width = pixels.shape
    margin = radius / 2 + 3
    left, top = np.maximum(0, np.floor(outline.outer.min(axis=0) - margin)).astype(int).tolist()
    right, bottom = np.ceil(outline.outer.max(axis=0) + margin).astype(int).tolist()
    window = np.s_[top : min(bottom, height), left : min(right, width)]
    scale = min(1.0, RADIUS / radius)
    grey, map_, near = pixels[window], probability[window], labels[window]
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey, map_ = (
            cv2.resize(found, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
            for found in (grey, map_)
        )
        near = cv2.resize(near, size, interpolation=cv2.INTER_NEAREST).astype(np.uint16, copy=False)
    zoom = np.array(near.shape[::-1]) / (window[1].stop - left, window[0].stop - top)
    outer = (outline.outer - (left, top)) * zoom
    contrast, edge_width = _across(grey, near, number, outer, radius * scale)
    return Quality(_uncertainty(map_, near, number, radius * scale), contrast, edge_width)


def _uncertainty(probability: Grey, labels: npt.NDArray[np.uint16], number: int, radius: float) -> float:
    away = cv2.distanceTransform((labels != number).astype(np.uint8), cv2.DIST_L2, 5)
    own = probability[(labels == number) | ((labels == 0) & (away <= NEIGHBOURHOOD * radius + 2))]
    return float(((own > 0.25) & (own <= 0.75)).sum() / max(1, (own > 0.5).sum()))


def _across(
    grey: Grey, labels: npt.NDArray[np.uint16], number: int, outer: Polygon, radius: float
) -> tuple[float | None, float | None]:
    """Contrast and edge width from lines across the outline."""
    offsets = np.arange(-REACH, REACH + 1) / (2 * REACH)
    points, outwards = _around(outer, SECTORS * LINES)
    places = points[:, None] + outwards[:, None] * (offsets * radius)[:, None]
    pixel = np.floor(places).astype(int)
    x, y = pixel[..., 0], pixel[..., 1]
    height, width = grey.shape
    seen = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    found = labels[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    # A neighbour is no ground, and what lies across a notch is no inside.
    seen &= np.where(offsets > NEAR / 2, found == 0, True) & np.where(offsets < -NEAR / 2, found == number, True)
    at = (places - 0.5).astype(np.float32)
    values = cv2.remap(grey, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lines: Masked = np.ma.masked_array(np.asarray(values, np.float64), ~seen)
    inner = lines[:, (offsets <= -NEAR) & (offsets >= -FAR)].mean(axis=1)
    beside = lines[:, (offsets >= NEAR) & (offsets <= FAR)].mean(axis=1)
    steps = np.ma.compressed(beside - inner)
    if len(steps) < LEAST_SEEN * len(points):
        return None, None
    ground = lines[:, offsets >= GROUND]
    rest = np.abs(ground - ground.mean(axis=1)[:, None]).compressed()
    # The quieter half of it: scattered cells are no noise.
    noise = float(np.percentile(rest, 25)) / QUARTER_OF_GAUSS if len(rest) else 0.0
    contrast = abs(float(np.median(steps)))
    return contrast / max(noise, 1e-6 * contrast, 1e-12), _edge_width(lines, offsets, radius)


def _edge_width(values: Masked, offsets: Polygon, radius: float) -> float | None:
    """Range of grey values over their steepest slope, in the middle of all sectors; in parts of the radius."""
    profiles = values.reshape(SECTORS, LINES, -1).mean(axis=1)
    step = float(offsets[1] - offsets[0])
    slopes = np.abs(profiles[:, 2:] - profiles[:, :-2]) / (2 * step)
    steepest = slopes[:, np.abs(offsets[1:-1]) <= AT_EDGE].max(axis=1)
    widths = (profiles.max(axis=1) - profiles.min(axis=1)) / np.ma.masked_equal(steepest, 0)
    seen = np.ma.compressed(widths)
    if len(seen) < LEAST_SEEN * SECTORS:
        return None
    width = float(np.median(seen)) * radius
    return math.sqrt(max(0.0, width**2 - SHARP**2)) / radius


def _around(polygon: Polygon, count: int) -> tuple[Polygon, Polygon]:
    """So many points at equal distances along a polygon that runs clockwise on the screen, and which way is out."""
    closed = np.vstack([polygon, polygon[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.arange(count) * (along[-1] / count)
    points = np.column_stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)])
    tangent = np.roll(points, -2, axis=0) - np.roll(points, 2, axis=0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    return points, np.column_stack([tangent[:, 1], -tangent[:, 0]])
