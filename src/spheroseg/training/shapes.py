"""Draws random shapes of synthetic objects, each as the signed distance from its outline."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.simulate.noise import Map

Polygon = npt.NDArray[np.float64]

REACH = 0.8  # of the radius; the light and shadow of an object are drawn up to this distance around it
OVERSAMPLING = 2  # outlines are drawn at this multiple of their size, with a precision of 1/16 px


@dataclass(frozen=True, eq=False)
class Shape:
    """An object in its window of the scene.

    `depth`: distance from the outline, px, float32 over the window, positive inside. `radius`: of the largest
    inscribed disk, px. `centre`: x, y, px.
    """

    window: tuple[slice, slice]
    depth: Map
    radius: float
    centre: tuple[float, float]


def draw_blob(
    rng: np.random.Generator, scene_shape: tuple[int, int], centre: tuple[float, float], radius: float
) -> Shape | None:
    """Draw a smooth closed shape around `centre` (x, y): round, elongated, wavy, or with buds.

    `scene_shape`: height and width. `radius`: px. Return None if the shape lies outside the scene.
    """
    x, y = centre
    stretch = 1 + (rng.exponential(0.1) if rng.random() < 0.8 else rng.uniform(0.3, 1.2))
    polygons = [_draw_star(rng, x, y, radius, stretch)]
    if rng.random() < 0.12:
        for _ in range(int(rng.integers(1, 4))):
            angle, distance_px = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.6, 1.0)
            bud = radius * rng.uniform(0.35, 0.65)
            polygons.append(
                _draw_star(rng, x + distance_px * math.cos(angle), y + distance_px * math.sin(angle), bud, 1.1)
            )
    points = np.concatenate(polygons)
    margin = math.ceil(REACH * radius) + 4
    left, top = np.floor(points.min(axis=0)).astype(int) - margin
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + margin
    window = np.s_[max(top, 0) : min(bottom, scene_shape[0]), max(left, 0) : min(right, scene_shape[1])]
    if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
        return None
    depth = _signed_distance([polygon - np.array([left, top]) for polygon in polygons], (bottom - top, right - left))
    local = depth[
        window[0].start - top : window[0].stop - top,
        window[1].start - left : window[1].stop - left,
    ]
    return Shape(window, np.ascontiguousarray(local), max(1.0, float(depth.max())), centre)


def _draw_star(rng: np.random.Generator, x: float, y: float, radius: float, stretch: float) -> Polygon:
    """Draw a wavy ellipse (180, 2) around x, y. `stretch`: ratio of its axes."""
    angles = np.linspace(0, 2 * math.pi, 181)[:-1]
    rough = rng.choice([0.0, 0.02, 0.05, 0.09], p=[0.25, 0.4, 0.25, 0.1])
    distance = np.ones_like(angles)
    for order in range(2, 9):
        distance += rng.normal(0, 1) * 2 * rough / order**1.3 * np.cos(order * angles + rng.uniform(0, 2 * math.pi))
    if rng.random() < 0.2:  # protruding cells
        distance += rng.uniform(0.01, 0.03) * np.cos(int(rng.integers(12, 40)) * angles + 3 * np.sin(3 * angles))
    along, across = radius * math.sqrt(stretch), radius / math.sqrt(stretch)
    points = np.column_stack([along * distance * np.cos(angles), across * distance * np.sin(angles)])
    turn = rng.uniform(0, math.pi)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.asarray(points @ rotation + np.array([x, y]))


def _signed_distance(polygons: list[Polygon], size: tuple[int, int]) -> Map:
    """Return the distance, px, from the outline of the union of polygons, positive inside; `size`: height, width."""
    fine = OVERSAMPLING if max(size) < 600 else 1
    canvas = np.zeros((size[0] * fine, size[1] * fine), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [np.round((polygon * fine - 0.5) * 16).astype(np.int32)], (1,), shift=4)
    inside = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((1 - canvas).astype(np.uint8), cv2.DIST_L2, 5)
    depth = np.where(canvas > 0, inside - 0.5, 0.5 - outside).astype(np.float32) / fine
    return np.asarray(cv2.resize(depth, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.float32)
