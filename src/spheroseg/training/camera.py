"""Turns the light of a synthetic picture into the grey values that a camera would record."""

import math

import cv2
import numpy as np

from spheroseg.simulate.noise import Map


def photograph(rng: np.random.Generator, pixels: Map, is_brightfield: bool, radius: float) -> Map:
    """Return grey values (0..255, float32) with defocus, noise, exposure, saturation, polarity and JPEG artefacts.

    `pixels`: the light. `radius`: radius of a typical object, px.
    """
    blur = rng.choice([0.4, 0.8, 1.5, 0.08 * radius], p=[0.35, 0.35, 0.15, 0.15])
    pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(np.clip(blur, 0.3, 8))), np.float32)
    if rng.random() < 0.15:  # sharpening, as by consumer cameras
        soft = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.8, 3))
        pixels = np.clip(pixels + rng.uniform(0.3, 1.2) * (pixels - soft), 0, None)
    pixels = pixels + rng.choice([0.002, 0.01, 0.03]) * rng.normal(0, 1, pixels.shape) * max(
        0.3, float(pixels.mean())
    )
    if rng.random() < 0.2:  # shot noise
        photons = np.sqrt(np.clip(pixels, 0, None))
        pixels = np.add(pixels, rng.uniform(0.01, 0.08) * photons * rng.normal(0, 1, pixels.shape))
    if is_brightfield:
        low, high = np.percentile(pixels, [0.5, 99.5])
        if rng.random() < 0.5:
            low, high = low - 0.1, high + 0.1
        low = min(low, high - 0.3)
    else:
        low = min(float(pixels.min()), 0.0)
        high = float(np.percentile(pixels, 99.8)) * math.exp(rng.choice([0.0, 0.7, -0.9], p=[0.5, 0.25, 0.25]))
        high = max(high, low + 0.05)
    grey = np.clip((pixels - low) / (high - low), 0, 1) ** rng.uniform(0.7, 1.5)
    if rng.random() < (0.07 if is_brightfield else 0.04):
        grey = 1 - grey
    grey = np.round(255 * grey).astype(np.uint8)
    if rng.random() < 0.2:
        _, code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])
        grey = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), np.uint8)
    return np.asarray(grey, np.float32)
