"""Shapes of synthetic objects, each as the signed distance from its outline."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
Polygon = npt.NDArray[np.float64]

REACH = 0.8  # radii: how far around an object its light and its shadow are drawn
FINE = 2  # an outline is drawn at twice the size, and to 1/16 px


@dataclass(frozen=True, eq=False)
class Shape:
    """An object in its window of the scene.

    `depth`: px from the outline, float32 over the window, positive inside. `radius`: px, of the largest inscribed
    disk. `centre`: x, y in px.
    """

    window: tuple[slice, slice]
    depth: Map
    radius: float
    centre: tuple[float, float]


def blob(rng: np.random.Generator, side: tuple[int, int], centre: tuple[float, float], radius: float) -> Shape | None:
    """A smooth closed shape around `centre` (x, y): round, elongated, wavy, or with buds; None outside the picture.

    `side` is that of the scene, height and width; `radius` in px.
    """
    x, y = centre
    stretch = 1 + (rng.exponential(0.1) if rng.random() < 0.8 else rng.uniform(0.3, 1.2))
    polygons = [_star(rng, x, y, radius, stretch)]
    if rng.random() < 0.12:
        for _ in range(int(rng.integers(1, 4))):
            angle, away = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.6, 1.0)
            bud = radius * rng.uniform(0.35, 0.65)
            polygons.append(_star(rng, x + away * math.cos(angle), y + away * math.sin(angle), bud, 1.1))
    points = np.concatenate(polygons)
    margin = math.ceil(REACH * radius) + 4
    left, top = np.floor(points.min(axis=0)).astype(int) - margin
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + margin
    window = np.s_[max(top, 0) : min(bottom, side[0]), max(left, 0) : min(right, side[1])]
    if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
        return None
    depth = _depth([polygon - np.array([left, top]) for polygon in polygons], (bottom - top, right - left))
    local = depth[
        window[0].start - top : window[0].stop - top,
        window[1].start - left : window[1].stop - left,
    ]
    return Shape(window, np.ascontiguousarray(local), max(1.0, float(depth.max())), centre)


def _star(rng: np.random.Generator, x: float, y: float, radius: float, stretch: float) -> Polygon:
    angles = np.linspace(0, 2 * math.pi, 181)[:-1]
    rough = rng.choice([0.0, 0.02, 0.05, 0.09], p=[0.25, 0.4, 0.25, 0.1])
    distance = np.ones_like(angles)
    for order in range(2, 9):
        distance += rng.normal(0, 1) * 2 * rough / order**1.3 * np.cos(order * angles + rng.uniform(0, 2 * math.pi))
    if rng.random() < 0.2:  # cells that stand out
        distance += rng.uniform(0.01, 0.03) * np.cos(int(rng.integers(12, 40)) * angles + 3 * np.sin(3 * angles))
    along, across = radius * math.sqrt(stretch), radius / math.sqrt(stretch)
    points = np.column_stack([along * distance * np.cos(angles), across * distance * np.sin(angles)])
    turn = rng.uniform(0, math.pi)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.asarray(points @ rotation + np.array([x, y]))


def _depth(polygons: list[Polygon], size: tuple[int, int]) -> Map:
    fine = FINE if max(size) < 600 else 1
    canvas = np.zeros((size[0] * fine, size[1] * fine), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [np.round((polygon * fine - 0.5) * 16).astype(np.int32)], (1,), shift=4)
    inside = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((1 - canvas).astype(np.uint8), cv2.DIST_L2, 5)
    depth = np.where(canvas > 0, inside - 0.5, 0.5 - outside).astype(np.float32) / fine
    return np.asarray(cv2.resize(depth, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.float32)


def noise(rng: np.random.Generator, side: tuple[int, int], scale: float) -> Map:
    """Smooth random values of mean 0 and standard deviation 1 whose structures measure about `scale` px."""
    coarse = max(1.0, scale / 2)
    rows, columns = max(2, math.ceil(side[0] / coarse) + 3), max(2, math.ceil(side[1] / coarse) + 3)
    values = cv2.GaussianBlur(rng.standard_normal((rows, columns), np.float32), (0, 0), 1.0)
    size = (max(side[1], math.ceil(columns * coarse)), max(side[0], math.ceil(rows * coarse)))
    grown = cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)[: side[0], : side[1]]
    return np.asarray((grown - grown.mean()) / (grown.std() + 1e-6), np.float32)
