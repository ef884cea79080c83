"""Makes outlines of spheroids that are nearly round, change slowly, and enclose exactly a given area."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.simulate.noise import Map

Waves = npt.NDArray[np.float64]

ORDERS = np.arange(2, 25)  # of the Fourier series of the radius
# Standard deviations of the amplitudes, in units of the radius:
ROUGHNESS = 0.035  # of the second order; higher orders are smaller
BUMPINESS = 0.0022  # of the orders whose wavelength is a few cells
PULSATION = 0.35  # share of an amplitude that varies over time
DIRECTIONS = 8192  # number of directions in which the radius is computed


@dataclass(frozen=True, eq=False)
class ShapeSeries:
    """The deviation of one spheroid from a disk over time.

    `amplitudes` (n), `phases` (2, n) and `periods_h` (n) are those of the Fourier series. `offset` (2) and `drift`
    (2, 2): px from the middle of the picture.
    """

    amplitudes: Waves
    phases: Waves
    periods_h: Waves
    offset: Waves
    drift: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> "ShapeSeries":
        """Draw a random spheroid for pictures of `size` × `size` px."""
        count = len(ORDERS)
        return cls(
            amplitudes=rng.normal(0, 1, count) * np.hypot(ROUGHNESS / (ORDERS / 2) ** 1.7, BUMPINESS),
            phases=rng.uniform(0, 2 * math.pi, (2, count)),
            periods_h=rng.uniform(80, 300, count),
            offset=np.clip(rng.normal(0, 0.02 * size, 2), -0.04 * size, 0.04 * size),
            drift=rng.uniform(-0.012 * size, 0.012 * size, (2, 2)),
        )

    def outline_at(self, hours: float, area_px2: float, size: int) -> "PolarOutline":
        """Return the outline at a time, in a picture of `size` × `size` px."""
        pulsation = 1 + PULSATION * np.sin(2 * math.pi * hours / self.periods_h + self.phases[1])
        amplitudes = self.amplitudes * pulsation
        turn = 2 * math.pi * hours / 200
        drift = self.drift[0] * math.sin(turn) + self.drift[1] * (math.cos(turn) - 1)
        x, y = size / 2 + self.offset + drift
        # The area of r(θ) = R (1 + Σ a cos(kθ + φ)) is π R² (1 + Σ a² / 2).
        radius = math.sqrt(area_px2 / (math.pi * (1 + float(np.sum(amplitudes**2)) / 2)))
        return PolarOutline(float(x), float(y), radius, amplitudes, self.phases[0])


@dataclass(frozen=True, eq=False)
class PolarOutline:
    """An outline r(θ) = R (1 + Σ a cos(kθ + φ)). `x`, `y`, `radius`: px, from the corner of the top left pixel."""

    x: float
    y: float
    radius: float
    amplitudes: Waves
    phases: Waves

    def radii(self, angles: Waves) -> Waves:
        """Return the distances, px, of the outline from its centre in directions (radians, shape (n,))."""
        return np.asarray(self.radius * (1 + np.cos(np.outer(angles, ORDERS) + self.phases) @ self.amplitudes))

    def depth(self, size: int) -> tuple[Map, Map]:
        """Return for each pixel the distance to the outline (px, positive inside) and its direction (radians).

        Both are float32 (size, size). The distance is exact near the outline, where it matters.
        """
        angles = np.linspace(0, 2 * math.pi, DIRECTIONS, endpoint=False)
        radii = self.radii(angles)
        slopes = -self.radius * (np.sin(np.outer(angles, ORDERS) + self.phases) @ (self.amplitudes * ORDERS))
        tilts = 1 / np.sqrt(1 + (slopes / radii) ** 2)
        across = np.arange(size, dtype=np.float32) + np.float32(0.5)
        x, y = np.meshgrid(across - np.float32(self.x), across - np.float32(self.y))
        distance, direction = cv2.cartToPolar(x, y)
        index = (direction * np.float32(DIRECTIONS / (2 * math.pi)) + np.float32(0.5)).astype(np.int32) % DIRECTIONS
        depth = (radii.astype(np.float32)[index] - distance) * tilts.astype(np.float32)[index]
        return np.asarray(depth, np.float32), np.asarray(direction, np.float32)


def coverage(depth: Map) -> Map:
    """Return the share, 0..1, of each pixel that lies inside."""
    return np.asarray(np.clip(depth + np.float32(0.5), 0, 1), np.float32)
