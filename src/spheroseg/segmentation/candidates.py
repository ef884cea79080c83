"""Regions that could be objects: what exceeds a rising threshold, and which of the nested ones to believe."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.ground import Map, Mask

MIN_RADIUS = 3.0  # px, of the largest inscribed disk
OPENING = 0.3  # of that radius: thinner parts (fibres, debris, a neighbour that merely touches) are cut off
CLOSING = 0.004  # of the longer side: gaps in a rim that are bridged
EMPTY_HOLE = 0.25  # a hole in a bright object stays one when it is this dark, in parts of the object's contrast
LEAST_HOLE = 0.005  # of the area
CONVEX = 0.9  # solidity at which an object needs no better explanation
GAIN = 0.08  # solidity by which its parts must do better than a whole that is less convex
COVERED = 0.3  # of the area of the whole that its parts must account for
SAME = 0.35  # of the area: smaller than this, a nested region is something inside the object, not its outline
FRAME_SIDES, FRAME_HOLE = 3, 0.4  # sides touched, and share of its box enclosed, by the wall of a well


@dataclass(eq=False)
class Candidate:
    """A filled region.

    `mask` covers `window` of the picture; `children` are the regions inside it at the next threshold.
    """

    mask: Mask
    window: tuple[slice, slice]
    area: int
    radius: float
    solidity: float
    gradient: float  # median along the outline, grey values per px
    contact: float  # share of the outline that is the border of the picture
    seed: tuple[int, int]
    children: list["Candidate"] = field(default_factory=list)


def nested(contrast: Map, slope: Map, thresholds: list[float], bright: bool) -> tuple[list[Candidate], Mask]:
    """The regions of all thresholds (rising) as trees, and the pixels of anything that frames the picture.

    `contrast` is positive where an object may be, `slope` the size of its gradient.
    """
    frames = np.zeros(contrast.shape, np.uint8)
    roots: list[Candidate] = []
    below: list[Candidate] = []
    for threshold in thresholds:
        owner = np.zeros(contrast.shape, np.int32)
        for number, parent in enumerate(below, start=1):
            owner[parent.window][parent.mask > 0] = number
        level = _regions(contrast, slope, threshold, bright, frames)
        for region in level:
            number = int(owner[region.seed])
            (below[number - 1].children if number else roots).append(region)
        below = level
    return roots, frames


def believed(whole: Candidate) -> list[Candidate]:
    """The sharpest outline of an object that is convex; else its parts, where they explain it better."""
    best = max(_outlines(whole), key=lambda c: c.gradient * c.solidity**2)
    if whole.solidity >= CONVEX:
        return [best]
    parts = [part for child in whole.children for part in believed(child)]
    total = sum(part.area for part in parts)
    if total < COVERED * whole.area:
        return [best]
    solidity = sum(part.area * part.solidity for part in parts) / total
    return parts if solidity > best.solidity + GAIN else [best]


def inside(mask: Mask, *, border_counts: bool = False) -> Map:
    """Distance of each pixel of the mask to the nearest outside it; with `border_counts` the border is outside."""
    padded = _padded(mask, 1, cv2.BORDER_CONSTANT if border_counts else cv2.BORDER_REPLICATE)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1].astype(np.float32, copy=False)


def filled(mask: Mask) -> Mask:
    _, regions = cv2.connectedComponents(1 - _padded(mask, 1, cv2.BORDER_CONSTANT), connectivity=4)
    return np.asarray(regions != regions[0, 0], np.uint8)[1:-1, 1:-1]


def _outlines(whole: Candidate) -> list[Candidate]:
    """The same object at rising thresholds, for as long as it stays in one piece."""
    chain = [whole]
    while len(next_ones := [c for c in chain[-1].children if c.area > SAME * whole.area]) == 1:
        chain += next_ones
    return chain


def _regions(contrast: Map, slope: Map, threshold: float, bright: bool, frames: Mask) -> list[Candidate]:
    over = (contrast > threshold).astype(np.uint8)
    gap = _disk(max(1.0, CLOSING * max(over.shape)))
    over = cv2.morphologyEx(over, cv2.MORPH_CLOSE, gap).astype(np.uint8, copy=False)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(over, connectivity=8)
    regions: list[Candidate] = []
    for label, (x, y, width, height, _) in enumerate(stats.tolist()):
        if label == 0 or min(width, height) < 2 * MIN_RADIUS:
            continue
        window = np.s_[y : y + height, x : x + width]
        mask = (labels[window] == label).astype(np.uint8)
        whole = filled(mask)
        enclosed = int(whole.sum()) - int(mask.sum())
        sides = (x == 0) + (y == 0) + (x + width == over.shape[1]) + (y + height == over.shape[0])
        if sides >= FRAME_SIDES and enclosed > FRAME_HOLE * width * height:
            frames[window] |= mask
            continue
        if bright and enclosed:
            whole = _with_empty_holes(mask, whole, contrast[window])
        radius = float(inside(whole).max())
        if radius >= MIN_RADIUS:
            regions += _parts(_opened(whole, max(1.0, OPENING * radius)), x, y, slope)
    return regions


def _with_empty_holes(mask: Mask, whole: Mask, contrast: Map) -> Mask:
    """In bright pictures darkness inside is absence; in dark ones a bright middle is only a rim's inside."""
    count, holes, stats, _ = cv2.connectedComponentsWithStats(whole - mask, connectivity=4)
    empty = EMPTY_HOLE * float(np.median(contrast[mask > 0]))
    for hole in range(1, count):
        pixels = holes == hole
        if stats[hole, cv2.CC_STAT_AREA] > LEAST_HOLE * whole.sum() and contrast[pixels].mean() < empty:
            whole[pixels] = 0
    return whole


