"""Adds artefacts to synthetic pictures: debris, and the walls of wells."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.simulate.noise import Map, smooth_noise

Mask = npt.NDArray[np.bool_]


def add_debris(
    rng: np.random.Generator, pixels: Map, objects: Mask, radius: float, is_brightfield: bool, is_heavy: bool = False
) -> Map:
    """Return the picture with debris: single cells, clumps beside the objects, fibres, and specks out of focus.

    `objects`: mask of the picture's shape. `radius`: radius of a typical object, px; debris is much smaller.
    `is_heavy`: whether to draw a lot of debris.
    """
    shape = (pixels.shape[0], pixels.shape[1])
    light = np.zeros(shape, np.float32)
    size = max(0.8, min(0.16 * radius, 0.03 * min(shape)))
    number = int(rng.choice([0, 5, 25, 120], p=[0.25, 0.3, 0.3, 0.15]))
    if is_heavy:
        number = int(rng.integers(20, 250))
    heaps = rng.uniform(0, 1, (3, 2)) * np.array(shape[::-1]) if rng.random() < (0.6 if is_heavy else 0.1) else None
    has_neighbours = objects.any() and rng.random() < 0.5
    rows, columns = (
        np.nonzero(cv2.dilate(objects.astype(np.uint8), np.ones((5, 5), np.uint8), iterations=max(1, int(size))))
        if has_neighbours
        else (np.empty(0), np.empty(0))
    )
    for _ in range(number):
        if has_neighbours and len(rows) and rng.random() < 0.7:
            at = int(rng.integers(len(rows)))
            x, y = columns[at] + rng.normal(0, 4 * size), rows[at] + rng.normal(0, 4 * size)
        elif heaps is not None and rng.random() < 0.6:
            x, y = heaps[int(rng.integers(len(heaps)))] + rng.normal(0, 4 * size, 2)
        else:
            x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        spot = size * rng.uniform(0.4, 1.2)
        axes = (max(3, round(spot * 8)), max(3, round(spot * rng.uniform(0.6, 1) * 8)))
        value = float(rng.uniform(0.2, 1.0)) * (1 if rng.random() < 0.8 else -0.6)
        centre = (round(float(x) * 8), round(float(y) * 8))
        cv2.ellipse(light, centre, axes, float(rng.uniform(0, 180)), 0, 360, (value,), -1, cv2.LINE_8, 3)
        if is_brightfield and spot > 1.5 and rng.random() < 0.6:
            inner = (max(2, round(axes[0] * 0.5)), max(2, round(axes[1] * 0.5)))
            cv2.ellipse(light, centre, inner, 0, 0, 360, (-0.3 * value,), -1, cv2.LINE_8, 3)
    for _ in range(int(rng.choice([0, 1, 3], p=[0.8, 0.15, 0.05]))):
        points = np.cumsum(rng.normal(0, 0.06 * max(shape), (6, 2)), axis=0) + rng.uniform(0, 1, 2) * np.array(
            shape[::-1]
        )
        curve = [np.round(points * 8).astype(np.int32)]
        cv2.polylines(light, curve, False, (float(rng.uniform(0.2, 0.7)),), 1, cv2.LINE_8, 3)
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 1.2)), np.float32)
    if rng.random() < 0.25:
        soft = np.zeros(shape, np.float32)
        for _ in range(int(rng.integers(1, 12))):
            centre = (int(rng.uniform(0, shape[1])), int(rng.uniform(0, shape[0])))
            cv2.circle(soft, centre, max(1, round(size * rng.uniform(0.8, 2))), (float(rng.uniform(0.2, 0.6)),), -1)
        light = light + cv2.GaussianBlur(soft, (0, 0), 1.0 + size)
    # Debris in front of an object is hardly visible.
    light = light * np.where(objects, 0.3, 1.0)
    strength = rng.uniform(0.15, 0.7)
    if is_brightfield:
        return np.asarray(pixels * np.clip(1 - strength * light, 0.05, 1.8), np.float32)
    return np.asarray(pixels + np.clip(light, 0, None) * strength * max(0.1, float(pixels.max())), np.float32)


def add_wall(rng: np.random.Generator, pixels: Map, is_brightfield: bool) -> tuple[Map, Mask]:
    """Return the picture with a wall, and the mask of the pixels behind it.

    It is the wall of a round well, the side of a channel, or a black margin, in a corner or along an edge.
    """
    height, width = pixels.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    longer = max(height, width)
    if rng.random() < 0.7:
        radius = longer * rng.uniform(0.5, 1.1)
        angle = rng.uniform(0, 2 * math.pi)
        distance = radius - longer * rng.uniform(0.3, 0.5)
        x0, y0 = width / 2 + distance * math.cos(angle), height / 2 + distance * math.sin(angle)
        if rng.random() < 0.3:
            x0, y0, radius = width / 2, height / 2, longer * rng.uniform(0.47, 0.65)
        beyond = np.hypot(x - x0, y - y0) - radius
    else:
        angle = rng.choice([0, math.pi / 2, math.pi, 1.5 * math.pi]) + rng.normal(0, 0.05)
        beyond = (x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)
        beyond = beyond - rng.uniform(0.4, 0.49) * (width if abs(math.cos(angle)) > 0.7 else height)
    outside = np.clip(beyond + 0.5, 0, 1)
    thick = longer * rng.uniform(0.003, 0.03)
    if not is_brightfield:
        level = rng.uniform(0, 0.3) * float(pixels.max())
        shine = level * np.exp(-((beyond / thick) ** 2))
        return np.asarray(pixels + shine, np.float32), np.zeros(pixels.shape, np.bool_)
    level = float(np.median(pixels))
    far = rng.choice([0.0, 0.1, 0.4, 0.8, 1.2])
    pixels = pixels * (1 - outside) + outside * (
        far * level + (0.0 if far < 0.05 else 0.04 * level * smooth_noise(rng, (height, width), 6))
    )
    if rng.random() < 0.7:
        pixels = pixels * (1 - rng.uniform(0.2, 0.9) * np.exp(-((beyond / thick) ** 2)))
    if rng.random() < 0.4:
        pixels = pixels + level * rng.uniform(0.1, 0.5) * np.exp(-(((beyond + 2 * thick) / thick) ** 2))
    return np.asarray(np.clip(pixels, 0, None), np.float32), beyond > 0
