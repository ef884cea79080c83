"""Draws synthetic scenes with exact masks, of kinds that the labelled pictures lack.

They have many or touching objects, debris, halos and dark rims, uneven light, walls of wells, defocus, fluorescence
with saturation and scattered invading cells, small and large objects, and both polarities. The same seed gives the
same scenes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from spheroseg.simulate.noise import Map, smooth_noise
from spheroseg.training.artefacts import add_debris, add_wall
from spheroseg.training.camera import photograph
from spheroseg.training.illumination import draw_brightfield_background, draw_fluorescence_background
from spheroseg.training.shapes import Shape, draw_blob
from spheroseg.training.specimens import render_brightfield, render_cysts, render_fluorescence

MIN_DIAMETER_PX = 8.0  # smaller objects cannot be distinguished from debris
# Invading cells belong to the spheroid where, after a Gaussian blur of this many cell radii, they cover at least this
# share of the area.
INVADED_BLUR = 2.0
MIN_INVADED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture. `pixels`: grey values 0..255, float32 (height, width). `labels`: uint16; 0 is background."""

    pixels: Map
    labels: npt.NDArray[np.uint16]
    kind: str


@dataclass(frozen=True)
class SceneKind:
    """How to draw a kind of scene.

    `smallest`, `largest`: diameters of objects as a share of the shorter side. `count`: smallest and largest number
    of objects. `touching`: share of objects that are placed beside another. `uneven`: probability of very uneven
    light.
    """

    smallest: float
    largest: float
    count: tuple[int, int]
    touching: float = 0.0
    is_brightfield: bool = True
    uneven: float = 0.2


KINDS = {
    "single": SceneKind(0.2, 0.8, (1, 1)),
    "few": SceneKind(0.08, 0.35, (2, 12), 0.1),
    "many": SceneKind(0.035, 0.12, (15, 150), 0.1),
    "touching": SceneKind(0.1, 0.4, (2, 9), 0.85),
    "cysts": SceneKind(0.04, 0.25, (3, 60), 0.1),
    "fluorescent": SceneKind(0.15, 0.75, (1, 1), 0.0, False),
    "fluorescent_many": SceneKind(0.04, 0.25, (4, 80), 0.4, False),
    "invasion": SceneKind(0.07, 0.4, (1, 1), 0.0, False),
    "empty": SceneKind(0.1, 0.5, (0, 0)),
    "crowded": SceneKind(0.08, 0.3, (25, 90), 0.9),
    "fluorescent_crowded": SceneKind(0.08, 0.3, (25, 90), 0.9, False),
    "invasion_brightfield": SceneKind(0.1, 0.4, (1, 1)),
    "uneven": SceneKind(0.1, 0.5, (0, 0), uneven=1.0),
    "debris": SceneKind(0.1, 0.5, (0, 0), uneven=0.4),
}


def draw_scenes(count: int, seed: int, shape: tuple[int, int] | None = None) -> Iterator[Scene]:
    """Draw `count` scenes, cycling through the kinds. `shape`: height and width, px; by default random.

    A scene depends only on the seed and its number.
    """
    kinds = tuple(KINDS)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield draw_scene(rng, kinds[number % len(kinds)], shape or _draw_shape(rng))


def draw_scene(rng: np.random.Generator, name: str, shape: tuple[int, int]) -> Scene:
    """Draw one scene of the kind `name` of `KINDS`. `shape`: height and width, px."""
    kind = KINDS[name]
    objects, labels = _place_objects(rng, kind, shape)
    is_brightfield = kind.is_brightfield and not (name == "empty" and rng.random() < 0.4)
    if is_brightfield:
        background = draw_brightfield_background(rng, shape, kind.uneven)
    else:
        background = draw_fluorescence_background(rng, shape)
    if name == "cysts":
        pixels = render_cysts(rng, background, objects)
    elif is_brightfield:
        pixels = render_brightfield(rng, background, objects)
    else:
        pixels = render_fluorescence(rng, background, objects)
    radius = float(np.median([one.radius for one in objects])) if objects else rng.uniform(0.03, 0.2) * min(shape)
    if name.startswith("invasion"):
        pixels, labels = _add_invasion(rng, pixels, labels, objects, is_brightfield)
    # Without objects, there is nothing that debris could be compared with, so it is drawn smaller.
    debris_radius = radius if objects else 0.3 * radius
    pixels = add_debris(rng, pixels, labels > 0, debris_radius, is_brightfield, name == "debris")
    if rng.random() < 0.25:
        pixels, hidden = add_wall(rng, pixels, is_brightfield)
        labels[hidden] = 0
    return Scene(photograph(rng, pixels, is_brightfield, radius), labels, name)


def relative_depths(labels: npt.NDArray[np.uint16]) -> Map:
    """Return the distance of each pixel to the outline of its object, divided by the object's inscribed radius.

    The result is float32 with the shape of `labels`: 0 outside, 1 where an object is deepest.
    """
    result = np.zeros(labels.shape, np.float32)
    for number, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        rows, columns = box
        window = np.s_[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1]
        mask = (labels[window] == number).astype(np.uint8)
        # Objects at the border of the picture are taken to continue beyond it.
        padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        result[window] = np.where(mask > 0, depth / max(float(depth.max()), 1e-6), result[window])
    return result


def _draw_shape(rng: np.random.Generator) -> tuple[int, int]:
    longer = float(rng.choice([256, 384, 520, 700, 1000]))
    return round(longer * float(rng.choice([1.0, 0.75, 0.9]))), round(longer)


