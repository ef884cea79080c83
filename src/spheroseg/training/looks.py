"""How synthetic objects and their ground look under a microscope, as light (1 is the lit ground of a brightfield)."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.training.shapes import Map, Shape, noise

Mask = npt.NDArray[np.bool_]


def lit(rng: np.random.Generator, side: tuple[int, int], uneven: float = 0.2) -> Map:
    """The ground of a brightfield picture: uneven light, a vignette, clouds and streaks.

    `uneven`: how probable it is that the light is very uneven.
    """
    y, x = np.mgrid[-1 : 1 : side[0] * 1j, -1 : 1 : side[1] * 1j].astype(np.float32)
    tilt, bow = rng.normal(0, 0.1, 2), rng.normal(0, 0.05, 3)
    ground = 1 + tilt[0] * x + tilt[1] * y + bow[0] * x * x + bow[1] * y * y + bow[2] * x * y
    if rng.random() < 0.3:
        x0, y0 = rng.normal(0, 0.3, 2)
        ground = ground * np.clip(1 - rng.uniform(0.1, 0.6) * ((x - x0) ** 2 + (y - y0) ** 2) / 2, 0.05, None)
    ground = ground + rng.choice([0.005, 0.02, 0.05]) * noise(rng, side, max(side) * rng.uniform(0.08, 0.5))
    if rng.random() < 0.3:
        ground = ground + rng.uniform(0.003, 0.02) * noise(rng, side, rng.uniform(3, 12))
    if rng.random() < 0.15:
        streaks = cv2.resize(noise(rng, (side[0], 8), 6), (side[1], side[0]))
        ground = ground + rng.uniform(0.005, 0.03) * (streaks if rng.random() < 0.5 else streaks[:, ::-1])
    if rng.random() < uneven:
        ground = ground * _lamp(rng, side)
    if rng.random() < uneven:
        ground = ground * _plastic(rng, side)
    return np.asarray(np.clip(ground, 0.03, None), np.float32)


def _lamp(rng: np.random.Generator, side: tuple[int, int]) -> Map:
    """Light that falls in badly, all without edges: from one side, as a spot, through a stop, or past a shadow."""
    y, x = np.mgrid[0 : side[0], 0 : side[1]].astype(np.float32)
    longer = max(side)
    light = np.ones(side, np.float32)
    for _ in range(int(rng.integers(1, 3))):
        way = int(rng.integers(4))
        x0, y0 = side[1] * rng.uniform(-0.1, 1.1), side[0] * rng.uniform(-0.1, 1.1)
        angle, amount = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.8)
        along = ((x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)) / longer
        away = np.hypot(x - x0, (y - y0) * rng.uniform(0.7, 1.4)) / longer
        if way == 0:
            light = light * (1 - amount * np.clip(along / rng.uniform(0.5, 1.5) + 0.5, 0, 1))
        elif way == 1:
            light = light * (1 + rng.choice([-0.7, 1.0]) * amount * np.exp(-((away / rng.uniform(0.2, 0.6)) ** 2)))
        elif way == 2:
            middle = np.hypot(x - side[1] * rng.normal(0.5, 0.08), y - side[0] * rng.normal(0.5, 0.08)) / longer
            light = light * (1 - amount / (1 + np.exp((rng.uniform(0.35, 0.65) - middle) / rng.uniform(0.02, 0.1))))
        else:
            light = light * (1 - 0.6 * amount * np.exp(-((along / rng.uniform(0.05, 0.3)) ** 2)))
    return np.asarray(np.clip(light, 0.05, None), np.float32)


def _plastic(rng: np.random.Generator, side: tuple[int, int]) -> Map:
    """The bottom of a plate: scratches, rings of moulding, and stains whose outline is faint."""
    longer = max(side)
    marks = np.zeros(side, np.float32)
    for _ in range(int(rng.integers(0, 8))):
        start = rng.uniform(0, 1, 2) * np.array(side[::-1])
        end = start + rng.normal(0, 0.4 * longer, 2)
        points = [np.round(np.stack([start, end]) * 8).astype(np.int32)]
        cv2.polylines(marks, points, False, (float(rng.normal(0, 0.5)),), 1, cv2.LINE_8, 3)
    for _ in range(int(rng.choice([0, 1, 4], p=[0.5, 0.3, 0.2]))):
        place = (int(rng.uniform(-0.3, 1.3) * side[1]), int(rng.uniform(-0.3, 1.3) * side[0]))
        cv2.circle(marks, place, int(longer * rng.uniform(0.1, 0.9)), (float(rng.normal(0, 0.6)),), 1)
    marks = np.asarray(cv2.GaussianBlur(marks, (0, 0), rng.uniform(0.5, 2.5)), np.float32)
    stain = noise(rng, side, longer * rng.uniform(0.15, 0.5))
    marks = marks + rng.choice([0.0, 0.05, 0.12]) * np.tanh(2 * stain).astype(np.float32)
    return np.asarray(1 + rng.uniform(0.1, 0.6) * marks, np.float32)


def dark(rng: np.random.Generator, side: tuple[int, int]) -> Map:
    """The ground of a fluorescence picture: offset, glow, uneven background."""
    level = rng.choice([0.0, 0.02, 0.08, 0.2])
    clouds = rng.choice([0.0, 0.01, 0.03]) * noise(rng, side, max(side) * rng.uniform(0.1, 0.6))
    glow = rng.uniform(0.02, 0.25) * _lamp(rng, side) if rng.random() < 0.2 else 0.0
    return np.asarray(np.clip(level + clouds + glow, 0, None), np.float32)


def brightfield(rng: np.random.Generator, ground: Map, shapes: list[Shape]) -> Map:
    """Objects of one culture: dark, or grey with a dark rim, with texture, and often a halo around."""
    pixels = ground.copy()
    opaque = rng.uniform(0.06, 0.75) if rng.random() < 0.75 else 0.0
    rim = rng.uniform(0.2, 0.75) if opaque < 0.2 or rng.random() < 0.6 else 0.0
    rim_width = rng.uniform(0.03, 0.14)
    halo = rng.uniform(0.05, 0.4) if rng.random() < 0.5 else 0.0
    halo_width = rng.uniform(0.03, 0.15)
    texture, grain = rng.choice([0.02, 0.08, 0.2]), rng.uniform(0.05, 0.3)
    steep = rng.uniform(0.08, 0.9)
    core = rng.uniform(0.0, 0.5) if rng.random() < 0.3 else 0.0
    cobbled = rng.random() < 0.4
    for shape in shapes:
        depth, radius = shape.depth, shape.radius
        inside = np.clip(depth / 1.2 + 0.5, 0, 1)
        width = max(1.0, rim_width * radius)
        amount = opaque * float(np.clip(rng.normal(1, 0.15), 0.5, 1.3))
        shade = amount * np.clip(1 - np.exp(-np.clip(depth, 0, None) / (steep * radius)), 0, 1) ** 0.7
        shade = shade + amount * 0.35 * inside
        around = rim * np.exp(-(((depth - 0.9 * width) / width) ** 2)) * np.clip(1 + 0.4 * _around(rng, shape), 0, 2)
        cells = texture * noise(rng, (depth.shape[0], depth.shape[1]), max(2.0, grain * radius))
        if cobbled:  # bright cells with dark seams
            cells = 1.5 * (texture - np.abs(cells))
        shade = shade + around + cells * inside * (0.4 + 0.6 * opaque)
        if core:
            shade = shade + core * np.clip((depth - 0.4 * radius) / (0.3 * radius), 0, 1)
        light = 1 - np.clip(shade, -0.4, 0.95) * inside
        if halo:
            beyond = max(1.0, halo_width * radius)
            light = light + halo * np.exp(-(((depth + beyond) / beyond) ** 2)) * (1 - inside)
        pixels[shape.window] *= light.astype(np.float32)
    return pixels


def cysts(rng: np.random.Generator, ground: Map, shapes: list[Shape]) -> Map:
    """Hollow objects: a thin dark wall, often a bright line beside it, and a lumen like the ground."""
    pixels = ground.copy()
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
        spots = noise(rng, (depth.shape[0], depth.shape[1]), max(2.0, 0.2 * radius))
        filled = rng.uniform(0.1, 0.45) if rng.random() < 0.2 else 0.0
        light = light - (lumen + filled + rng.uniform(0, 0.08) * spots) * inside
        pixels[shape.window] *= np.clip(light, 0.03, None).astype(np.float32)
    return pixels


def fluorescent(rng: np.random.Generator, ground: Map, shapes: list[Shape]) -> Map:
    """Bright objects on dark: dome or plateau, patchy or one-sided expression, glow."""
    pixels = ground.copy()
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
            1 + patchy * noise(rng, (depth.shape[0], depth.shape[1]), max(2.0, grain * radius)), 0.15, 3
        )
        if one_sided:
            value = value * np.clip(1 + one_sided * _across(rng, shape), 0.2, None)
        if hollow:
            value = value * (1 - hollow * np.clip((along - 0.4) / 0.4, 0, 1))
        level = math.exp(rng.normal(0, spread))
        window = light[shape.window]
        light[shape.window] = np.maximum(window, (level * value * inside).astype(np.float32))
    if rng.random() < 0.5 and shapes:
        glow = cv2.GaussianBlur(light, (0, 0), max(1.0, shapes[0].radius * rng.uniform(0.15, 0.6)))
        light = light + rng.uniform(0.03, 0.25) * glow
    return np.asarray(pixels + light * rng.uniform(0.4, 1.0), np.float32)


def littered(
    rng: np.random.Generator, pixels: Map, objects: Mask, radius: float, bright_field: bool, heavy: bool = False
) -> Map:
    """Debris: single cells, clumps beside the objects, fibres, and specks out of focus; much smaller than them.

    `radius`: px, of a typical object. `heavy`: a lot of it.
    """
    side = (pixels.shape[0], pixels.shape[1])
    light = np.zeros(side, np.float32)
    size = max(0.8, min(0.16 * radius, 0.03 * min(side)))
    number = int(rng.choice([0, 5, 25, 120], p=[0.25, 0.3, 0.3, 0.15]))
    if heavy:
        number = int(rng.integers(20, 250))
    heaps = rng.uniform(0, 1, (3, 2)) * np.array(side[::-1]) if rng.random() < (0.6 if heavy else 0.1) else None
    near = objects.any() and rng.random() < 0.5
    rows, columns = (
        np.nonzero(cv2.dilate(objects.astype(np.uint8), np.ones((5, 5), np.uint8), iterations=max(1, int(size))))
        if near
        else (np.empty(0), np.empty(0))
    )
    for _ in range(number):
        if near and len(rows) and rng.random() < 0.7:
            at = int(rng.integers(len(rows)))
            x, y = columns[at] + rng.normal(0, 4 * size), rows[at] + rng.normal(0, 4 * size)
        elif heaps is not None and rng.random() < 0.6:
            x, y = heaps[int(rng.integers(len(heaps)))] + rng.normal(0, 4 * size, 2)
        else:
            x, y = rng.uniform(0, side[1]), rng.uniform(0, side[0])
        spot = size * rng.uniform(0.4, 1.2)
        axes = (max(3, round(spot * 8)), max(3, round(spot * rng.uniform(0.6, 1) * 8)))
        value = float(rng.uniform(0.2, 1.0)) * (1 if rng.random() < 0.8 else -0.6)
        place = (round(float(x) * 8), round(float(y) * 8))
        cv2.ellipse(light, place, axes, float(rng.uniform(0, 180)), 0, 360, (value,), -1, cv2.LINE_8, 3)
        if bright_field and spot > 1.5 and rng.random() < 0.6:
            inner = (max(2, round(axes[0] * 0.5)), max(2, round(axes[1] * 0.5)))
            cv2.ellipse(light, place, inner, 0, 0, 360, (-0.3 * value,), -1, cv2.LINE_8, 3)
    for _ in range(int(rng.choice([0, 1, 3], p=[0.8, 0.15, 0.05]))):
        points = np.cumsum(rng.normal(0, 0.06 * max(side), (6, 2)), axis=0) + rng.uniform(0, 1, 2) * np.array(
            side[::-1]
        )
        curve = [np.round(points * 8).astype(np.int32)]
        cv2.polylines(light, curve, False, (float(rng.uniform(0.2, 0.7)),), 1, cv2.LINE_8, 3)
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 1.2)), np.float32)
    if rng.random() < 0.25:
        soft = np.zeros(side, np.float32)
        for _ in range(int(rng.integers(1, 12))):
            place = (int(rng.uniform(0, side[1])), int(rng.uniform(0, side[0])))
            cv2.circle(soft, place, max(1, round(size * rng.uniform(0.8, 2))), (float(rng.uniform(0.2, 0.6)),), -1)
        light = light + cv2.GaussianBlur(soft, (0, 0), 1.0 + size)
    # Over an object, a cell in front of it is hardly seen.
    light = light * np.where(objects, 0.3, 1.0)
    strength = rng.uniform(0.15, 0.7)
    if bright_field:
        return np.asarray(pixels * np.clip(1 - strength * light, 0.05, 1.8), np.float32)
    return np.asarray(pixels + np.clip(light, 0, None) * strength * max(0.1, float(pixels.max())), np.float32)


def walled(rng: np.random.Generator, pixels: Map, bright_field: bool) -> tuple[Map, Mask]:
    """The wall of a round well, the side of a channel, or a black margin, in a corner or along an edge.

    Also says what of the scene it hides.
    """
    height, width = pixels.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    longer = max(height, width)
    if rng.random() < 0.7:
        radius = longer * rng.uniform(0.5, 1.1)
        angle = rng.uniform(0, 2 * math.pi)
        away = radius - longer * rng.uniform(0.3, 0.5)
        x0, y0 = width / 2 + away * math.cos(angle), height / 2 + away * math.sin(angle)
        if rng.random() < 0.3:
            x0, y0, radius = width / 2, height / 2, longer * rng.uniform(0.47, 0.65)
        beyond = np.hypot(x - x0, y - y0) - radius
    else:
        angle = rng.choice([0, math.pi / 2, math.pi, 1.5 * math.pi]) + rng.normal(0, 0.05)
        beyond = (x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)
        beyond = beyond - rng.uniform(0.4, 0.49) * (width if abs(math.cos(angle)) > 0.7 else height)
    outside = np.clip(beyond + 0.5, 0, 1)
    thick = longer * rng.uniform(0.003, 0.03)
    if not bright_field:
        level = rng.uniform(0, 0.3) * float(pixels.max())
        shine = level * np.exp(-((beyond / thick) ** 2))
        return np.asarray(pixels + shine, np.float32), np.zeros(pixels.shape, np.bool_)
    level = float(np.median(pixels))
    far = rng.choice([0.0, 0.1, 0.4, 0.8, 1.2])
    pixels = pixels * (1 - outside) + outside * (
        far * level + (0.0 if far < 0.05 else 0.04 * level * noise(rng, (height, width), 6))
    )
    if rng.random() < 0.7:
        pixels = pixels * (1 - rng.uniform(0.2, 0.9) * np.exp(-((beyond / thick) ** 2)))
    if rng.random() < 0.4:
        pixels = pixels + level * rng.uniform(0.1, 0.5) * np.exp(-(((beyond + 2 * thick) / thick) ** 2))
    return np.asarray(np.clip(pixels, 0, None), np.float32), beyond > 0


def photographed(rng: np.random.Generator, pixels: Map, bright_field: bool, radius: float) -> Map:
    """Lens and camera: defocus, noise, exposure and saturation, polarity, JPEG. Grey values 0..255."""
    blur = rng.choice([0.4, 0.8, 1.5, 0.08 * radius], p=[0.35, 0.35, 0.15, 0.15])
    pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(np.clip(blur, 0.3, 8))), np.float32)
    if rng.random() < 0.15:  # what cameras do to please the eye
        soft = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.8, 3))
        pixels = np.clip(pixels + rng.uniform(0.3, 1.2) * (pixels - soft), 0, None)
    pixels = pixels + rng.choice([0.002, 0.01, 0.03]) * rng.normal(0, 1, pixels.shape) * max(
        0.3, float(pixels.mean())
    )
    if rng.random() < 0.2:  # of few photons
        photons = np.sqrt(np.clip(pixels, 0, None))
        pixels = np.add(pixels, rng.uniform(0.01, 0.08) * photons * rng.normal(0, 1, pixels.shape))
    if bright_field:
        low, high = np.percentile(pixels, [0.5, 99.5])
        if rng.random() < 0.5:
            low, high = low - 0.1, high + 0.1
        low = min(low, high - 0.3)
    else:
        low = min(float(pixels.min()), 0.0)
        high = float(np.percentile(pixels, 99.8)) * math.exp(rng.choice([0.0, 0.7, -0.9], p=[0.5, 0.25, 0.25]))
        high = max(high, low + 0.05)
    grey = np.clip((pixels - low) / (high - low), 0, 1) ** rng.uniform(0.7, 1.5)
    if rng.random() < (0.07 if bright_field else 0.04):
        grey = 1 - grey
    grey = np.round(255 * grey).astype(np.uint8)
    if rng.random() < 0.2:
        _, code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])
        grey = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), np.uint8)
    return np.asarray(grey, np.float32)


def _around(rng: np.random.Generator, shape: Shape) -> Map:
    """-1..1 with the direction from the object's centre: a rim is darker on one side."""
    rows, columns = shape.window
    y, x = np.mgrid[rows, columns].astype(np.float32)
    angle = np.arctan2(y - shape.centre[1], x - shape.centre[0])
    return np.asarray(np.cos(int(rng.integers(1, 4)) * angle + rng.uniform(0, 2 * math.pi)), np.float32)


def _across(rng: np.random.Generator, shape: Shape) -> Map:
    """-1..1 from one side of the object to the other."""
    rows, columns = shape.window
    y, x = np.mgrid[rows, columns].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    value = (x - shape.centre[0]) * math.cos(angle) + (y - shape.centre[1]) * math.sin(angle)
    return np.asarray(np.clip(value / (1.5 * shape.radius), -1, 1), np.float32)
