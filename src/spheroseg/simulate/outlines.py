"""Outlines of spheroids: not quite round, slowly changing, and of exactly the area that is asked for."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
Waves = npt.NDArray[np.float64]

ORDERS = np.arange(2, 25)
ROUGH = 0.035  # sd of the second wave, in parts of the radius; higher ones are smaller
BUMPY = 0.0022  # the same of the waves that are as long as a few cells
BREATH = 0.35  # share of a wave that comes and goes
STEPS = 8192  # directions in which the radius is known


@dataclass(frozen=True, eq=False)
class Wobble:
    """How one spheroid differs from a disk over time. `place` and `path`: px from the middle of the picture."""

    heights: Waves
    phases: Waves
    periods_h: Waves
    place: Waves
    path: Waves

    @classmethod
    def of(cls, rng: np.random.Generator, size: int) -> "Wobble":
        count = len(ORDERS)
        return cls(
            heights=rng.normal(0, 1, count) * np.hypot(ROUGH / (ORDERS / 2) ** 1.7, BUMPY),
            phases=rng.uniform(0, 2 * math.pi, (2, count)),
            periods_h=rng.uniform(80, 300, count),
            place=np.clip(rng.normal(0, 0.02 * size, 2), -0.04 * size, 0.04 * size),
            path=rng.uniform(-0.012 * size, 0.012 * size, (2, 2)),
        )

    def at(self, hours: float, area_px2: float, size: int) -> "Outline":
        waves = self.heights * (1 + BREATH * np.sin(2 * math.pi * hours / self.periods_h + self.phases[1]))
        turn = 2 * math.pi * hours / 200
        drift = self.path[0] * math.sin(turn) + self.path[1] * (math.cos(turn) - 1)
        x, y = size / 2 + self.place + drift
        # The area of r(θ) = R (1 + Σ a cos(kθ + φ)) is π R² (1 + Σ a² / 2).
        radius = math.sqrt(area_px2 / (math.pi * (1 + float(np.sum(waves**2)) / 2)))
        return Outline(float(x), float(y), radius, waves, self.phases[0])


@dataclass(frozen=True, eq=False)
class Outline:
    """`x`, `y`, `radius`: px, from the outer corner of the top left pixel."""

    x: float
    y: float
    radius: float
    waves: Waves
    phases: Waves

    def radii(self, angles: Waves) -> Waves:
        """px, in directions (radians)."""
        return np.asarray(self.radius * (1 + np.cos(np.outer(angles, ORDERS) + self.phases) @ self.waves))

    def depth(self, size: int) -> tuple[Map, Map]:
        """Of each pixel's centre: the distance to the outline, px, positive inside; and its direction, radians.

        The distance is exact near the outline, which is where it counts.
        """
        angles = np.linspace(0, 2 * math.pi, STEPS, endpoint=False)
        radii = self.radii(angles)
        slopes = -self.radius * (np.sin(np.outer(angles, ORDERS) + self.phases) @ (self.waves * ORDERS))
        tilts = 1 / np.sqrt(1 + (slopes / radii) ** 2)
        across = np.arange(size, dtype=np.float32) + np.float32(0.5)
        x, y = np.meshgrid(across - np.float32(self.x), across - np.float32(self.y))
        away, direction = cv2.cartToPolar(x, y)
        index = (direction * np.float32(STEPS / (2 * math.pi)) + np.float32(0.5)).astype(np.int32) % STEPS
        depth = (radii.astype(np.float32)[index] - away) * tilts.astype(np.float32)[index]
        return np.asarray(depth, np.float32), np.asarray(direction, np.float32)


def coverage(depth: Map) -> Map:
    """The share of each pixel that lies inside."""
    return np.asarray(np.clip(depth + np.float32(0.5), 0, 1), np.float32)
