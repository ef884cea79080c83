"""Varies grey values at random, as microscopes and cameras differ, so that a network learns to ignore it."""

import cv2
import numpy as np

from spheroseg.simulate.noise import Map


def augment(rng: np.random.Generator, grey: Map) -> Map:
    """Return the grey values (float32, height, width), varied at random.

    Each of blur, uneven light, noise, gamma, sharpening, JPEG compression and inversion is applied with some
    probability.
    """
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
        grey = _compress(rng, np.asarray(grey, np.float32))
    if rng.random() < 0.04:
        grey = -grey
    return np.asarray(grey, np.float32)


def _compress(rng: np.random.Generator, grey: Map) -> Map:
    """Return the grey values after JPEG compression of random quality."""
    low, high = float(grey.min()), float(grey.max()) + 1e-3
    levels = np.round(255 * (grey - low) / (high - low)).astype(np.uint8)
    _, code = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), np.float32)
    return low + decoded * np.float32((high - low) / 255)
