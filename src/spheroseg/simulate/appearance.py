"""Renders a spheroid as a brightfield microscope shows it: dark rim, grainy inside, uneven light, loose cells, noise.

The light changes at the true outline, in proportion to the covered share of a pixel, and the blur is symmetric. The
rim stays dark for a few px, so that the light is half-way between background and rim exactly at the outline.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.simulate.noise import Map, smooth_noise
from spheroseg.simulate.outlines import PolarOutline, coverage

BLUR_UM = 1.6  # standard deviation of the lens
MIN_BLUR_PX = 0.5  # the pixels of a camera alone blur this much
RIM_WIDTH = 0.035  # of the radius, but at least four times the blur
BACKGROUND_LEVEL = 0.72  # of full scale: brightness of the empty background
MIN_GAP_PX = 6.0  # between the spheroid and a loose cell
NOISE_BLUR = 0.8  # grid points, see `smooth_noise`


@dataclass(frozen=True, eq=False)
class Appearance:
    """The properties of a well that are the same, or change slowly, in all its pictures.

    `blur`: px. `background`, `clouds`, `grain`: float32 (size, size). `opacity`, `rim`: share of the light that is
    absorbed, 0..1. `asymmetry`: amplitude and direction (radians) of the variation of the rim. `specks`: loose cells,
    see `_draw_specks`.
    """

    blur: float
    background: Map
    clouds: tuple[Map, Map]
    grain: tuple[Map, Map]
    opacity: float
    rim: float
    asymmetry: tuple[float, float]
    specks: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int, pixel_size_um: float, debris: float) -> "Appearance":
        """Draw the appearance of a well in pictures of `size` × `size` px. `debris`: mean number of loose cells."""
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
        tilt, bow = rng.normal(0, 0.05, 2), rng.uniform(0.01, 0.08)
        background = 1 + np.float32(tilt[0]) * x + np.float32(tilt[1]) * y - np.float32(bow) * (x * x + y * y)
        cell = max(2.0, 9 / pixel_size_um)
        return cls(
            blur=max(MIN_BLUR_PX, BLUR_UM / pixel_size_um),
            background=np.asarray(background, np.float32),
            clouds=(
                smooth_noise(rng, (size, size), 0.35 * size, NOISE_BLUR),
                smooth_noise(rng, (size, size), 0.2 * size, NOISE_BLUR),
            ),
            grain=(_draw_grain(rng, size, cell), _draw_grain(rng, size, cell)),
            opacity=rng.uniform(0.2, 0.42),
            rim=rng.uniform(0.5, 0.68),
            asymmetry=(rng.uniform(0.05, 0.3), rng.uniform(0, 2 * math.pi)),
            specks=_draw_specks(rng, size, pixel_size_um, debris),
        )


def render(
    appearance: Appearance, outline: PolarOutline | None, hours: float, rng: np.random.Generator, noise: float
) -> Map:
    """Return the light at a time, float32 (size, size), 0..1 of full scale.

    `outline`: None for a well without a spheroid. `noise`: standard deviation on the background, in units of 1/255
    of full scale. The variance is proportional to the light, as for photons.
    """
    turn = hours / 120
    background = (
        appearance.background
        + np.float32(0.035) * appearance.clouds[0]
        + np.float32(0.02 * math.cos(turn)) * appearance.clouds[1]
    )
    size = len(background)
    light = background
    if outline is not None:
        depth, direction = outline.depth(size)
        cover = coverage(depth)
        light = background * (
            _inner_light(appearance, outline, depth, direction, turn) * cover
            + _outer_light(outline, depth) * (1 - cover)
        )
    light = _add_specks(appearance, outline, light)
    light = cv2.GaussianBlur(light, (0, 0), appearance.blur) * np.float32(BACKGROUND_LEVEL * rng.normal(1, 0.006))
    if noise:
        values = rng.standard_normal(light.shape, np.float32)
        light = (
            light + np.float32(noise / 255) * np.sqrt(np.maximum(light, 0) / np.float32(BACKGROUND_LEVEL)) * values
        )
    return np.asarray(np.clip(light, 0, 1), np.float32)


def _inner_light(appearance: Appearance, outline: PolarOutline, depth: Map, direction: Map, turn: float) -> Map:
    along = np.clip(depth / np.float32(outline.radius), 0, 1)
    thickness = np.sqrt(along * (2 - along))
    grain = np.float32(math.cos(turn)) * appearance.grain[0] + np.float32(math.sin(turn)) * appearance.grain[1]
    width = max(4 * appearance.blur, RIM_WIDTH * outline.radius)
    beyond = np.maximum(depth - np.float32(width), 0) / np.float32(width)
    amount, direction_of_maximum = appearance.asymmetry
    rim = (
        np.float32(appearance.rim)
        * (1 + np.float32(amount) * np.cos(direction + np.float32(direction_of_maximum)))
        * np.exp(-beyond * beyond)
    )
    # Grain is hardly visible where the rim is dark.
    textured = np.float32(0.16) * grain * (1 - np.exp(-beyond * beyond))
    return np.asarray(np.clip(1 - np.float32(appearance.opacity) * thickness - rim + textured, 0.06, 1.3), np.float32)


def _outer_light(outline: PolarOutline, depth: Map) -> Map:
    return 1 + np.float32(0.05) * np.exp(np.minimum(depth, 0) / np.float32(0.1 * outline.radius))


def _draw_specks(rng: np.random.Generator, size: int, pixel_size_um: float, debris: float) -> npt.NDArray[np.float64]:
    """Draw loose cells, one row each: (near, first, second, radius, darkness), lengths in px.

    With `near` 1 the cell lies beside the spheroid, and first and second are its direction (radians) and its gap.
    With `near` 0 they are x and y.
    """
    beside = rng.poisson(0.6 * debris)
    count = beside + rng.poisson(0.4 * debris)
    # Loose cells gather on one side, as if the medium had carried them.
    direction = rng.normal(rng.uniform(0, 2 * math.pi), 0.7, count)
    gap = MIN_GAP_PX + rng.exponential(0.03 * size, count)
    near = np.arange(count) < beside
    position = np.where(near[:, None], np.column_stack([direction, gap]), rng.uniform(0, size, (count, 2)))
    radius = np.maximum(rng.uniform(3.5, 7, count) / pixel_size_um, 1.0)
    return np.column_stack([near, position, radius, rng.uniform(0.2, 0.6, count)])


def _add_specks(appearance: Appearance, outline: PolarOutline | None, light: Map) -> Map:
    size = len(light)
    light = light.copy()
    for near, first, second, radius, dark in appearance.specks:
        x, y = first, second
        if near:
            # In a well without a spheroid, the cells lie around the middle of the picture.
            edge = float(outline.radii(np.array([first]))[0]) if outline else 0.0
            middle = (outline.x, outline.y) if outline else (size / 2, size / 2)
            distance = edge + second + radius
            x, y = middle[0] + distance * math.cos(first), middle[1] + distance * math.sin(first)
        if outline and _gap(outline, x, y) < MIN_GAP_PX + radius:
            continue
        left, top, reach = int(x - radius) - 2, int(y - radius) - 2, math.ceil(2 * radius) + 5
        if min(left, top) < 0 or max(left, top) + reach > size:
            continue
        columns, rows = np.arange(left, left + reach) + 0.5 - x, np.arange(top, top + reach) + 0.5 - y
        inside = radius - np.hypot(columns[None, :], rows[:, None])
        # A round cell has a dark edge around a bright middle.
        wall = np.clip(inside + 0.5, 0, 1) - 1.3 * np.clip(inside - 0.45 * radius, 0, 1)
        light[top : top + reach, left : left + reach] *= (1 - dark * wall).astype(np.float32)
    return light


def _gap(outline: PolarOutline, x: float, y: float) -> float:
    """Return the distance, px, of a point from the outline; negative inside."""
    dx, dy = x - outline.x, y - outline.y
    return math.hypot(dx, dy) - float(outline.radii(np.array([math.atan2(dy, dx)]))[0])


def _draw_grain(rng: np.random.Generator, size: int, cell: float) -> Map:
    """Draw the texture of cells and groups of cells: few dark spots of high contrast, and many bright ones of low."""
    shape = size, size
    fine, coarse = smooth_noise(rng, shape, cell, NOISE_BLUR), smooth_noise(rng, shape, 3 * cell, NOISE_BLUR)
    mixed = 0.8 * fine + 0.6 * coarse
    return np.asarray(mixed - 0.18 * (mixed * mixed - 1), np.float32)
