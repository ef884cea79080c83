"""Composes pictures from photographed spheroids: fields of many, or one at another size. Their truth is exact.

A brightfield picture is light times transmission. The transmission of each photographed spheroid (its picture divided
by the background) is rotated, mirrored, scaled and multiplied by drawn light. The same seed and spheroids give the
same pictures.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.simulate.noise import Map
from spheroseg.training.camera import photograph
from spheroseg.training.data import FIELDS, SIZES, TEST_SEED, Grey, Labels, Sample, Truth, return_drawn
from spheroseg.training.illumination import draw_brightfield_background

TEST_FIELDS = 45
TEST_SIZES = 48
FIELD_SIDES_PX = 400, 600, 800, 1100  # the longer side of a field
COVERAGE = 0.05, 0.3  # share of the field that objects cover if none is cut off
MIN_DIAMETER_PX = 10.0  # smaller objects cannot be distinguished from debris
MIN_VISIBLE_SHARE = 0.3  # of an object that the border cuts off
UNEVEN_PROBABILITY = 0.15  # of very uneven light
# The surroundings of a spheroid, such as its halo and cells, are kept up to the first distance from the outline, and
# fade out up to the second, both in px of the photograph.
KEPT_PX = 6.0
FADED_PX = 14.0
MIN_BACKGROUND_PX2 = 200  # background that a photograph must show
MAX_BACKGROUND_DEVIATION = 2.5  # standard deviations beyond which a pixel is not background
# Ratio of the shorter to the longer side. Longer spheroids have a fibre through them, which would be cut off.
MIN_ASPECT = 0.6
MAX_TRIES = 6  # to find a place, per object
# Diameters of the spheroid in a picture of a single one, as a share of the side of the picture.
DIAMETER_SHARES = 0.05, 0.12, 0.25, 0.5, 0.75, 1.1
SINGLE_SIDE_PX = 800  # side of such a picture


@dataclass(frozen=True)
class FieldLayout:
    """`count`: smallest and largest number of objects. `touching`: share of objects placed beside another."""

    count: tuple[int, int]
    touching: float


LAYOUTS = {
    "few": FieldLayout((2, 8), 0.1),
    "many": FieldLayout((15, 59), 0.15),
    "touching": FieldLayout((6, 39), 0.85),
}


@dataclass(frozen=True, eq=False)
class Cutout:
    """A spheroid with its surroundings.

    `transmission` is 1 for the background. `mask` shows the spheroid. Both have the shape (height, width).
    """

    transmission: Map
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ComposedPicture:
    """`pixels`: grey values 0..255, float32 (height, width). `labels`: uint16 label image; 0 is background."""

    pixels: Map
    labels: Labels
    kind: str


def can_be_cut(sample: Sample) -> bool:
    """Return whether the sample shows one brightfield spheroid."""
    return sample.truth == Truth.SINGLE and sample.kind == "brightfield"


def field_samples(samples: Iterable[Sample], count: int = TEST_FIELDS, seed: int = TEST_SEED) -> Iterator[Sample]:
    """Compose `count` fields of the brightfield spheroids among `samples`, cycling through the layouts.

    If there is no such spheroid, yield nothing.
    """
    return _samples(samples, FIELDS, lambda cutouts: compose_fields(cutouts, count, seed))


def size_samples(samples: Iterable[Sample], count: int = TEST_SIZES, seed: int = TEST_SEED) -> Iterator[Sample]:
    """Compose `count` pictures, each of one brightfield spheroid among `samples`, cycling through DIAMETER_SHARES.

    The `kind` of a picture states the size of its spheroid. If there is no such spheroid, yield nothing.
    """
    return _samples(samples, SIZES, lambda cutouts: compose_sizes(cutouts, count, seed))


def _samples(
    samples: Iterable[Sample], set_: str, compose: Callable[[Sequence[Cutout]], Iterable[ComposedPicture]]
) -> Iterator[Sample]:
    spheroids = [sample for sample in samples if can_be_cut(sample)]
    source = f"of {', '.join(sorted({sample.source for sample in spheroids}))}; composed by spheroseg"
    licence = ", ".join(sorted({sample.licence for sample in spheroids}))
    for number, picture in enumerate(compose(cut_spheroids(spheroids))):
        name = f"{set_}/{number:03d} {picture.kind}"
        yield Sample(
            set_,
            name,
            picture.kind,
            source,
            licence,
            Truth.INSTANCES,
            partial(return_drawn, picture.pixels, picture.labels),
        )


def cut_spheroids(samples: Iterable[Sample]) -> list[Cutout]:
    """Return a cutout of each sample that shows enough background and a round spheroid."""
    cutouts = []
    for sample in samples:
        pixels, labels = sample.read()
        if labels is None or not labels.any():
            continue
        cutout = _cut(pixels, labels > 0)
        if cutout is not None:
            cutouts.append(cutout)
    return cutouts


def compose_fields(cutouts: Sequence[Cutout], count: int, seed: int) -> Iterator[ComposedPicture]:
    """Compose `count` fields, cycling through the layouts. A field depends only on the seed and its number."""
    kinds = tuple(LAYOUTS)
    for number in range(count if cutouts else 0):
        yield _compose_field(np.random.default_rng([seed, number]), cutouts, kinds[number % len(kinds)])


def compose_sizes(cutouts: Sequence[Cutout], count: int, seed: int) -> Iterator[ComposedPicture]:
    """Compose `count` pictures of one spheroid each, cycling through DIAMETER_SHARES.

    A picture depends only on the seed and its number.
    """
    for number in range(count if cutouts else 0):
        # The 1 makes these pictures independent of the fields with the same seed.
        rng = np.random.default_rng([seed, number, 1])
        yield _compose_single(
            rng, cutouts[int(rng.integers(len(cutouts)))], DIAMETER_SHARES[number % len(DIAMETER_SHARES)]
        )


def _cut(pixels: Grey, mask: npt.NDArray[np.bool_]) -> Cutout | None:
    """Return the spheroid with its surroundings; None if it is too elongated or there is too little background."""
    _, (width, height), _ = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    if min(width, height) < MIN_ASPECT * max(width, height) or (distance > KEPT_PX).sum() < MIN_BACKGROUND_PX2:
        return None
    transmission = pixels / _fit_background(pixels, distance > KEPT_PX)
    share = np.clip((FADED_PX - distance) / (FADED_PX - KEPT_PX), 0, 1)
    share = share**2 * (3 - 2 * share)
    return Cutout(np.asarray(1 + (transmission - 1) * share, np.float32), mask)


def _fit_background(pixels: Grey, is_background: npt.NDArray[np.bool_]) -> Map:
    """Return the light without the spheroid.

    Its logarithm is a polynomial of second degree, fitted to the pixels of `is_background` with outliers removed.
    """
    height, width = pixels.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    logarithm = np.log(np.maximum(pixels, 1))
    kept = is_background
    for _ in range(3):
        factors, *_ = np.linalg.lstsq(terms[kept], logarithm[kept], rcond=None)
        deviation = np.abs(logarithm - terms @ factors)
        kept = is_background & (
            deviation <= MAX_BACKGROUND_DEVIATION * math.sqrt(float((deviation[kept] ** 2).mean()))
        )
    return np.asarray(np.exp(terms @ factors), np.float32)


def _compose_field(rng: np.random.Generator, cutouts: Sequence[Cutout], kind: str) -> ComposedPicture:
    layout = LAYOUTS[kind]
    width = int(rng.choice(FIELD_SIDES_PX))
    shape = round(width * float(rng.choice([0.75, 1.0]))), width
    count = int(rng.integers(layout.count[0], layout.count[1] + 1))
    area = rng.uniform(*COVERAGE) * shape[0] * shape[1] / count
    typical = float(np.clip(2 * math.sqrt(area / math.pi), 1.5 * MIN_DIAMETER_PX, 0.5 * min(shape)))
    transmission, labels = _place_objects(rng, cutouts, layout, count, typical, shape)
    pixels = np.asarray(draw_brightfield_background(rng, shape, UNEVEN_PROBABILITY) * transmission, np.float32)
    return ComposedPicture(photograph(rng, pixels, True, typical / 2), labels, kind)


def _compose_single(rng: np.random.Generator, cutout: Cutout, share: float) -> ComposedPicture:
    """Compose a picture of one spheroid: at a random place if it fits in, else in the middle."""
    shape = SINGLE_SIDE_PX, SINGLE_SIDE_PX
    diameter = share * SINGLE_SIDE_PX
    rotated = _rotate(rng, cutout, diameter)
    room = max(0.0, SINGLE_SIDE_PX - 1.5 * diameter) / 2
    centre = SINGLE_SIDE_PX / 2 + rng.uniform(-room, room), SINGLE_SIDE_PX / 2 + rng.uniform(-room, room)
    window, cutout_window = _overlap(shape, rotated.mask.shape, centre)
    transmission, labels = np.ones(shape, np.float32), np.zeros(shape, np.uint16)
    transmission[window] = rotated.transmission[cutout_window]
    labels[window] = rotated.mask[cutout_window]
    pixels = np.asarray(draw_brightfield_background(rng, shape, UNEVEN_PROBABILITY) * transmission, np.float32)
    return ComposedPicture(photograph(rng, pixels, True, diameter / 2), labels, f"{share:g} of the side")


def _place_objects(
    rng: np.random.Generator,
    cutouts: Sequence[Cutout],
    layout: FieldLayout,
    count: int,
    typical: float,
    shape: tuple[int, int],
) -> tuple[Map, Labels]:
    """Return transmission and labels of a field of `shape` (height, width).

    `count`: the maximum number of objects; those that fit nowhere are left out. `typical`: their diameter, px.
    """
    transmission, labels = np.ones(shape, np.float32), np.zeros(shape, np.uint16)
    spread = rng.choice([0.05, 0.2, 0.4])
    placed: list[tuple[float, float, float]] = []
    for _ in range(MAX_TRIES * count):
        if len(placed) == count:
            break
        diameter = max(MIN_DIAMETER_PX, typical * math.exp(rng.normal(0, spread)))
        rotated = _rotate(rng, cutouts[int(rng.integers(len(cutouts)))], diameter)
        if placed and rng.random() < layout.touching:
            centre = _find_touching(rng, labels, rotated.mask, placed[int(rng.integers(len(placed)))], diameter / 2)
        else:
            centre = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
            if _is_taken(labels, cv2.dilate(rotated.mask.astype(np.uint8), np.ones((7, 7))) > 0, centre):
                continue
        if centre is None:
            continue
        window, cutout_window = _overlap(shape, rotated.mask.shape, centre)
        visible = rotated.mask[cutout_window]
        if visible.sum() < MIN_VISIBLE_SHARE * rotated.mask.sum():
            continue
        placed.append((*centre, diameter / 2))
        transmission[window] *= rotated.transmission[cutout_window]
        labels[window][visible] = len(placed)
    return transmission, labels


def _rotate(rng: np.random.Generator, cutout: Cutout, diameter: float) -> Cutout:
    """Return the spheroid rotated and mirrored at random, in a square around its middle.

    `diameter`: diameter, px, of a disk with the area of the result.
    """
    scale = diameter / (2 * math.sqrt(cutout.mask.sum() / math.pi))
    size = math.ceil(1.5 * scale * max(cutout.mask.shape))
    middle = np.argwhere(cutout.mask).mean(axis=0)[::-1]
    matrix = cv2.getRotationMatrix2D(middle.tolist(), rng.uniform(0, 360), scale)
    matrix[:, 2] += size / 2 - middle
    smoothed = cutout.transmission
    if scale < 1:
        smoothed = np.asarray(cv2.GaussianBlur(smoothed, (0, 0), 0.4 / scale), np.float32)
    transmission = cv2.warpAffine(smoothed, matrix, (size, size), flags=cv2.INTER_CUBIC, borderValue=1.0)
    mask = cv2.warpAffine(cutout.mask.astype(np.float32), matrix, (size, size)) > 0.5
    if rng.random() < 0.5:
        transmission, mask = transmission[:, ::-1], mask[:, ::-1]
    return Cutout(np.asarray(np.clip(transmission, 0.02, 3), np.float32), mask)


def _find_touching(
    rng: np.random.Generator,
    labels: Labels,
    mask: npt.NDArray[np.bool_],
    neighbour: tuple[float, float, float],
    radius: float,
) -> tuple[float, float] | None:
    """Return a position at which an object just touches others, in a random direction from a neighbour, or None.

    `neighbour`: x, y and radius, px.
    """
    x, y, neighbour_radius = neighbour
    angle, reach = rng.uniform(0, 2 * math.pi), neighbour_radius + radius
    for distance in np.arange(0.8 * reach, 1.4 * reach).tolist():
        centre = x + distance * math.cos(angle), y + distance * math.sin(angle)
        if not _is_taken(labels, mask, centre):
            return centre
    return None


def _is_taken(labels: Labels, mask: npt.NDArray[np.bool_], centre: tuple[float, float]) -> bool:
    window, mask_window = _overlap(labels.shape, mask.shape, centre)
    return bool((labels[window][mask[mask_window]] > 0).any())


def _overlap(
    shape: tuple[int, ...], piece_shape: tuple[int, ...], centre: tuple[float, float]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window of a field that a piece around `centre` (x, y) covers, and the window of the piece itself."""
    window, piece_window = [], []
    for length, piece_length, middle in zip(shape, piece_shape, centre[::-1], strict=True):
        begin = round(middle - piece_length / 2)
        first, last = min(max(begin, 0), length), min(max(begin + piece_length, 0), length)
        window.append(slice(first, last))
        piece_window.append(slice(first - begin, last - begin))
    return (window[0], window[1]), (piece_window[0], piece_window[1])
