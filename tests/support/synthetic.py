"""Test pictures and outlines whose true measurements are known."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from spheroseg.segmentation.contours import Outline, Polygon
from spheroseg.segmentation.maps import Maps

CAMERAS = [(1024, 1024), (1080, 1920), (3000, 4096)]  # height, width
Picture = npt.NDArray[np.float32]


def ellipse(
    a: float, b: float, angle_deg: float = 0.0, centre: tuple[float, float] = (0.0, 0.0), points: int = 20_000
) -> Polygon:
    """Return an ellipse, clockwise on the screen, with semi-axes `a` and `b` (px). The angle is anticlockwise."""
    t = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return np.asarray(rotated(np.column_stack([a * np.cos(t), b * np.sin(t)]), angle_deg) + np.array(centre))


def rotated(polygon: Polygon, angle_deg: float) -> Polygon:
    angle = math.radians(angle_deg)
    x, y = polygon.T
    return np.column_stack([x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)])


def rectangle(width: float, height: float, left: float = 0.0, top: float = 0.0) -> Polygon:
    return np.asarray([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], float)


def as_hole(polygon: Polygon) -> Polygon:
    return polygon[::-1].copy()


def coverage(
    height: int,
    width: int,
    a: float,
    b: float,
    angle_deg: float,
    centre: tuple[float, float],
    softness: float = 1.0,
) -> Picture:
    """Return the share (0..1) of each pixel that an ellipse covers; with a wider `softness`, a soft map."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    angle = math.radians(angle_deg)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    u = dx * math.cos(angle) - dy * math.sin(angle)
    v = dx * math.sin(angle) + dy * math.cos(angle)
    level = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    # The distance to the ellipse, to first order, is (level − 1) / |gradient of the level|.
    slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) / np.maximum(level, 1e-6)
    cover = np.clip(0.5 + (1 - level) / np.maximum(slope * softness, 1e-6), 0, 1)
    return np.asarray(cover, np.float32)


def photograph(
    cover: Picture, ground: float = 200.0, object_: float = 80.0, blur: float = 1.0, noise: float = 0.0
) -> Picture:
    """Return the grey values of a covered field through a slightly soft lens, rounded to whole numbers."""
    picture = cv2.GaussianBlur(ground + (object_ - ground) * cover, (0, 0), blur)
    if noise:
        picture = picture + np.random.default_rng(7).normal(0, noise, picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.float32)


def png(pixels: npt.NDArray[Any]) -> io.BytesIO:
    file = io.BytesIO()
    Pillow.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


def outline(outer: Polygon, *holes: Polygon) -> Outline:
    return Outline(outer, tuple(as_hole(hole) for hole in holes))


@dataclass
class FixedModel:
    """A model that returns one given map for any picture."""

    answer: Picture
    distance: Picture | None = None
    name: str = "fixed"
    version: str = "0"
    sha256: str = "0" * 64

    def maps(self, pictures: Sequence[Picture]) -> list[Maps]:
        return [Maps(self.answer, self.distance) for _ in pictures]


def disks(shape: tuple[int, int], places: Sequence[tuple[float, float, float]], softness: float = 2.0) -> Maps:
    """Return the maps of a perfect model for disks (x, y, radius; px). Disks that overlap are divided by a chord."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    level = np.stack([r * r - (x - cx) ** 2 - (y - cy) ** 2 for cx, cy, r in places])
    cover = np.zeros(shape, np.float32)
    distance = np.zeros(shape, np.float32)
    for number, (cx, cy, r) in enumerate(places):
        cover = np.maximum(cover, coverage(*shape, r, r, 0, (cx, cy), softness))
        own = ((level.argmax(axis=0) == number) & (level.max(axis=0) > 0)).astype(np.uint8)
        depth = cv2.distanceTransform(np.pad(own, 1, mode="edge"), cv2.DIST_L2, 5)[1:-1, 1:-1]
        distance = np.where(own > 0, depth / depth.max(), distance)
    return Maps(cover, np.asarray(distance, np.float32))
