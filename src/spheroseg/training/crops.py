"""What a network is trained on: synthetic scenes, and pictures with an outline by hand, cut and varied at random."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from spheroseg.training.data import Sample
from spheroseg.training.scenes import distances, scenes
from spheroseg.training.shapes import Map

SIDE = 256  # px of a crop
# px of the scenes that crops are cut from, in turn. Of the larger ones a crop shows a part, as a window of a finer
# pass does.
SCENE_SIDES = 320, 320, 448, 640
# Training is so far from the seeds that people choose that it never sees a scene that models are judged by.
FIRST_SEED = 2**32
PERCENTILES = 0.5, 99.5
# Of the first stage, which sees no spheroid, and of the second.
BASE_SHARES = {"scenes": 0.85, "nuclei": 0.15}
TUNING_SHARES = {"scenes": 0.52, "spheroids": 0.35, "nuclei": 0.13}
ZOOMS = {"scenes": (0.75, 1.1), "spheroids": (0.75, 3.3), "nuclei": (0.5, 2.2)}
EMPTY = 0.6  # share of the crops without an object that are kept
# Share of a crop that objects may cover: with no ground beside it, nothing tells the inside of an object from ground.
# Scenes may be crowded.
FULL = {"scenes": 0.85, "spheroids": 0.7, "nuclei": 0.7}
# Of the distance, in what is stored of it: where it is known, and as many times as much where two objects meet. Their
# border is a few pixels of a crop, and it is all that tells one object from two.
KNOWN, BORDER = 51, 255
BORDER_WIDTH = 5  # px of the scene
CONVEX = 0.92  # solidity from which a component of a union of masks is taken for one object


@dataclass(frozen=True, eq=False)
class Source:
    """A picture to cut from: bytes (height, width) of grey values, mask, and distance (each 0..255).

    `told`: how much the distance counts, 0 where it is not known, else from KNOWN to BORDER.
    """

    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    distance: npt.NDArray[np.uint8]
    told: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Crop:
    """float32 (SIDE, SIDE) each: normalised grey values, probability, distance, and the weight of the distance.

    That is 0 where it is not known, 1 where it is, more where objects meet.
    """

    grey: Map
    probability: Map
    distance: Map
    told: Map


class Crops:
    """An endless stream of crops that depends on the seed alone; `shares_of`: how many come from which sources."""

    def __init__(
        self, sources: Mapping[str, Sequence[Source]], seed: int, shares_of: Mapping[str, float] = TUNING_SHARES
    ) -> None:
        self._sources = {name: found for name, found in sources.items() if found}
        shares = np.array([shares_of[name] for name in self._sources])
        self._shares = shares / shares.sum()
        self._rng = np.random.default_rng([seed, 1])

    def batch(self, count: int) -> list[Crop]:
        names = list(self._sources)
        drawn = self._rng.choice(len(names), count, p=self._shares)
        return [self._crop(names[number]) for number in drawn]

    def _crop(self, name: str) -> Crop:
        rng = self._rng
        sources = self._sources[name]
        for _ in range(6):
            crop = _cut(rng, sources[int(rng.integers(len(sources)))], ZOOMS[name])
            share = float(crop.probability.mean())
            if share < FULL[name] and (share or rng.random() < EMPTY):
                break
        return crop


def from_scenes(count: int, seed: int) -> list[Source]:
    shares = np.diff(count * np.arange(len(SCENE_SIDES) + 1) // len(SCENE_SIDES)).tolist()
    first = FIRST_SEED + len(SCENE_SIDES) * seed
    return [
        Source(
            scene.pixels.astype(np.uint8),
            ((scene.labels > 0) * 255).astype(np.uint8),
            np.round(255 * distances(scene.labels)).astype(np.uint8),
            np.where(_borders(scene.labels), BORDER, KNOWN).astype(np.uint8),
        )
        for place, (share, side) in enumerate(zip(shares, SCENE_SIDES, strict=True))
        for scene in scenes(share, first + place, (side, side))
    ]


def from_samples(samples: Iterable[Sample]) -> list[Source]:
    """Those with a mask. The distance is told for components that are convex enough to be one object."""
    sources = []
    for sample in samples:
        pixels, labels = sample.read()
        if labels is None:
            continue
        low, high = float(pixels.min()), float(pixels.max())
        grey = np.clip(255 * (pixels - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
        told = np.full(labels.shape, KNOWN, np.uint8)
        for number, window in enumerate(find_objects(labels), start=1):
            if window is not None and _solidity((labels[window] == number).astype(np.uint8)) < CONVEX:
                told[window][labels[window] == number] = 0
        distance = np.round(255 * distances(labels)).astype(np.uint8)
        sources.append(Source(grey, ((labels > 0) * 255).astype(np.uint8), distance, told))
    return sources


def normalised(grey: Map, low: float, high: float) -> Map:
    """As the shipped model does it: `low` becomes 0, `high` 1, and what is beyond is cut off at -1 and 2."""
    return np.asarray(np.clip((grey - low) / max(high - low, 1e-6), -1, 2), np.float32)


def _cut(rng: np.random.Generator, source: Source, zooms: tuple[float, float]) -> Crop:
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

    def warped(values: npt.NDArray[np.uint8]) -> Map:
        moved = cv2.warpAffine(
            values, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return np.asarray(moved, np.float32)

    grey = _varied(rng, warped(pixels))
    low, high = np.percentile(
        grey, [PERCENTILES[0] + abs(rng.normal(0, 0.3)), PERCENTILES[1] - abs(rng.normal(0, 0.4))]
    )
    if high - low < 1e-3:
        low, high = float(grey.min()), float(grey.max()) + 1e-3
    # A window of a larger picture, whose range is wider.
    if rng.random() < (0.15 if reach > 0.3 * max(height, width) else 0.5):
        low, high = low - rng.uniform(0, 0.5) * (high - low), high + rng.uniform(0, 0.8) * (high - low)
    told = warped(source.told) / np.float32(KNOWN)
    told[told < 1] = 0  # beside what is not known
    share = np.float32(1 / 255)
    return Crop(normalised(grey, low, high), warped(source.mask) * share, warped(source.distance) * share, told)


def _varied(rng: np.random.Generator, grey: Map) -> Map:
    spread = float(grey.std()) + 1e-3
    if rng.random() < 0.15:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1.6)), np.float32)
    if rng.random() < 0.3:
        y, x = np.mgrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j].astype(np.float32)
        tilt = rng.normal(0, 0.5, 3)
        grey = grey + spread * (tilt[0] * x + tilt[1] * y + tilt[2] * (x * x + y * y)).astype(np.float32)
    if rng.random() < 0.3:
        grey = grey + rng.uniform(0.02, 0.2) * spread * rng.standard_normal(grey.shape, np.float32)
    if rng.random() < 0.3:
        low, high = float(grey.min()), float(grey.max()) + 1e-3
        grey = low + (high - low) * ((grey - low) / (high - low)) ** np.float32(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.1:
        grey = grey + rng.uniform(0.3, 1.0) * (grey - cv2.GaussianBlur(grey, (0, 0), rng.uniform(1, 3)))
    if rng.random() < 0.1:
        grey = _compressed(rng, np.asarray(grey, np.float32))
    if rng.random() < 0.04:
        grey = -grey
    return np.asarray(grey, np.float32)


def _compressed(rng: np.random.Generator, grey: Map) -> Map:
    low, high = float(grey.min()), float(grey.max()) + 1e-3
    levels = np.round(255 * (grey - low) / (high - low)).astype(np.uint8)
    _, code = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
    seen = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), np.float32)
    return low + seen * np.float32((high - low) / 255)


def _borders(labels: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Where two objects meet, or nearly."""
    around = np.ones((BORDER_WIDTH, BORDER_WIDTH), np.uint8)
    highest = cv2.dilate(labels, around)
    lowest = cv2.erode(np.where(labels > 0, labels, np.iinfo(np.uint16).max), around)
    return np.asarray((highest > 0) & (lowest < highest))


def _solidity(mask: npt.NDArray[np.uint8]) -> float:
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    hull = cv2.contourArea(cv2.convexHull(outline))
    return cv2.contourArea(outline) / hull if hull > 0 else 1.0
