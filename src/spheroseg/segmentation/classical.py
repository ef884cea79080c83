"""A model without training: objects are regions that are darker or brighter than the ground around them.

The ground is subtracted, and regions above rising thresholds are compared. Those with a sharp and strong edge are
kept, unless they are the wall of a well. The probability at an edge is the contrast divided by that of the object, so
that it is 0.5 half-way between object and ground; inside the edge it is 1.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spheroseg.segmentation import candidates, ground
from spheroseg.segmentation.candidates import Candidate, choose_outlines, find_regions, inner_distance
from spheroseg.segmentation.ground import Map, Mask
from spheroseg.segmentation.maps import Maps

NAME = "classical-contrast"
VERSION = "1"

SIDE = 1024  # px: longer side of the copy in which objects are searched
SMOOTHING = 1.0  # px, standard deviation
LEVELS = 9  # thresholds, in equal ratios
TOP = 0.8  # of the strongest contrast: the highest threshold
STRONGEST = 99.9  # percentile
NOISE_LEVELS = 5.0  # the lowest threshold: at least this multiple of the fine noise,
UNEVEN_LEVELS = 2.5  # this multiple of the unevenness of the ground,
FLOOR = 0.03  # and this share of the range of grey values
LEAST_CONTRAST = 5.5  # of an object, as a multiple of that unevenness
CONTRAST_PERCENTILE = 80.0  # of the contrast in the band along the edge
BAND = 0.25  # of the object's radius: width of that band
# An edge differs from a smooth gradient in four numbers:
LOCALISED = 0.6  # the share of the fall from inside to outside in the middle half of the way,
FALLS_ON = 0.28  # the fall further outside, divided by the fall at the edge,
SHARPER = 2.0  # the slope at the outline, divided by the mean slope across it,
CLEAR = 3.0  # and divided by the slope of the ground
WALL_CONTACT = 0.45  # of the outline: a region with a larger share on the border is the wall of a well
LEAST_RADIUS, LEAST_AREA = 0.22, 0.03  # of the largest object's: smaller objects are debris
SLACK = 2.0, 0.04  # px, and share of the radius: how far the outline may lie from the region's edge
PASSES = 3  # at most, as walls are removed
FILLS = 0.2  # of the picture: a larger object hides the ground
FRAME = 0.08  # of the shorter side: width of the frame that is ground if objects fill most of the picture


def _constants() -> dict[str, object]:
    """Return all constants of the model by name.

    They are hashed with their names: renaming one would give all stored results another model.
    """
    return {
        f"{module.__name__}.{name}": value
        for module in (candidates, ground)
        for name, value in vars(module).items()
        if name.isupper()
    } | {name: value for name, value in globals().items() if name.isupper()}


@dataclass(frozen=True)
class _Ground:
    """Statistics of the ground. `contrast` is positive towards objects; `bright`: whether those are brighter."""

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
        self.sha256 = hashlib.sha256(json.dumps(_constants(), sort_keys=True).encode()).hexdigest()

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
            # What most of the picture shows was taken for the ground. If it is an object, the ground is at the
            # border.
            frame = np.ones(grey.shape, np.uint8)
            width = max(2, round(FRAME * min(grey.shape)))
            frame[width:-width, width:-width] = 0
            contrast, objects = _search(grey, frame)
        return _render(contrast, objects)


def _normalise(pixels: Map) -> Map | None:
    """Return a smoothed copy of at most 1024 px with its range scaled to 0..1; None if the picture is flat."""
    height, width = pixels.shape
    scale = min(1.0, SIDE / max(height, width))
    if scale < 1:
        size = (max(8, round(width * scale)), max(8, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    low, high = np.percentile(pixels, [0.1, STRONGEST])
    if high - low <= 1e-6 * max(1.0, abs(high), abs(low)):
        return None
    grey = np.clip((pixels - np.float32(low)) / np.float32(high - low), -0.5, 1.5)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), SMOOTHING), np.float32)


def _search(grey: Map, support: Mask | None) -> tuple[Map, list[Candidate]]:
    """Return the contrast and the objects in it. Walls of wells are masked, as objects are faint beside them."""
    slope = np.hypot(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1)).astype(np.float32)
    slope /= 32  # the sum of Scharr's weights, so that it is grey values per px
    difference = grey - ground.estimate_ground(grey, support)
    excluded = np.zeros(grey.shape, np.uint8)
    objects: list[Candidate] = []
    for _ in range(PASSES):
        background = _measure_ground(grey, slope, difference, excluded, support)
        lowest = max(NOISE_LEVELS * background.noise, UNEVEN_LEVELS * background.unevenness, FLOOR)
        highest = max(TOP * background.strongest, 1.01 * lowest)
        roots, walls = find_regions(
            background.contrast, slope, np.geomspace(lowest, highest, LEVELS).tolist(), background.bright
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


def _measure_ground(grey: Map, slope: Map, difference: Map, excluded: Mask, support: Mask | None) -> _Ground:
    free = excluded == 0
    if not free.any():
        return _Ground(np.zeros_like(grey), True, 0.0, 0.0, 0.0, 0.0, False)
    values = difference[free]
    known = free if support is None else free & (support > 0)
    sure = difference[known]
    spread = 1.4826 * float(np.median(np.abs(sure))) if sure.size else 0.0
    beyond = np.clip(np.abs(values) - 3 * spread, 0, None) ** 2 * np.sign(values)
    sign = 1.0 if float(beyond.sum()) >= 0 else -1.0
    # Unevenness is measured on the side on which there are no objects, so that they cannot inflate it.
    other = -sign * sure[sign * sure < 0]
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 3 * SMOOTHING))[free]
    return _Ground(
        contrast=np.where(free, np.float32(sign) * difference, np.float32(0)),
        bright=sign > 0,
        unevenness=1.4826 * float(np.median(other)) if other.size else 0.0,
        noise=1.4826 * float(np.median(fine)),
        strongest=float(np.percentile(sign * values, STRONGEST)),
        slope=float(np.median(slope[known])) if known.any() else 0.0,
        at_border=support is not None,
    )


def _is_wall(candidate: Candidate, shape: tuple[int, ...]) -> bool:
    """Return whether a region is mostly bounded by the border of the picture, and does not cover its middle."""
    rows, columns = candidate.window
    middle = (shape[0] // 2 - rows.start, shape[1] // 2 - columns.start)
    in_middle = all(0 <= m < s for m, s in zip(middle, candidate.mask.shape, strict=True))
    return candidate.contact > WALL_CONTACT and not (in_middle and candidate.mask[middle])


def _stands_out(candidate: Candidate, background: _Ground) -> bool:
    """Return whether the contrast is not noise, and the outline lies on an edge and not on a smooth gradient."""
    contrast = _edge_contrast(candidate, background.contrast)
    if contrast < max(LEAST_CONTRAST * background.unevenness, NOISE_LEVELS * background.noise):
        return False
    reach = max(BAND * candidate.radius, 2.5)
    window, depth = _depth(candidate, background.contrast.shape, math.ceil(2 * reach) + 2)

    def mean_at(distance: float) -> float:
        ring = np.abs(depth - distance) < 1
        return float(background.contrast[window][ring].mean()) if ring.any() else 0.0

    deep, inner = mean_at(min(2 * reach, candidate.radius - 1)), mean_at(reach)
    outer, far = mean_at(-reach), mean_at(-2 * reach)
    step = inner - outer
    smooth = step < LOCALISED * (deep - far) and outer - far > FALLS_ON * step
    sharp = candidate.gradient > max(SHARPER * step / (2 * reach), CLEAR * background.slope)
    if background.at_border:
        return sharp and candidate.area > FILLS * background.contrast.size
    return sharp or not smooth


def _edge_contrast(candidate: Candidate, contrast: Map) -> float:
    """Return the contrast of the object in a band inside its edge."""
    depth = inner_distance(candidate.mask, border_counts=True)
    band = (depth > 0) & (depth < max(3.0, BAND * candidate.radius))
    return float(np.percentile(contrast[candidate.window][band], CONTRAST_PERCENTILE))


def _remove_debris(objects: list[Candidate]) -> list[Candidate]:
    radius = max((o.radius for o in objects), default=0.0)
    area = max((o.area for o in objects), default=0)
    return [o for o in objects if o.radius >= LEAST_RADIUS * radius and o.area >= LEAST_AREA * area]


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
        slack = max(SLACK[0], SLACK[1] * candidate.radius)
        window, depth = _depth(candidate, contrast.shape, math.ceil(2 * slack) + 1)
        at_edge = np.clip(contrast[window] / _edge_contrast(candidate, contrast), 0, 1)
        lower_bound = np.clip(0.5 + (depth - slack) / (2 * slack), 0, 1)
        upper_bound = np.clip(0.5 + (depth + slack) / (2 * slack), 0, 1)
        own = np.minimum(np.maximum(at_edge, lower_bound), upper_bound)
        others = (owner[window] > 0) & (owner[window] != number)
        if others.any():
            # A valley half-way to a neighbour, so that the two are not outlined as one.
            distance = inner_distance((~others).astype(np.uint8)) - 0.5
            own = np.where(depth < 0, np.minimum(own, np.clip((distance + depth) / 2, 0, 1)), own)
        # Specks in the slack around the object are not objects of their own.
        _, labels = cv2.connectedComponents((own > 0.5).astype(np.uint8), connectivity=8)
        core = np.unique(labels[depth >= slack])
        own = np.where((labels == 0) | np.isin(labels, core), own, np.minimum(own, 0.49))
        probability[window] = np.maximum(probability[window], own)
    return probability
