"""A model that needs no training: it finds regions that are darker or brighter than the background around them.

It subtracts the background and compares the regions above rising thresholds. It keeps those with a sharp and strong
edge, unless they are the wall of a well. The probability at an edge is the contrast divided by that of the object, so
it is 0.5 half-way between object and background. Inside the edge it is 1.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spheroseg.segmentation.background import HASHED_CONSTANTS as BACKGROUND_CONSTANTS
from spheroseg.segmentation.background import Map, Mask, estimate_background
from spheroseg.segmentation.candidates import HASHED_CONSTANTS as CANDIDATE_CONSTANTS
from spheroseg.segmentation.candidates import Candidate, choose_outlines, find_regions, inner_distance
from spheroseg.segmentation.maps import Maps

NAME = "classical-contrast"
VERSION = "1"

MAX_SIDE_PX = 1024  # longer side of the copy in which objects are searched
SMOOTHING_PX = 1.0  # standard deviation
THRESHOLD_COUNT = 9  # in equal ratios
MAX_THRESHOLD_SHARE = 0.8  # the highest threshold, as a share of the strongest contrast
MAX_PERCENTILE = 99.9  # this percentile is taken as the maximum, so that a few extreme pixels do not count
# The lowest threshold is the largest of three values: this multiple of the fine noise,
MIN_CONTRAST_TO_NOISE = 5.0
MIN_THRESHOLD_TO_UNEVENNESS = 2.5  # this multiple of the unevenness of the background,
MIN_THRESHOLD = 0.03  # and this share of the range of grey values.
MIN_CONTRAST_TO_UNEVENNESS = 5.5  # contrast of an object, as a multiple of the unevenness of the background
CONTRAST_PERCENTILE = 80.0  # percentile in the band along the edge that is taken as the contrast of an object
BAND_WIDTH_SHARE = 0.25  # width of that band, as a share of the object's radius
# Four limits distinguish an edge from a smooth gradient:
MIN_STEP_SHARE = 0.6  # the step of the contrast at the edge, as a share of the whole fall from inside to outside
MAX_OUTER_FALL_RATIO = 0.28  # the fall further outside, divided by the fall at the edge
MIN_SLOPE_TO_MEAN = 2.0  # the slope at the outline, divided by the mean slope across it
MIN_SLOPE_TO_BACKGROUND = 3.0  # the slope at the outline, divided by the slope of the background
MAX_BORDER_SHARE = 0.45  # share of the outline on the border of the picture; above it, a region is the wall of a well
MIN_RADIUS_SHARE = 0.22  # of the radius of the largest object; smaller objects are debris
MIN_AREA_SHARE = 0.03  # of the area of the largest object; smaller objects are debris
# The outline may lie this far from the edge of the region: the larger of a length and a share of the radius.
EDGE_TOLERANCE_PX, EDGE_TOLERANCE_SHARE = 2.0, 0.04
MAX_PASSES = 3  # the background is measured again after walls of wells were removed
MIN_FILLING_SHARE = 0.2  # of the picture; a larger object hides the background
# Width of the frame that is taken as background if objects fill most of the picture, as a share of the shorter side.
FRAME_WIDTH_SHARE = 0.08

# All constants that change a result, as they enter the hash of the model. Stored results name that hash, so never
# rename a key: these are the names that the constants had when the first results were stored.
_HASHED_CONSTANTS: dict[str, object] = {
    "NAME": NAME,
    "VERSION": VERSION,
    "SIDE": MAX_SIDE_PX,
    "SMOOTHING": SMOOTHING_PX,
    "LEVELS": THRESHOLD_COUNT,
    "TOP": MAX_THRESHOLD_SHARE,
    "STRONGEST": MAX_PERCENTILE,
    "NOISE_LEVELS": MIN_CONTRAST_TO_NOISE,
    "UNEVEN_LEVELS": MIN_THRESHOLD_TO_UNEVENNESS,
    "FLOOR": MIN_THRESHOLD,
    "LEAST_CONTRAST": MIN_CONTRAST_TO_UNEVENNESS,
    "CONTRAST_PERCENTILE": CONTRAST_PERCENTILE,
    "BAND": BAND_WIDTH_SHARE,
    "LOCALISED": MIN_STEP_SHARE,
    "FALLS_ON": MAX_OUTER_FALL_RATIO,
    "SHARPER": MIN_SLOPE_TO_MEAN,
    "CLEAR": MIN_SLOPE_TO_BACKGROUND,
    "WALL_CONTACT": MAX_BORDER_SHARE,
    "LEAST_RADIUS": MIN_RADIUS_SHARE,
    "LEAST_AREA": MIN_AREA_SHARE,
    "SLACK": (EDGE_TOLERANCE_PX, EDGE_TOLERANCE_SHARE),
    "PASSES": MAX_PASSES,
    "FILLS": MIN_FILLING_SHARE,
    "FRAME": FRAME_WIDTH_SHARE,
    **{f"spheroseg.segmentation.candidates.{key}": value for key, value in CANDIDATE_CONSTANTS.items()},
    **{f"spheroseg.segmentation.ground.{key}": value for key, value in BACKGROUND_CONSTANTS.items()},
}


@dataclass(frozen=True)
class _Background:
    """Statistics of the background.

    `contrast`: difference from the background, positive in objects. `bright`: whether objects are brighter than it.
    `unevenness`, `noise`: standard deviations. `strongest`: the maximum of the contrast. `slope`: the median slope.
    `at_border`: whether only the border of the picture was taken as background.
    """

    contrast: Map
    bright: bool
    unevenness: float
    noise: float
    strongest: float
    slope: float
    at_border: bool


class ClassicalModel:
    """The built-in model. It is deterministic; `sha256` covers its name, version and constants."""

    name = NAME
    version = VERSION

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256(json.dumps(_HASHED_CONSTANTS, sort_keys=True).encode()).hexdigest()

    def maps(self, pictures: Sequence[Map]) -> list[Maps]:
        """Compute the probabilities of pictures (float32, height, width), without distances.

        The maps have at most 1024 px on the longer side. They are 0 everywhere if there is no object.
        """
        return [Maps(self._probability(pixels)) for pixels in pictures]

    def _probability(self, pixels: Map) -> Map:
        grey = _normalise(pixels)
        if grey is None:
            return np.zeros((1, 1), np.float32)
        contrast, objects = _search(grey, None)
        if not objects:
            # The search takes what most of the picture shows as background. If that is an object, the background is
            # at the border.
            frame = np.ones(grey.shape, np.uint8)
            width = max(2, round(FRAME_WIDTH_SHARE * min(grey.shape)))
            frame[width:-width, width:-width] = 0
            contrast, objects = _search(grey, frame)
        return _render(contrast, objects)


def _normalise(pixels: Map) -> Map | None:
    """Return a smoothed copy of at most 1024 px with its range scaled to 0..1; None if the picture is flat."""
    height, width = pixels.shape
    scale = min(1.0, MAX_SIDE_PX / max(height, width))
    if scale < 1:
        size = (max(8, round(width * scale)), max(8, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    low, high = np.percentile(pixels, [0.1, MAX_PERCENTILE])
    if high - low <= 1e-6 * max(1.0, abs(high), abs(low)):
        return None
    grey = np.clip((pixels - np.float32(low)) / np.float32(high - low), -0.5, 1.5)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), SMOOTHING_PX), np.float32)


def _search(grey: Map, support: Mask | None) -> tuple[Map, list[Candidate]]:
    """Return the contrast and the objects in it.

    Walls of wells are masked, because objects are faint beside them. `support`: the only pixels (not 0) that may be
    background.
    """
    slope = np.hypot(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1)).astype(np.float32)
    slope /= 32  # the sum of Scharr's weights, so that it is grey values per px
    difference = grey - estimate_background(grey, support)
    excluded = np.zeros(grey.shape, np.uint8)
    objects: list[Candidate] = []
    for _ in range(MAX_PASSES):
        background = _measure_background(grey, slope, difference, excluded, support)
        lowest = max(
            MIN_CONTRAST_TO_NOISE * background.noise,
            MIN_THRESHOLD_TO_UNEVENNESS * background.unevenness,
            MIN_THRESHOLD,
        )
        highest = max(MAX_THRESHOLD_SHARE * background.strongest, 1.01 * lowest)
        roots, walls = find_regions(
            background.contrast, slope, np.geomspace(lowest, highest, THRESHOLD_COUNT).tolist(), background.bright
        )
        objects = []
        for candidate in (best for root in roots for best in choose_outlines(root)):
            if _is_wall(candidate, grey.shape):
                walls[candidate.window] |= candidate.mask
            elif _stands_out(candidate, background):
                objects.append(candidate)
        excluded |= cv2.dilate(walls, np.ones((7, 7), np.uint8)).astype(np.uint8)
        if walls.mean() < 0.005:
            break
    return background.contrast, _remove_debris(objects)


def _measure_background(grey: Map, slope: Map, difference: Map, excluded: Mask, support: Mask | None) -> _Background:
    free = excluded == 0
    if not free.any():
        return _Background(np.zeros_like(grey), True, 0.0, 0.0, 0.0, 0.0, False)
    values = difference[free]
    known = free if support is None else free & (support > 0)
    sure = difference[known]
    spread = 1.4826 * float(np.median(np.abs(sure))) if sure.size else 0.0
    beyond = np.clip(np.abs(values) - 3 * spread, 0, None) ** 2 * np.sign(values)
    sign = 1.0 if float(beyond.sum()) >= 0 else -1.0
    # Unevenness is measured on the side on which there are no objects, so that they cannot inflate it.
    other = -sign * sure[sign * sure < 0]
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 3 * SMOOTHING_PX))[free]
    return _Background(
        contrast=np.where(free, np.float32(sign) * difference, np.float32(0)),
        bright=sign > 0,
        unevenness=1.4826 * float(np.median(other)) if other.size else 0.0,
        noise=1.4826 * float(np.median(fine)),
        strongest=float(np.percentile(sign * values, MAX_PERCENTILE)),
        slope=float(np.median(slope[known])) if known.any() else 0.0,
        at_border=support is not None,
    )


def _is_wall(candidate: Candidate, shape: tuple[int, ...]) -> bool:
    """Return whether a region is mostly bounded by the border of the picture, and does not cover its middle."""
    rows, columns = candidate.window
    middle = (shape[0] // 2 - rows.start, shape[1] // 2 - columns.start)
    in_middle = all(0 <= m < s for m, s in zip(middle, candidate.mask.shape, strict=True))
    return candidate.contact > MAX_BORDER_SHARE and not (in_middle and candidate.mask[middle])


def _stands_out(candidate: Candidate, background: _Background) -> bool:
    """Return whether the contrast is not noise, and the outline lies on an edge and not on a smooth gradient."""
    contrast = _edge_contrast(candidate, background.contrast)
    if contrast < max(MIN_CONTRAST_TO_UNEVENNESS * background.unevenness, MIN_CONTRAST_TO_NOISE * background.noise):
        return False
    reach = max(BAND_WIDTH_SHARE * candidate.radius, 2.5)
    window, depth = _depth(candidate, background.contrast.shape, math.ceil(2 * reach) + 2)

    def mean_at(distance: float) -> float:
        ring = np.abs(depth - distance) < 1
        return float(background.contrast[window][ring].mean()) if ring.any() else 0.0

    deep, inner = mean_at(min(2 * reach, candidate.radius - 1)), mean_at(reach)
    outer, far = mean_at(-reach), mean_at(-2 * reach)
    step = inner - outer
    smooth = step < MIN_STEP_SHARE * (deep - far) and outer - far > MAX_OUTER_FALL_RATIO * step
    sharp = candidate.gradient > max(
        MIN_SLOPE_TO_MEAN * step / (2 * reach), MIN_SLOPE_TO_BACKGROUND * background.slope
    )
    if background.at_border:
        return sharp and candidate.area > MIN_FILLING_SHARE * background.contrast.size
    return sharp or not smooth


def _edge_contrast(candidate: Candidate, contrast: Map) -> float:
    """Return the contrast of the object in a band inside its edge."""
    depth = inner_distance(candidate.mask, border_counts=True)
    band = (depth > 0) & (depth < max(3.0, BAND_WIDTH_SHARE * candidate.radius))
    return float(np.percentile(contrast[candidate.window][band], CONTRAST_PERCENTILE))


def _remove_debris(objects: list[Candidate]) -> list[Candidate]:
    radius = max((o.radius for o in objects), default=0.0)
    area = max((o.area for o in objects), default=0)
    return [o for o in objects if o.radius >= MIN_RADIUS_SHARE * radius and o.area >= MIN_AREA_SHARE * area]


def _depth(candidate: Candidate, shape: tuple[int, ...], margin: int) -> tuple[tuple[slice, slice], Map]:
    """Return the signed distance to the region's edge (px, positive inside), in a window with a margin around it."""
    rows, columns = candidate.window
    top, left = max(0, rows.start - margin), max(0, columns.start - margin)
    window = np.s_[top : min(shape[0], rows.stop + margin), left : min(shape[1], columns.stop + margin)]
    mask = np.zeros((window[0].stop - top, window[1].stop - left), np.uint8)
    mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = candidate.mask
    return window, np.where(mask > 0, inner_distance(mask) - 0.5, 0.5 - inner_distance(1 - mask)).astype(np.float32)


