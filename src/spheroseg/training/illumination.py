"""Draws the background of synthetic pictures, bright for brightfield and dark for fluorescence.

The value 1 stands for the light of an evenly lit brightfield.
"""

import math

import cv2
import numpy as np

from spheroseg.simulate.noise import Map, smooth_noise


def draw_brightfield_background(rng: np.random.Generator, shape: tuple[int, int], uneven: float = 0.2) -> Map:
    """Draw the background of a brightfield picture: uneven light, vignette, clouds, streaks.

    `shape`: height and width. `uneven`: probability of very uneven light.
    """
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    tilt, bow = rng.normal(0, 0.1, 2), rng.normal(0, 0.05, 3)
    background = 1 + tilt[0] * x + tilt[1] * y + bow[0] * x * x + bow[1] * y * y + bow[2] * x * y
    if rng.random() < 0.3:
        x0, y0 = rng.normal(0, 0.3, 2)
        background = background * np.clip(1 - rng.uniform(0.1, 0.6) * ((x - x0) ** 2 + (y - y0) ** 2) / 2, 0.05, None)
    background = background + rng.choice([0.005, 0.02, 0.05]) * smooth_noise(
        rng, shape, max(shape) * rng.uniform(0.08, 0.5)
    )
    if rng.random() < 0.3:
        background = background + rng.uniform(0.003, 0.02) * smooth_noise(rng, shape, rng.uniform(3, 12))
    if rng.random() < 0.15:
        streaks = cv2.resize(smooth_noise(rng, (shape[0], 8), 6), (shape[1], shape[0]))
        background = background + rng.uniform(0.005, 0.03) * (streaks if rng.random() < 0.5 else streaks[:, ::-1])
    if rng.random() < uneven:
        background = background * _draw_lamp(rng, shape)
    if rng.random() < uneven:
        background = background * _draw_plastic(rng, shape)
    return np.asarray(np.clip(background, 0.03, None), np.float32)


def draw_fluorescence_background(rng: np.random.Generator, shape: tuple[int, int]) -> Map:
    """Draw the background of a fluorescence picture of `shape` (height, width): offset, glow, uneven background."""
    level = rng.choice([0.0, 0.02, 0.08, 0.2])
    clouds = rng.choice([0.0, 0.01, 0.03]) * smooth_noise(rng, shape, max(shape) * rng.uniform(0.1, 0.6))
    glow = rng.uniform(0.02, 0.25) * _draw_lamp(rng, shape) if rng.random() < 0.2 else 0.0
    return np.asarray(np.clip(level + clouds + glow, 0, None), np.float32)


def _draw_lamp(rng: np.random.Generator, shape: tuple[int, int]) -> Map:
    """Draw misaligned light: from one side, as a spot, through an aperture, or with a shadow. No edge is sharp."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    longer = max(shape)
    light = np.ones(shape, np.float32)
    for _ in range(int(rng.integers(1, 3))):
        kind = int(rng.integers(4))
        x0, y0 = shape[1] * rng.uniform(-0.1, 1.1), shape[0] * rng.uniform(-0.1, 1.1)
        angle, amount = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.8)
        along = ((x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)) / longer
        distance = np.hypot(x - x0, (y - y0) * rng.uniform(0.7, 1.4)) / longer
        if kind == 0:
            light = light * (1 - amount * np.clip(along / rng.uniform(0.5, 1.5) + 0.5, 0, 1))
        elif kind == 1:
            light = light * (
                1 + rng.choice([-0.7, 1.0]) * amount * np.exp(-((distance / rng.uniform(0.2, 0.6)) ** 2))
            )
        elif kind == 2:
            middle = np.hypot(x - shape[1] * rng.normal(0.5, 0.08), y - shape[0] * rng.normal(0.5, 0.08)) / longer
            light = light * (1 - amount / (1 + np.exp((rng.uniform(0.35, 0.65) - middle) / rng.uniform(0.02, 0.1))))
        else:
            light = light * (1 - 0.6 * amount * np.exp(-((along / rng.uniform(0.05, 0.3)) ** 2)))
    return np.asarray(np.clip(light, 0.05, None), np.float32)


def _draw_plastic(rng: np.random.Generator, shape: tuple[int, int]) -> Map:
    """Draw the bottom of a plate: scratches, moulding rings, and stains with faint outlines."""
    longer = max(shape)
    marks = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(0, 8))):
        start = rng.uniform(0, 1, 2) * np.array(shape[::-1])
        end = start + rng.normal(0, 0.4 * longer, 2)
        points = [np.round(np.stack([start, end]) * 8).astype(np.int32)]
        cv2.polylines(marks, points, False, (float(rng.normal(0, 0.5)),), 1, cv2.LINE_8, 3)
    for _ in range(int(rng.choice([0, 1, 4], p=[0.5, 0.3, 0.2]))):
        centre = (int(rng.uniform(-0.3, 1.3) * shape[1]), int(rng.uniform(-0.3, 1.3) * shape[0]))
        cv2.circle(marks, centre, int(longer * rng.uniform(0.1, 0.9)), (float(rng.normal(0, 0.6)),), 1)
    marks = np.asarray(cv2.GaussianBlur(marks, (0, 0), rng.uniform(0.5, 2.5)), np.float32)
    stain = smooth_noise(rng, shape, longer * rng.uniform(0.15, 0.5))
    marks = marks + rng.choice([0.0, 0.05, 0.12]) * np.tanh(2 * stain).astype(np.float32)
    return np.asarray(1 + rng.uniform(0.1, 0.6) * marks, np.float32)
