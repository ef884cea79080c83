"""Pictures composed of photographed spheroids, fields of many or one in another size: texture real, truth known.

A brightfield picture is light times transmission. What each photographed spheroid lets through, its picture over the
ground beside it, is turned, mirrored, scaled and multiplied into drawn light. Everything follows from the seed
and the spheroids.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.training.data import FIELDS, SIZES, TEST_SEED, Grey, Labels, Sample, Truth, as_made
from spheroseg.training.looks import lit, photographed
from spheroseg.training.shapes import Map

TEST_FIELDS = 45
TEST_SIZES = 48
SIDES = 400, 600, 800, 1100  # px, the longer one
COVERED = 0.05, 0.3  # share of the field, if all objects fell into it
LEAST_DIAMETER = 10.0  # px: what is smaller cannot be told from debris
LEAST_SHOWN = 0.3  # of an object that is cut off by the border
UNEVEN = 0.15  # how probable it is that the light is very uneven
# px of the photograph from the outline: up to here what lies beside a spheroid, its halo and cells for two, comes
# along, and fades from there to here.
BESIDE = 6.0
FADED = 14.0
GROUND = 200  # px of it that a photograph must show
OUTLIERS = 2.5  # standard deviations from which a pixel is no ground
# Of the shorter to the longer side. What is longer is pierced by a fibre, which would be cut off.
ROUND = 0.6
TRIES = 6  # for each object that is wanted
# Diameters of the one spheroid of a picture, as a share of its side.
SHARES = 0.05, 0.12, 0.25, 0.5, 0.75, 1.1
SINGLE_SIDE = 800  # px of its picture


@dataclass(frozen=True)
class Layout:
    """`count`: least and most objects. `touching`: share of objects put beside another."""

    count: tuple[int, int]
    touching: float


LAYOUTS = {"few": Layout((2, 8), 0.1), "many": Layout((15, 59), 0.15), "touching": Layout((6, 39), 0.85)}


@dataclass(frozen=True, eq=False)
class Cutting:
    """A spheroid and what lies beside it: `transmission` (1: the ground) and `mask`, both (height, width)."""

    transmission: Map
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Composed:
    """`pixels`: grey values 0..255, float32 (height, width). `labels`: uint16, 0 the ground, one number an object."""

    pixels: Map
    labels: Labels
    kind: str


def can_be_cut(sample: Sample) -> bool:
    return sample.truth == Truth.SINGLE and sample.kind == "brightfield"


def field_samples(samples: Iterable[Sample], count: int = TEST_FIELDS, seed: int = TEST_SEED) -> Iterator[Sample]:
    """`count` fields of the brightfield spheroids among `samples`, each layout in turn; none without a spheroid."""
    return _samples(samples, FIELDS, lambda cuttings: fields(cuttings, count, seed))


def size_samples(samples: Iterable[Sample], count: int = TEST_SIZES, seed: int = TEST_SEED) -> Iterator[Sample]:
    """`count` pictures, each of one of the brightfield spheroids among `samples`; none without a spheroid.

    The kind of a picture is its size, each of SHARES in turn.
    """
    return _samples(samples, SIZES, lambda cuttings: sizes(cuttings, count, seed))


def _samples(
    samples: Iterable[Sample], set_: str, compose: Callable[[Sequence[Cutting]], Iterable[Composed]]
) -> Iterator[Sample]:
    spheroids = [sample for sample in samples if can_be_cut(sample)]
    made_of = f"of {', '.join(sorted({sample.source for sample in spheroids}))}; composed by spheroseg"
    licence = ", ".join(sorted({sample.licence for sample in spheroids}))
    for number, made in enumerate(compose(cut_out(spheroids))):
        name = f"{set_}/{number:03d} {made.kind}"
        yield Sample(
            set_, name, made.kind, made_of, licence, Truth.INSTANCES, partial(as_made, made.pixels, made.labels)
        )


def cut_out(samples: Iterable[Sample]) -> list[Cutting]:
    """Of each sample that shows enough ground and a spheroid that is round."""
    found = []
    for sample in samples:
        pixels, labels = sample.read()
        if labels is None or not labels.any():
            continue
        cutting = _cut(pixels, labels > 0)
        if cutting is not None:
            found.append(cutting)
    return found


def fields(cuttings: Sequence[Cutting], count: int, seed: int) -> Iterator[Composed]:
    """`count` fields, each layout in turn; none without a cutting. One depends on the seed and its place only."""
    kinds = tuple(LAYOUTS)
    for number in range(count if cuttings else 0):
        yield _field(np.random.default_rng([seed, number]), cuttings, kinds[number % len(kinds)])


def sizes(cuttings: Sequence[Cutting], count: int, seed: int) -> Iterator[Composed]:
    """`count` pictures of one spheroid, each of SHARES in turn; none without a cutting.

    One depends on the seed and its place only.
    """
    for number in range(count if cuttings else 0):
        # Other pictures than the fields of that seed are.
        rng = np.random.default_rng([seed, number, 1])
        yield _single(rng, cuttings[int(rng.integers(len(cuttings)))], SHARES[number % len(SHARES)])


def _cut(pixels: Grey, mask: npt.NDArray[np.bool_]) -> Cutting | None:
    _, (width, height), _ = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    if min(width, height) < ROUND * max(width, height) or (away > BESIDE).sum() < GROUND:
        return None
    transmission = pixels / _ground(pixels, away > BESIDE)
    share = np.clip((FADED - away) / (FADED - BESIDE), 0, 1)
    share = share**2 * (3 - 2 * share)
    return Cutting(np.asarray(1 + (transmission - 1) * share, np.float32), mask)


def _ground(pixels: Grey, beside: npt.NDArray[np.bool_]) -> Map:
    """The light without the spheroid: a polynomial of second degree, whose logarithm is fitted `beside` it."""
    height, width = pixels.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    logarithm = np.log(np.maximum(pixels, 1))
    kept = beside
    for _ in range(3):
        factors, *_ = np.linalg.lstsq(terms[kept], logarithm[kept], rcond=None)
        off = np.abs(logarithm - terms @ factors)
        kept = beside & (off <= OUTLIERS * math.sqrt(float((off[kept] ** 2).mean())))
    return np.asarray(np.exp(terms @ factors), np.float32)


def _field(rng: np.random.Generator, cuttings: Sequence[Cutting], kind: str) -> Composed:
    layout = LAYOUTS[kind]
    width = int(rng.choice(SIDES))
    side = round(width * float(rng.choice([0.75, 1.0]))), width
    wanted = int(rng.integers(layout.count[0], layout.count[1] + 1))
    each = rng.uniform(*COVERED) * side[0] * side[1] / wanted
    typical = float(np.clip(2 * math.sqrt(each / math.pi), 1.5 * LEAST_DIAMETER, 0.5 * min(side)))
    transmission, labels = _placed(rng, cuttings, layout, wanted, typical, side)
    pixels = np.asarray(lit(rng, side, UNEVEN) * transmission, np.float32)
    return Composed(photographed(rng, pixels, True, typical / 2), labels, kind)


def _single(rng: np.random.Generator, cutting: Cutting, share: float) -> Composed:
    """One spheroid, anywhere that it is whole, or in the middle where it cannot be."""
    side = SINGLE_SIDE, SINGLE_SIDE
    diameter = share * SINGLE_SIDE
    turned = _turned(rng, cutting, diameter)
    room = max(0.0, SINGLE_SIDE - 1.5 * diameter) / 2
    place = SINGLE_SIDE / 2 + rng.uniform(-room, room), SINGLE_SIDE / 2 + rng.uniform(-room, room)
    of_field, of_cutting = _windows(side, turned.mask.shape, place)
    transmission, labels = np.ones(side, np.float32), np.zeros(side, np.uint16)
    transmission[of_field] = turned.transmission[of_cutting]
    labels[of_field] = turned.mask[of_cutting]
    pixels = np.asarray(lit(rng, side, UNEVEN) * transmission, np.float32)
    return Composed(photographed(rng, pixels, True, diameter / 2), labels, f"{share:g} of the side")


def _placed(
    rng: np.random.Generator,
    cuttings: Sequence[Cutting],
    layout: Layout,
    wanted: int,
    typical: float,
    side: tuple[int, int],
) -> tuple[Map, Labels]:
    """The transmission of a field of `side` (height, width) with objects of `typical` diameter (px), and labels."""
    transmission, labels = np.ones(side, np.float32), np.zeros(side, np.uint16)
    spread = rng.choice([0.05, 0.2, 0.4])
    there: list[tuple[float, float, float]] = []
    for _ in range(TRIES * wanted):
        if len(there) == wanted:
            break
        diameter = max(LEAST_DIAMETER, typical * math.exp(rng.normal(0, spread)))
        turned = _turned(rng, cuttings[int(rng.integers(len(cuttings)))], diameter)
        if there and rng.random() < layout.touching:
            place = _beside(rng, labels, turned.mask, there[int(rng.integers(len(there)))], diameter / 2)
        else:
            place = rng.uniform(0, side[1]), rng.uniform(0, side[0])
            if _taken(labels, cv2.dilate(turned.mask.astype(np.uint8), np.ones((7, 7))) > 0, place):
                continue
        if place is None:
            continue
        of_field, of_cutting = _windows(side, turned.mask.shape, place)
        shown = turned.mask[of_cutting]
        if shown.sum() < LEAST_SHOWN * turned.mask.sum():
            continue
        there.append((*place, diameter / 2))
        transmission[of_field] *= turned.transmission[of_cutting]
        labels[of_field][shown] = len(there)
    return transmission, labels


def _turned(rng: np.random.Generator, cutting: Cutting, diameter: float) -> Cutting:
    """At random, in a square around the spheroid's middle, with the `diameter` (px) of a circle of its area."""
    scale = diameter / (2 * math.sqrt(cutting.mask.sum() / math.pi))
    size = math.ceil(1.5 * scale * max(cutting.mask.shape))
    middle = np.argwhere(cutting.mask).mean(axis=0)[::-1]
    matrix = cv2.getRotationMatrix2D(middle.tolist(), rng.uniform(0, 360), scale)
    matrix[:, 2] += size / 2 - middle
    seen = cutting.transmission
    if scale < 1:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), 0.4 / scale), np.float32)
    transmission = cv2.warpAffine(seen, matrix, (size, size), flags=cv2.INTER_CUBIC, borderValue=1.0)
    mask = cv2.warpAffine(cutting.mask.astype(np.float32), matrix, (size, size)) > 0.5
    if rng.random() < 0.5:
        transmission, mask = transmission[:, ::-1], mask[:, ::-1]
    return Cutting(np.asarray(np.clip(transmission, 0.02, 3), np.float32), mask)