def _render(contrast: Map, objects: list[Candidate]) -> Map:
    """Return the probability map of the objects."""
    probability = np.zeros(contrast.shape, np.float32)
    owner = np.zeros(contrast.shape, np.int32)
    for number, candidate in enumerate(objects, start=1):
        owner[candidate.window][candidate.mask > 0] = number
    for number, candidate in enumerate(objects, start=1):
        tolerance = max(EDGE_TOLERANCE_PX, EDGE_TOLERANCE_SHARE * candidate.radius)
        window, depth = _depth(candidate, contrast.shape, math.ceil(2 * tolerance) + 1)
        at_edge = np.clip(contrast[window] / _edge_contrast(candidate, contrast), 0, 1)
        lower_bound = np.clip(0.5 + (depth - tolerance) / (2 * tolerance), 0, 1)
        upper_bound = np.clip(0.5 + (depth + tolerance) / (2 * tolerance), 0, 1)
        own = np.minimum(np.maximum(at_edge, lower_bound), upper_bound)
        others = (owner[window] > 0) & (owner[window] != number)
        if others.any():
            # Lower the probability half-way to a neighbour, so that the two are not outlined as one.
            distance = inner_distance((~others).astype(np.uint8)) - 0.5
            own = np.where(depth < 0, np.minimum(own, np.clip((distance + depth) / 2, 0, 1)), own)
        # Specks within the tolerance around the object do not become objects.
        _, labels = cv2.connectedComponents((own > 0.5).astype(np.uint8), connectivity=8)
        core = np.unique(labels[depth >= tolerance])
        own = np.where((labels == 0) | np.isin(labels, core), own, np.minimum(own, 0.49))
        probability[window] = np.maximum(probability[window], own)
    return probability
