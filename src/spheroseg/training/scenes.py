"""Synthetic scenes with exact masks, for what the labelled pictures lack.

Several and touching objects, debris, halo and dark rim, uneven light, walls of wells, defocus, fluorescence with
saturation and scattered invading cells, small and large objects, both polarities. Everything follows from the seed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from spheroseg.training import looks
from spheroseg.training.shapes import Map, Shape, blob, noise

LEAST_DIAMETER = 8.0  # px: what is smaller cannot be told from debris
INVADED = 0.5  # share of the field that cells cover from which the field belongs to the spheroid,
WIDE = 2.0  # seen through a Gaussian of so many cell radii


@dataclass(frozen=True, eq=False)
class Scene:
    """`pixels`: grey values 0..255, float32 (height, width). `labels`: uint16, 0 the ground, one number an object."""

    pixels: Map
    labels: npt.NDArray[np.uint16]
    kind: str


@dataclass(frozen=True)
class Kind:
    """`least`, `largest`: diameter in parts of the shorter side. `touching`: share of objects put beside another.

    `uneven`: how probable very uneven light is.
    """

    least: float
    largest: float
    count: tuple[int, int]
    touching: float = 0.0
    bright_field: bool = True
    uneven: float = 0.2


KINDS = {
    "single": Kind(0.2, 0.8, (1, 1)),
    "few": Kind(0.08, 0.35, (2, 12), 0.1),
    "many": Kind(0.035, 0.12, (15, 150), 0.1),
    "touching": Kind(0.1, 0.4, (2, 9), 0.85),
    "cysts": Kind(0.04, 0.25, (3, 60), 0.1),
    "fluorescent": Kind(0.15, 0.75, (1, 1), 0.0, False),
    "fluorescent_many": Kind(0.04, 0.25, (4, 80), 0.4, False),
    "invasion": Kind(0.07, 0.4, (1, 1), 0.0, False),
    "empty": Kind(0.1, 0.5, (0, 0)),
    "crowded": Kind(0.08, 0.3, (25, 90), 0.9),
    "fluorescent_crowded": Kind(0.08, 0.3, (25, 90), 0.9, False),
    "invasion_brightfield": Kind(0.1, 0.4, (1, 1)),
    "uneven": Kind(0.1, 0.5, (0, 0), uneven=1.0),
    "debris": Kind(0.1, 0.5, (0, 0), uneven=0.4),
}


def scenes(count: int, seed: int, side: tuple[int, int] | None = None) -> Iterator[Scene]:
    """`count` scenes, each kind in turn; `side` (height, width) in px, by default of many sizes.

    A scene depends on the seed and its place only.
    """
    kinds = tuple(KINDS)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield scene(rng, kinds[number % len(kinds)], side or _any_side(rng))


def scene(rng: np.random.Generator, kind: str, side: tuple[int, int]) -> Scene:
    """One scene of a kind of `KINDS`, of `side` (height, width) px."""
    layout = KINDS[kind]
    shapes, labels = _placed(rng, layout, side)
    bright_field = layout.bright_field and not (kind == "empty" and rng.random() < 0.4)
    ground = looks.lit(rng, side, layout.uneven) if bright_field else looks.dark(rng, side)
    if kind == "cysts":
        pixels = looks.cysts(rng, ground, shapes)
    elif bright_field:
        pixels = looks.brightfield(rng, ground, shapes)
    else:
        pixels = looks.fluorescent(rng, ground, shapes)
    typical = float(np.median([shape.radius for shape in shapes])) if shapes else rng.uniform(0.03, 0.2) * min(side)
    if kind.startswith("invasion"):
        pixels, labels = _invaded(rng, pixels, labels, shapes, bright_field)
    # Without an object nothing says what is small.
    debris = typical if shapes else 0.3 * typical
    pixels = looks.littered(rng, pixels, labels > 0, debris, bright_field, kind == "debris")
    if rng.random() < 0.25:
        pixels, hidden = looks.walled(rng, pixels, bright_field)
        labels[hidden] = 0
    return Scene(looks.photographed(rng, pixels, bright_field, typical), labels, kind)


def distances(labels: npt.NDArray[np.uint16]) -> Map:
    """Of each object, the distance to its outline in parts of its inscribed radius: 0 outside to 1, float32."""
    result = np.zeros(labels.shape, np.float32)
    for number, place in enumerate(find_objects(labels), start=1):
        if place is None:
            continue
        rows, columns = place
        window = np.s_[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1]
        mask = (labels[window] == number).astype(np.uint8)
        # Beyond the border of the picture an object goes on.
        padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        result[window] = np.where(mask > 0, depth / max(float(depth.max()), 1e-6), result[window])
    return result


def _any_side(rng: np.random.Generator) -> tuple[int, int]:
    longer = float(rng.choice([256, 384, 520, 700, 1000]))
    return round(longer * float(rng.choice([1.0, 0.75, 0.9]))), round(longer)


def _placed(
    rng: np.random.Generator, layout: Kind, side: tuple[int, int]
) -> tuple[list[Shape], npt.NDArray[np.uint16]]:
    """Objects, and their labels; where two press on each other the border runs where both are equally deep."""
    least, most = layout.count
    wanted = round(math.exp(rng.uniform(math.log(least), math.log(most)))) if most else 0
    shorter = min(side)
    typical = shorter * math.exp(rng.uniform(math.log(layout.least), math.log(layout.largest)))
    spread = rng.choice([0.05, 0.2, 0.45])
    deepest = np.full(side, -1e3, np.float32)
    shapes: list[Shape] = []
    for _ in range(4 * wanted):
        if len(shapes) == wanted:
            break
        diameter = typical * math.exp(rng.normal(0, spread))
        radius = float(np.clip(diameter, LEAST_DIAMETER, 1.2 * layout.largest * shorter)) / 2
        neighbour = shapes[int(rng.integers(len(shapes)))] if shapes and rng.random() < layout.touching else None
        if neighbour is not None:
            angle, away = rng.uniform(0, 2 * math.pi), (neighbour.radius + radius) * rng.uniform(0.85, 1.03)
            x = neighbour.centre[0] + away * math.cos(angle)
            y = neighbour.centre[1] + away * math.sin(angle)
        elif wanted == 1:
            x, y = (length * (0.5 + rng.normal(0, 0.1)) for length in (side[1], side[0]))
        else:
            x, y = (length * rng.uniform(-0.02, 1.02) for length in (side[1], side[0]))
        shape = blob(rng, side, (x, y), radius)
        if shape is None or shape.depth.max() < min(3.0, 0.5 * radius):
            continue
        overlap = float(np.minimum(deepest[shape.window], shape.depth).max())
        if overlap > (0.4 * radius if neighbour is not None else -2.0):
            continue
        shapes.append(shape)
        deepest[shape.window] = np.maximum(deepest[shape.window], shape.depth)
    return _pressed(shapes, side)


def _pressed(shapes: list[Shape], side: tuple[int, int]) -> tuple[list[Shape], npt.NDArray[np.uint16]]:
    best = np.zeros(side, np.float32)
    second = np.full(side, -1e3, np.float32)
    labels = np.zeros(side, np.uint16)
    for number, shape in enumerate(shapes, start=1):
        deeper = shape.depth > best[shape.window]
        second[shape.window] = np.maximum(
            second[shape.window],
            np.where(deeper, np.where(labels[shape.window] > 0, best[shape.window], -1e3), shape.depth),
        )
        best[shape.window] = np.where(deeper, shape.depth, best[shape.window])
        labels[shape.window] = np.where(deeper, number, labels[shape.window])
    cut = []
    for number, shape in enumerate(shapes, start=1):
        own = labels[shape.window] == number
        others = np.where(own, second[shape.window], np.maximum(best[shape.window], shape.depth))
        depth = np.minimum(shape.depth, (shape.depth - others) / 2)
        # Outside itself only where nothing else is, so that halos do not fall on neighbours.
        depth = np.where(own, np.maximum(depth, 0.01), np.where(labels[shape.window] > 0, -1e3, shape.depth))
        cut.append(Shape(shape.window, depth.astype(np.float32), shape.radius, shape.centre))
    return cut, labels


def _invaded(
    rng: np.random.Generator, pixels: Map, labels: npt.NDArray[np.uint16], shapes: list[Shape], bright_field: bool
) -> tuple[Map, npt.NDArray[np.uint16]]:
    """Cells around the core, fewer with distance; the spheroid is the core and where cells are dense."""
    side = labels.shape
    if not shapes:
        return pixels, labels
    core = shapes[0]
    cell = max(1.0, min(side) * rng.uniform(0.003, 0.012))
    reach = core.radius * rng.uniform(0.3, 2.2)
    density = rng.uniform(0.3, 1.4)
    field = np.full(side, -1e3, np.float32)
    field[core.window] = core.depth
    far = np.maximum(0, cv2.distanceTransform((field <= 0).astype(np.uint8), cv2.DIST_L2, 5))
    lopsided = 1 + 0.5 * np.clip(noise(rng, side, 2 * core.radius), -1.5, 1.5)
    expected = density * np.exp(-((far / (reach * np.clip(lopsided, 0.3, 2))) ** rng.uniform(1, 2.5)))
    expected[far > 3 * reach] = 0
    cells = np.zeros(side, np.float32)
    seeds = rng.random(side) < expected / (math.pi * cell**2) * 1.2
    rows, columns = np.nonzero(seeds & (far > 0))
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        axes = (cell * rng.uniform(0.6, 1.5), cell * rng.uniform(0.6, 1.1))
        cv2.ellipse(
            cells,
            (round(x * 8), round(y * 8)),
            (max(4, round(axes[0] * 8)), max(4, round(axes[1] * 8))),
            float(np.degrees(np.arctan2(y - core.centre[1], x - core.centre[0]))),
            0,
            360,
            (float(rng.uniform(0.5, 1.2)),),
            -1,
            cv2.LINE_8,
            3,
        )
    covered = np.maximum(labels > 0, cells > 0).astype(np.float32)
    dense = (cv2.GaussianBlur(covered, (0, 0), WIDE * cell) > INVADED) | (labels > 0)
    _, components = cv2.connectedComponents(dense.astype(np.uint8))
    inside = np.isin(components, np.unique(components[labels > 0])) & dense
    filled = inside.astype(np.uint8)
    outlines, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, (1,), -1)
    level = float(np.percentile(pixels[labels > 0], 60)) if (labels > 0).any() else 1.0
    soft = cv2.GaussianBlur(cells, (0, 0), 0.3 * cell + 0.3)
    if bright_field:
        shade = np.clip(1 - rng.uniform(0.2, 0.8) * soft, 0.1, 1)
        return np.asarray(pixels * np.where(labels > 0, 1, shade), np.float32), filled.astype(np.uint16)
    return np.maximum(pixels, soft * level * rng.uniform(0.5, 1.1)), filled.astype(np.uint16)