def _parts(mask: Mask, left: int, top: int, slope: Map) -> list[Candidate]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts = []
    for label, (x, y, width, height, area) in enumerate(stats.tolist()):
        if label == 0 or min(width, height) < 2 * MIN_RADIUS - 1:
            continue
        part = (labels[y : y + height, x : x + width] == label).astype(np.uint8)
        depth = inside(part, border_counts=True)
        radius = float(depth.max())
        if radius < MIN_RADIUS:
            continue
        window = np.s_[top + y : top + y + height, left + x : left + x + width]
        edge = (part > 0) & (depth < 1.5)
        inner = edge & ~_border(window, slope.shape)
        contour = max(cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        hull = cv2.fillConvexPoly(np.zeros_like(part), cv2.convexHull(contour), 1)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        parts.append(
            Candidate(
                mask=part,
                window=window,
                area=area,
                radius=radius,
                solidity=float(filled(part).sum() / hull.sum()),
                gradient=float(np.median(slope[window][inner])) if inner.any() else 0.0,
                contact=1 - float(inner.sum() / edge.sum()),
                seed=(top + y + int(row), left + x + int(column)),
            )
        )
    return parts


def _border(window: tuple[slice, slice], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[window]
    return np.asarray((rows == 0) | (columns == 0) | (rows == shape[0] - 1) | (columns == shape[1] - 1))


def _opened(mask: Mask, radius: float) -> Mask:
    """Opening by a disk, by distances: as fast for a large disk as for a small one. The border is no edge."""
    pad = int(radius) + 2
    padded = _padded(mask, pad, cv2.BORDER_REPLICATE)
    core = (cv2.distanceTransform(padded, cv2.DIST_L2, 5) > radius).astype(np.uint8)
    opened = (cv2.distanceTransform(1 - core, cv2.DIST_L2, 5) <= radius) & (padded > 0)
    return opened[pad:-pad, pad:-pad].astype(np.uint8)


def _padded(mask: Mask, by: int, how: int) -> Mask:
    # Thousands of small masks a picture: np.pad would take as long as all the rest.
    return cv2.copyMakeBorder(mask, by, by, by, by, how, value=(0,)).astype(np.uint8, copy=False)


def _disk(radius: float) -> Mask:
    side = 2 * round(radius) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(np.uint8)
