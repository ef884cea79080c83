"""A spheroid as a brightfield microscope shows it: dark rim, grey grainy inside, uneven light, loose cells, noise.

The light changes at the true outline, in proportion to how much of a pixel lies inside, and what blurs it afterwards
blurs both sides alike. The rim stays as dark for a few px, so that the border is where the light is half-way.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.simulate.outlines import Map, Outline, coverage

BLUR_UM, LEAST_BLUR = 1.6, 0.5  # sd of the lens; no camera is sharper than so many px
RIM = 0.035  # radii, but at least four times the blur
GROUND = 0.72  # of full scale: how bright the empty ground is
GAP_PX = 6.0  # between the spheroid and a loose cell


@dataclass(frozen=True, eq=False)
class Look:
    """What of a well stays the same, or changes slowly, from picture to picture."""

    blur: float  # px
    ground: Map
    clouds: tuple[Map, Map]
    grain: tuple[Map, Map]
    opaque: float
    rim: float
    uneven: tuple[float, float]
    specks: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rng: np.random.Generator, size: int, pixel_size_um: float, debris: float) -> "Look":
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
        tilt, bow = rng.normal(0, 0.05, 2), rng.uniform(0.01, 0.08)
        ground = 1 + np.float32(tilt[0]) * x + np.float32(tilt[1]) * y - np.float32(bow) * (x * x + y * y)
        cell = max(2.0, 9 / pixel_size_um)
        return cls(
            blur=max(LEAST_BLUR, BLUR_UM / pixel_size_um),
            ground=np.asarray(ground, np.float32),
            clouds=(_noise(rng, size, 0.35 * size), _noise(rng, size, 0.2 * size)),
            grain=(_grain(rng, size, cell), _grain(rng, size, cell)),
            opaque=rng.uniform(0.2, 0.42),
            rim=rng.uniform(0.5, 0.68),
            uneven=(rng.uniform(0.05, 0.3), rng.uniform(0, 2 * math.pi)),
            specks=_specks(rng, size, pixel_size_um, debris),
        )


def photograph(look: Look, outline: Outline | None, hours: float, rng: np.random.Generator, noise: float) -> Map:
    """Light in parts of full scale, (size, size). `outline`: None for a well without spheroid.

    `noise`: sd where the ground is, in parts of 1/255 of full scale.
    """
    turn = hours / 120
    ground = look.ground + np.float32(0.035) * look.clouds[0] + np.float32(0.02 * math.cos(turn)) * look.clouds[1]
    size = len(ground)
    light = ground
    if outline is not None:
        depth, direction = outline.depth(size)
        cover = coverage(depth)
        light = ground * (
            _inside(look, outline, depth, direction, turn) * cover + _outside(outline, depth) * (1 - cover)
        )
    light = _with_specks(look, outline, light)
    light = cv2.GaussianBlur(light, (0, 0), look.blur) * np.float32(GROUND * rng.normal(1, 0.006))
    if noise:
        grains = rng.standard_normal(light.shape, np.float32)
        light = light + np.float32(noise / 255) * np.sqrt(np.maximum(light, 0) / np.float32(GROUND)) * grains
    return np.asarray(np.clip(light, 0, 1), np.float32)


def _inside(look: Look, outline: Outline, depth: Map, direction: Map, turn: float) -> Map:
    along = np.clip(depth / np.float32(outline.radius), 0, 1)
    thickness = np.sqrt(along * (2 - along))
    grain = np.float32(math.cos(turn)) * look.grain[0] + np.float32(math.sin(turn)) * look.grain[1]
    width = max(4 * look.blur, RIM * outline.radius)
    beyond = np.maximum(depth - np.float32(width), 0) / np.float32(width)
    amount, side = look.uneven
    rim = (
        np.float32(look.rim)
        * (1 + np.float32(amount) * np.cos(direction + np.float32(side)))
        * np.exp(-beyond * beyond)
    )
    # Where the rim is dark the grain is hardly seen.
    textured = np.float32(0.16) * grain * (1 - np.exp(-beyond * beyond))
    return np.asarray(np.clip(1 - np.float32(look.opaque) * thickness - rim + textured, 0.06, 1.3), np.float32)


def _outside(outline: Outline, depth: Map) -> Map:
    return 1 + np.float32(0.05) * np.exp(np.minimum(depth, 0) / np.float32(0.1 * outline.radius))


def _specks(rng: np.random.Generator, size: int, pixel_size_um: float, debris: float) -> npt.NDArray[np.float64]:
    """Of each: is it beside the spheroid; then direction and gap (px), or x and y (px); radius (px), darkness."""
    beside = rng.poisson(0.6 * debris)
    count = beside + rng.poisson(0.4 * debris)
    # Loose cells gather where the medium carried them.
    direction = rng.normal(rng.uniform(0, 2 * math.pi), 0.7, count)
    gap = GAP_PX + rng.exponential(0.03 * size, count)
    near = np.arange(count) < beside
    place = np.where(near[:, None], np.column_stack([direction, gap]), rng.uniform(0, size, (count, 2)))
    radius = np.maximum(rng.uniform(3.5, 7, count) / pixel_size_um, 1.0)
    return np.column_stack([near, place, radius, rng.uniform(0.2, 0.6, count)])


def _with_specks(look: Look, outline: Outline | None, light: Map) -> Map:
    size = len(light)
    light = light.copy()
    for near, first, second, radius, dark in look.specks:
        x, y = first, second
        if near:
            # In an empty well they lie around its middle.
            edge = float(outline.radii(np.array([first]))[0]) if outline else 0.0
            middle = (outline.x, outline.y) if outline else (size / 2, size / 2)
            away = edge + second + radius
            x, y = middle[0] + away * math.cos(first), middle[1] + away * math.sin(first)
        if outline and _gap(outline, x, y) < GAP_PX + radius:
            continue
        left, top, reach = int(x - radius) - 2, int(y - radius) - 2, math.ceil(2 * radius) + 5
        if min(left, top) < 0 or max(left, top) + reach > size:
            continue
        columns, rows = np.arange(left, left + reach) + 0.5 - x, np.arange(top, top + reach) + 0.5 - y
        inside = radius - np.hypot(columns[None, :], rows[:, None])
        # A round cell: a dark edge around a bright middle.
        wall = np.clip(inside + 0.5, 0, 1) - 1.3 * np.clip(inside - 0.45 * radius, 0, 1)
        light[top : top + reach, left : left + reach] *= (1 - dark * wall).astype(np.float32)
    return light


def _gap(outline: Outline, x: float, y: float) -> float:
    dx, dy = x - outline.x, y - outline.y
    return math.hypot(dx, dy) - float(outline.radii(np.array([math.atan2(dy, dx)]))[0])


def _grain(rng: np.random.Generator, size: int, cell: float) -> Map:
    """Cells and groups of them: dark ones are few and darker, bright ones many."""
    mixed = 0.8 * _noise(rng, size, cell) + 0.6 * _noise(rng, size, 3 * cell)
    return np.asarray(mixed - 0.18 * (mixed * mixed - 1), np.float32)


def _noise(rng: np.random.Generator, size: int, scale: float) -> Map:
    """Smooth random values of mean 0 and sd 1 whose structures measure about `scale` px."""
    coarse = max(1.0, scale / 2)
    cells = max(2, math.ceil(size / coarse) + 3)
    values = cv2.GaussianBlur(rng.standard_normal((cells, cells), np.float32), (0, 0), 0.8)
    side = max(size, math.ceil(cells * coarse))
    grown = cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC)[:size, :size]
    return np.asarray((grown - grown.mean()) / (grown.std() + 1e-6), np.float32)