def _beside(
    rng: np.random.Generator,
    labels: Labels,
    mask: npt.NDArray[np.bool_],
    neighbour: tuple[float, float, float],
    radius: float,
) -> tuple[float, float] | None:
    """Where, in a random direction from the neighbour (x, y, radius; px), the object just touches what is there."""
    x, y, its_radius = neighbour
    angle, reach = rng.uniform(0, 2 * math.pi), its_radius + radius
    for away in np.arange(0.8 * reach, 1.4 * reach).tolist():
        place = x + away * math.cos(angle), y + away * math.sin(angle)
        if not _taken(labels, mask, place):
            return place
    return None


def _taken(labels: Labels, mask: npt.NDArray[np.bool_], place: tuple[float, float]) -> bool:
    of_field, of_cutting = _windows(labels.shape, mask.shape, place)
    return bool((labels[of_field][mask[of_cutting]] > 0).any())


def _windows(
    side: tuple[int, ...], size: tuple[int, ...], place: tuple[float, float]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What a piece of that `size` around `place` (x, y) covers of a field of `side`, and with what part of itself."""
    of_field, of_piece = [], []
    for length, its, middle in zip(side, size, place[::-1], strict=True):
        begin = round(middle - its / 2)
        first, last = min(max(begin, 0), length), min(max(begin + its, 0), length)
        of_field.append(slice(first, last))
        of_piece.append(slice(first - begin, last - begin))
    return (of_field[0], of_field[1]), (of_piece[0], of_piece[1])
