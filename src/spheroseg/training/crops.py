"""Cuts random crops for training from synthetic scenes and hand-labelled pictures, and augments them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from spheroseg.simulate.noise import Map
from spheroseg.training.augmentation import augment
from spheroseg.training.data import Sample
from spheroseg.training.scenes import draw_scenes, relative_depths

SIDE = 256  # side of a crop, px
# Sides, px, of the scenes that crops are cut from. A crop shows only a part of the larger scenes, like a window of a
# finer pass.
SCENE_SIDES = 320, 320, 448, 640
# Much larger than the seeds that people choose, so that no scene for training is also one for evaluation.
FIRST_SEED = 2**32
PERCENTILES = 0.5, 99.5
# Shares of the sets among the crops: in the first stage, which uses no spheroids, and in the second.
BASE_SHARES = {"scenes": 0.85, "nuclei": 0.15}
TUNING_SHARES = {"scenes": 0.52, "spheroids": 0.35, "nuclei": 0.13}
ZOOMS = {"scenes": (0.75, 1.1), "spheroids": (0.75, 3.3), "nuclei": (0.5, 2.2)}
KEPT_EMPTY_SHARE = 0.6  # of the crops without an object; the others are drawn again
# The share of a crop that objects may cover. Without background beside it, the inside of an object cannot be
# distinguished from background. The share is higher for scenes, because they may be crowded.
MAX_COVERED = {"scenes": 0.85, "spheroids": 0.7, "nuclei": 0.7}
# Weights of the distance as bytes. KNOWN_WEIGHT stands for 1. The weight is higher where two objects meet, because
# the border is only a few pixels of a crop, but nothing else distinguishes one object from two.
KNOWN_WEIGHT, BORDER_WEIGHT = 51, 255
BORDER_WIDTH_PX = 5  # of the scene
MIN_SOLIDITY = 0.92  # a component of a union of masks that has more is taken as one object


@dataclass(frozen=True, eq=False)
class Source:
    """A picture to cut crops from. All arrays are uint8 (height, width).

    `pixels`: grey values. `mask`, `distance`: 0..255 for 0..1. `distance_weight`: 0 where the distance is not known,
    else KNOWN_WEIGHT to BORDER_WEIGHT.
    """

    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    distance: npt.NDArray[np.uint8]
    distance_weight: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Crop:
    """Normalised grey values, probability, distance, and weight of the distance, each float32 (SIDE, SIDE).

    The weight is 0 where the distance is not known, 1 where it is, and more where objects meet.
    """

    grey: Map
    probability: Map
    distance: Map
    distance_weight: Map


class Crops:
    """An endless stream of crops. The same seed gives the same crops.

    `shares`: the share of each kind of source among the crops.
    """

    def __init__(
        self, sources: Mapping[str, Sequence[Source]], seed: int, shares: Mapping[str, float] = TUNING_SHARES
    ) -> None:
        self._sources = {name: entries for name, entries in sources.items() if entries}
        weights = np.array([shares[name] for name in self._sources])
        self._shares = weights / weights.sum()
        self._rng = np.random.default_rng([seed, 1])

    def batch(self, count: int) -> list[Crop]:
        """Return the next `count` crops."""
        names = list(self._sources)
        drawn = self._rng.choice(len(names), count, p=self._shares)
        return [self._draw(names[number]) for number in drawn]

    def _draw(self, name: str) -> Crop:
        rng = self._rng
        sources = self._sources[name]
        for _ in range(6):
            crop = _cut(rng, sources[int(rng.integers(len(sources)))], ZOOMS[name])
            share = float(crop.probability.mean())
            if share < MAX_COVERED[name] and (share or rng.random() < KEPT_EMPTY_SHARE):
                break
        return crop


def sources_from_scenes(count: int, seed: int) -> list[Source]:
    """Draw `count` scenes to cut crops from."""
    shares = np.diff(count * np.arange(len(SCENE_SIDES) + 1) // len(SCENE_SIDES)).tolist()
    first = FIRST_SEED + len(SCENE_SIDES) * seed
    return [
        Source(
            scene.pixels.astype(np.uint8),
            ((scene.labels > 0) * 255).astype(np.uint8),
            np.round(255 * relative_depths(scene.labels)).astype(np.uint8),
            np.where(_find_borders(scene.labels), BORDER_WEIGHT, KNOWN_WEIGHT).astype(np.uint8),
        )
        for number, (share, side) in enumerate(zip(shares, SCENE_SIDES, strict=True))
        for scene in draw_scenes(share, first + number, (side, side))
    ]


def sources_from_samples(samples: Iterable[Sample]) -> list[Source]:
    """Return the samples that have a mask, to cut crops from.

    The distance is known for components that are convex enough to be one object.
    """
    sources = []
    for sample in samples:
        pixels, labels = sample.read()
        if labels is None:
            continue
        low, high = float(pixels.min()), float(pixels.max())
        grey = np.clip(255 * (pixels - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
        weight = np.full(labels.shape, KNOWN_WEIGHT, np.uint8)
        for number, window in enumerate(find_objects(labels), start=1):
            if window is not None and _solidity((labels[window] == number).astype(np.uint8)) < MIN_SOLIDITY:
                weight[window][labels[window] == number] = 0
        distance = np.round(255 * relative_depths(labels)).astype(np.uint8)
        sources.append(Source(grey, ((labels > 0) * 255).astype(np.uint8), distance, weight))
    return sources


def normalise(grey: Map, low: float, high: float) -> Map:
    """Normalise like the shipped model: `low` becomes 0, `high` becomes 1; the result is clipped to -1..2."""
    return np.asarray(np.clip((grey - low) / max(high - low, 1e-6), -1, 2), np.float32)


def _cut(rng: np.random.Generator, source: Source, zooms: tuple[float, float]) -> Crop:
    """Cut a crop at a random place, with random rotation, reflection and zoom, and augment its grey values."""
    height, width = source.pixels.shape
    zoom = float(np.exp(rng.uniform(*np.log(zooms))))
    angle = rng.uniform(0, 360) if rng.random() < 0.5 else 90.0 * int(rng.integers(4))
    reach = SIDE / zoom / 2
    x, y = (
        rng.uniform(min(reach, length / 2), max(length - reach, length / 2)) + rng.normal(0, 0.1 * reach)
        for length in (width, height)
    )
    matrix = cv2.getRotationMatrix2D((x, y), angle, zoom)
    matrix[0, 2] += SIDE / 2 - x
    matrix[1, 2] += SIDE / 2 - y
    if rng.random() < 0.5:
        matrix[0] = np.array([0, 0, SIDE - 1]) - matrix[0]
    pixels = source.pixels
    if zoom < 0.8:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.4 / zoom), np.uint8)

    def warp(values: npt.NDArray[np.uint8]) -> Map:
        warped = cv2.warpAffine(
            values, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return np.asarray(warped, np.float32)

    grey = augment(rng, warp(pixels))
    low, high = np.percentile(
        grey, [PERCENTILES[0] + abs(rng.normal(0, 0.3)), PERCENTILES[1] - abs(rng.normal(0, 0.4))]
    )
    if high - low < 1e-3:
        low, high = float(grey.min()), float(grey.max()) + 1e-3
    # Sometimes take a wider range of grey values, as in a window of a larger picture.
    if rng.random() < (0.15 if reach > 0.3 * max(height, width) else 0.5):
        low, high = low - rng.uniform(0, 0.5) * (high - low), high + rng.uniform(0, 0.8) * (high - low)
    weight = warp(source.distance_weight) / np.float32(KNOWN_WEIGHT)
    weight[weight < 1] = 0  # interpolated at the border of a region in which the distance is not known
    scale = np.float32(1 / 255)
    return Crop(normalise(grey, low, high), warp(source.mask) * scale, warp(source.distance) * scale, weight)


def _find_borders(labels: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Return the mask of the pixels at which two objects meet or nearly meet."""
    kernel = np.ones((BORDER_WIDTH_PX, BORDER_WIDTH_PX), np.uint8)
    highest = cv2.dilate(labels, kernel)
    lowest = cv2.erode(np.where(labels > 0, labels, np.iinfo(np.uint16).max), kernel)
    return np.asarray((highest > 0) & (lowest < highest))


def _solidity(mask: npt.NDArray[np.uint8]) -> float:
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    hull = cv2.contourArea(cv2.convexHull(outline))
    return cv2.contourArea(outline) / hull if hull > 0 else 1.0
