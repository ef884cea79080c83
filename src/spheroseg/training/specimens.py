"""Renders synthetic objects onto the background of a picture, in the appearance of different specimens."""

import math

import cv2
import numpy as np

from spheroseg.simulate.noise import Map, smooth_noise
from spheroseg.training.shapes import Shape


def render_brightfield(rng: np.random.Generator, background: Map, shapes: list[Shape]) -> Map:
    """Return the background with similar objects: dark, or grey with a dark rim, textured, often with a halo."""
    pixels = background.copy()
    opacity = rng.uniform(0.06, 0.75) if rng.random() < 0.75 else 0.0
    rim = rng.uniform(0.2, 0.75) if opacity < 0.2 or rng.random() < 0.6 else 0.0
    rim_width = rng.uniform(0.03, 0.14)
    halo = rng.uniform(0.05, 0.4) if rng.random() < 0.5 else 0.0
    halo_width = rng.uniform(0.03, 0.15)
    texture, grain = rng.choice([0.02, 0.08, 0.2]), rng.uniform(0.05, 0.3)
    steep = rng.uniform(0.08, 0.9)
    core = rng.uniform(0.0, 0.5) if rng.random() < 0.3 else 0.0
    is_cobbled = rng.random() < 0.4
    for shape in shapes:
        depth, radius = shape.depth, shape.radius
        inside = np.clip(depth / 1.2 + 0.5, 0, 1)
        width = max(1.0, rim_width * radius)
        amount = opacity * float(np.clip(rng.normal(1, 0.15), 0.5, 1.3))
        shade = amount * np.clip(1 - np.exp(-np.clip(depth, 0, None) / (steep * radius)), 0, 1) ** 0.7
        shade = shade + amount * 0.35 * inside
        rim_shade = (
            rim
            * np.exp(-(((depth - 0.9 * width) / width) ** 2))
            * np.clip(1 + 0.4 * _angular_pattern(rng, shape), 0, 2)
        )
        cells = texture * smooth_noise(rng, (depth.shape[0], depth.shape[1]), max(2.0, grain * radius))
        if is_cobbled:  # bright cells with dark seams
            cells = 1.5 * (texture - np.abs(cells))
        shade = shade + rim_shade + cells * inside * (0.4 + 0.6 * opacity)
        if core:
            shade = shade + core * np.clip((depth - 0.4 * radius) / (0.3 * radius), 0, 1)
        light = 1 - np.clip(shade, -0.4, 0.95) * inside
        if halo:
            beyond = max(1.0, halo_width * radius)
            light = light + halo * np.exp(-(((depth + beyond) / beyond) ** 2)) * (1 - inside)
        pixels[shape.window] *= light.astype(np.float32)
    return pixels


def render_cysts(rng: np.random.Generator, background: Map, shapes: list[Shape]) -> Map:
    """Return the background with hollow objects: a thin dark wall, often with a bright line, and a grey lumen."""
    pixels = background.copy()
    wall, width = rng.uniform(0.25, 0.75), rng.uniform(0.04, 0.16)
    bright = rng.uniform(0, 0.35)
    lumen = rng.normal(0.03, 0.06)
    for shape in shapes:
        depth, radius = shape.depth, shape.radius
        inside = np.clip(depth / 1.2 + 0.5, 0, 1)
        thick = max(0.9, width * radius)
        strength = wall * float(np.clip(rng.normal(1, 0.25), 0.5, 1.4))
        light = 1 - strength * np.exp(-(((depth - thick) / thick) ** 2)) * inside
        light = light + bright * np.exp(-(((depth - 3 * thick) / thick) ** 2)) * inside
        light = light + 0.7 * bright * np.exp(-(((depth + thick) / thick) ** 2)) * (1 - inside)
        spots = smooth_noise(rng, (depth.shape[0], depth.shape[1]), max(2.0, 0.2 * radius))
        filled = rng.uniform(0.1, 0.45) if rng.random() < 0.2 else 0.0
        light = light - (lumen + filled + rng.uniform(0, 0.08) * spots) * inside
        pixels[shape.window] *= np.clip(light, 0.03, None).astype(np.float32)
    return pixels


def render_fluorescence(rng: np.random.Generator, background: Map, shapes: list[Shape]) -> Map:
    """Return the background with bright objects: dome or plateau, patchy or one-sided expression, glow."""
    pixels = background.copy()
    dome = rng.choice([0.0, 0.3, 0.6, 1.0])
    patchy, grain = rng.choice([0.0, 0.1, 0.3]), rng.uniform(0.08, 0.5)
    one_sided = rng.uniform(0.2, 0.8) if rng.random() < 0.25 else 0.0
    spread = rng.choice([0.05, 0.3, 0.6])
    hollow = rng.uniform(0.2, 0.6) if rng.random() < 0.15 else 0.0
    light = np.zeros_like(pixels)
    for shape in shapes:
        depth, radius = shape.depth, shape.radius
        inside = np.clip(depth / 1.2 + 0.5, 0, 1)
        along = np.clip(depth / radius, 0, 1)
        thickness = np.sqrt(np.clip(1 - (1 - along) ** 2, 0, 1))
        value = (1 - dome) + dome * (0.15 + 0.85 * thickness)
        value = value * np.clip(
            1 + patchy * smooth_noise(rng, (depth.shape[0], depth.shape[1]), max(2.0, grain * radius)), 0.15, 3
        )
        if one_sided:
            value = value * np.clip(1 + one_sided * _linear_pattern(rng, shape), 0.2, None)
        if hollow:
            value = value * (1 - hollow * np.clip((along - 0.4) / 0.4, 0, 1))
        level = math.exp(rng.normal(0, spread))
        window = light[shape.window]
        light[shape.window] = np.maximum(window, (level * value * inside).astype(np.float32))
    if rng.random() < 0.5 and shapes:
        glow = cv2.GaussianBlur(light, (0, 0), max(1.0, shapes[0].radius * rng.uniform(0.15, 0.6)))
        light = light + rng.uniform(0.03, 0.25) * glow
    return np.asarray(pixels + light * rng.uniform(0.4, 1.0), np.float32)


def _angular_pattern(rng: np.random.Generator, shape: Shape) -> Map:
    """Return values -1..1 by the direction from the object's centre, so that a rim is darker on one side."""
    rows, columns = shape.window
    y, x = np.mgrid[rows, columns].astype(np.float32)
    angle = np.arctan2(y - shape.centre[1], x - shape.centre[0])
    return np.asarray(np.cos(int(rng.integers(1, 4)) * angle + rng.uniform(0, 2 * math.pi)), np.float32)


def _linear_pattern(rng: np.random.Generator, shape: Shape) -> Map:
    """Return values that rise from -1 to 1 from one side of the object to the other."""
    rows, columns = shape.window
    y, x = np.mgrid[rows, columns].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    value = (x - shape.centre[0]) * math.cos(angle) + (y - shape.centre[1]) * math.sin(angle)
    return np.asarray(np.clip(value / (1.5 * shape.radius), -1, 1), np.float32)