def _place_objects(
    rng: np.random.Generator, kind: SceneKind, scene_shape: tuple[int, int]
) -> tuple[list[Shape], npt.NDArray[np.uint16]]:
    """Return objects and their labels. Where two overlap, the border runs where both are equally deep."""
    min_count, max_count = kind.count
    count = round(math.exp(rng.uniform(math.log(min_count), math.log(max_count)))) if max_count else 0
    shorter = min(scene_shape)
    typical = shorter * math.exp(rng.uniform(math.log(kind.smallest), math.log(kind.largest)))
    spread = rng.choice([0.05, 0.2, 0.45])
    deepest = np.full(scene_shape, -1e3, np.float32)
    shapes: list[Shape] = []
    for _ in range(4 * count):
        if len(shapes) == count:
            break
        diameter = typical * math.exp(rng.normal(0, spread))
        radius = float(np.clip(diameter, MIN_DIAMETER_PX, 1.2 * kind.largest * shorter)) / 2
        neighbour = shapes[int(rng.integers(len(shapes)))] if shapes and rng.random() < kind.touching else None
        if neighbour is not None:
            angle, distance = rng.uniform(0, 2 * math.pi), (neighbour.radius + radius) * rng.uniform(0.85, 1.03)
            x = neighbour.centre[0] + distance * math.cos(angle)
            y = neighbour.centre[1] + distance * math.sin(angle)
        elif count == 1:
            x, y = (length * (0.5 + rng.normal(0, 0.1)) for length in (scene_shape[1], scene_shape[0]))
        else:
            x, y = (length * rng.uniform(-0.02, 1.02) for length in (scene_shape[1], scene_shape[0]))
        shape = draw_blob(rng, scene_shape, (x, y), radius)
        if shape is None or shape.depth.max() < min(3.0, 0.5 * radius):
            continue
        overlap = float(np.minimum(deepest[shape.window], shape.depth).max())
        if overlap > (0.4 * radius if neighbour is not None else -2.0):
            continue
        shapes.append(shape)
        deepest[shape.window] = np.maximum(deepest[shape.window], shape.depth)
    return _divide_overlaps(shapes, scene_shape)


def _divide_overlaps(shapes: list[Shape], scene_shape: tuple[int, int]) -> tuple[list[Shape], npt.NDArray[np.uint16]]:
    """Return the shapes without overlaps, and their labels."""
    best = np.zeros(scene_shape, np.float32)
    second = np.full(scene_shape, -1e3, np.float32)
    labels = np.zeros(scene_shape, np.uint16)
    for number, shape in enumerate(shapes, start=1):
        deeper = shape.depth > best[shape.window]
        second[shape.window] = np.maximum(
            second[shape.window],
            np.where(deeper, np.where(labels[shape.window] > 0, best[shape.window], -1e3), shape.depth),
        )
        best[shape.window] = np.where(deeper, shape.depth, best[shape.window])
        labels[shape.window] = np.where(deeper, number, labels[shape.window])
    divided = []
    for number, shape in enumerate(shapes, start=1):
        own = labels[shape.window] == number
        others = np.where(own, second[shape.window], np.maximum(best[shape.window], shape.depth))
        depth = np.minimum(shape.depth, (shape.depth - others) / 2)
        # Outside the object, keep the depth only where no other object is, so that halos do not cover neighbours.
        depth = np.where(own, np.maximum(depth, 0.01), np.where(labels[shape.window] > 0, -1e3, shape.depth))
        divided.append(Shape(shape.window, depth.astype(np.float32), shape.radius, shape.centre))
    return divided, labels


def _add_invasion(
    rng: np.random.Generator, pixels: Map, labels: npt.NDArray[np.uint16], shapes: list[Shape], is_brightfield: bool
) -> tuple[Map, npt.NDArray[np.uint16]]:
    """Return the picture with cells around the core, fewer at greater distance, and the labels.

    The spheroid consists of the core and the region around it in which cells are dense.
    """
    scene_shape = (labels.shape[0], labels.shape[1])
    if not shapes:
        return pixels, labels
    core = shapes[0]
    cell = max(1.0, min(scene_shape) * rng.uniform(0.003, 0.012))
    reach = core.radius * rng.uniform(0.3, 2.2)
    density = rng.uniform(0.3, 1.4)
    field = np.full(scene_shape, -1e3, np.float32)
    field[core.window] = core.depth
    distance = np.maximum(0, cv2.distanceTransform((field <= 0).astype(np.uint8), cv2.DIST_L2, 5))
    asymmetry = 1 + 0.5 * np.clip(smooth_noise(rng, scene_shape, 2 * core.radius), -1.5, 1.5)
    expected = density * np.exp(-((distance / (reach * np.clip(asymmetry, 0.3, 2))) ** rng.uniform(1, 2.5)))
    expected[distance > 3 * reach] = 0
    cells = np.zeros(scene_shape, np.float32)
    seeds = rng.random(scene_shape) < expected / (math.pi * cell**2) * 1.2
    rows, columns = np.nonzero(seeds & (distance > 0))
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
    is_dense = (cv2.GaussianBlur(covered, (0, 0), INVADED_BLUR * cell) > MIN_INVADED_SHARE) | (labels > 0)
    _, components = cv2.connectedComponents(is_dense.astype(np.uint8))
    inside = np.isin(components, np.unique(components[labels > 0])) & is_dense
    filled = inside.astype(np.uint8)
    outlines, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, (1,), -1)
    level = float(np.percentile(pixels[labels > 0], 60)) if (labels > 0).any() else 1.0
    soft = cv2.GaussianBlur(cells, (0, 0), 0.3 * cell + 0.3)
    if is_brightfield:
        shade = np.clip(1 - rng.uniform(0.2, 0.8) * soft, 0.1, 1)
        return np.asarray(pixels * np.where(labels > 0, 1, shade), np.float32), filled.astype(np.uint16)
    return np.maximum(pixels, soft * level * rng.uniform(0.5, 1.1)), filled.astype(np.uint16)
