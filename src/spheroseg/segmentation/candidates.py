"""Finds the regions above rising thresholds that could be objects, and chooses among those that are nested."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.background import Map, Mask

MIN_RADIUS_PX = 3.0  # of the largest inscribed disk
# Parts thinner than this share of that radius are removed: fibres, debris, a neighbour that merely touches.
OPENING_RADIUS_SHARE = 0.3
CLOSING_RADIUS_SHARE = 0.004  # of the longer side; gaps of this size in a rim are bridged
MAX_HOLE_CONTRAST_SHARE = 0.25  # of the object's contrast; a hole in a bright object that is darker stays a hole
MIN_HOLE_AREA_SHARE = 0.005  # of the object's area; smaller holes are filled
MIN_CONVEX_SOLIDITY = 0.9  # from here on, a region is accepted as one object
MIN_SOLIDITY_GAIN = 0.08  # the parts of a less convex region replace it if their solidity is this much higher
MIN_PARTS_AREA_SHARE = 0.3  # of the area of the whole region that its parts must cover
MIN_SAME_AREA_SHARE = 0.35  # of the area; a smaller nested region is a detail inside the object, not its outline
# The wall of a well touches this many sides of the picture, and encloses this share of its bounding box.
MIN_FRAME_SIDES, MIN_FRAME_HOLE_SHARE = 3, 0.4

# The constants as they enter the hash of `classical-contrast`, see `classical`. Never rename a key.
HASHED_CONSTANTS = {
    "MIN_RADIUS": MIN_RADIUS_PX,
    "OPENING": OPENING_RADIUS_SHARE,
    "CLOSING": CLOSING_RADIUS_SHARE,
    "EMPTY_HOLE": MAX_HOLE_CONTRAST_SHARE,
    "LEAST_HOLE": MIN_HOLE_AREA_SHARE,
    "CONVEX": MIN_CONVEX_SOLIDITY,
    "GAIN": MIN_SOLIDITY_GAIN,
    "COVERED": MIN_PARTS_AREA_SHARE,
    "SAME": MIN_SAME_AREA_SHARE,
    "FRAME_SIDES": MIN_FRAME_SIDES,
    "FRAME_HOLE": MIN_FRAME_HOLE_SHARE,
}


@dataclass(eq=False)
class Candidate:
    """A filled region.

    `mask` covers `window` of the picture. `area`: px². `radius`, `seed`: radius (px) and centre (row, column) of the
    largest inscribed disk. `children`: the regions inside this one at the next threshold.
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


def find_regions(contrast: Map, slope: Map, thresholds: list[float], bright: bool) -> tuple[list[Candidate], Mask]:
    """Find the regions at all thresholds (ascending). Return the roots of their trees, and the mask of well walls.

    `contrast`: float32 (height, width), positive where an object may be. `slope`: the magnitude of its gradient.
    `bright`: whether objects are brighter than the background.
    """
    frames = np.zeros(contrast.shape, np.uint8)
    roots: list[Candidate] = []
    below: list[Candidate] = []
    for threshold in thresholds:
        owner = np.zeros(contrast.shape, np.int32)
        for number, parent in enumerate(below, start=1):
            owner[parent.window][parent.mask > 0] = number
        level = _find_level(contrast, slope, threshold, bright, frames)
        for region in level:
            number = int(owner[region.seed])
            (below[number - 1].children if number else roots).append(region)
        below = level
    return roots, frames


def choose_outlines(whole: Candidate) -> list[Candidate]:
    """Return the sharpest outline of a region, or the outlines of its parts if these are much more convex."""
    best = max(_same_object(whole), key=lambda c: c.gradient * c.solidity**2)
    if whole.solidity >= MIN_CONVEX_SOLIDITY:
        return [best]
    parts = [part for child in whole.children for part in choose_outlines(child)]
    total = sum(part.area for part in parts)
    if total < MIN_PARTS_AREA_SHARE * whole.area:
        return [best]
    solidity = sum(part.area * part.solidity for part in parts) / total
    return parts if solidity > best.solidity + MIN_SOLIDITY_GAIN else [best]


def inner_distance(mask: Mask, *, border_counts: bool = False) -> Map:
    """Return the distance, px, of each pixel of the mask to the nearest pixel outside.

    With `border_counts`, what lies beyond the border of the mask is outside.
    """
    padded = _pad(mask, 1, cv2.BORDER_CONSTANT if border_counts else cv2.BORDER_REPLICATE)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1].astype(np.float32, copy=False)


def fill_holes(mask: Mask) -> Mask:
    """Return the mask (uint8) with its holes filled."""
    _, regions = cv2.connectedComponents(1 - _pad(mask, 1, cv2.BORDER_CONSTANT), connectivity=4)
    return np.asarray(regions != regions[0, 0], np.uint8)[1:-1, 1:-1]


def _same_object(whole: Candidate) -> list[Candidate]:
    """Return the regions of one object at rising thresholds, until it falls apart or shrinks to a detail."""
    chain = [whole]
    while len(next_ones := [c for c in chain[-1].children if c.area > MIN_SAME_AREA_SHARE * whole.area]) == 1:
        chain += next_ones
    return chain


def _find_level(contrast: Map, slope: Map, threshold: float, bright: bool, frames: Mask) -> list[Candidate]:
    over = (contrast > threshold).astype(np.uint8)
    gap = _disk(max(1.0, CLOSING_RADIUS_SHARE * max(over.shape)))
    over = cv2.morphologyEx(over, cv2.MORPH_CLOSE, gap).astype(np.uint8, copy=False)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(over, connectivity=8)
    regions: list[Candidate] = []
    for label, (x, y, width, height, _) in enumerate(stats.tolist()):
        if label == 0 or min(width, height) < 2 * MIN_RADIUS_PX:
            continue
        window = np.s_[y : y + height, x : x + width]
        mask = (labels[window] == label).astype(np.uint8)
        whole = fill_holes(mask)
        enclosed = int(whole.sum()) - int(mask.sum())
        sides = (x == 0) + (y == 0) + (x + width == over.shape[1]) + (y + height == over.shape[0])
        if sides >= MIN_FRAME_SIDES and enclosed > MIN_FRAME_HOLE_SHARE * width * height:
            frames[window] |= mask
            continue
        if bright and enclosed:
            whole = _reopen_empty_holes(mask, whole, contrast[window])
        radius = float(inner_distance(whole).max())
        if radius >= MIN_RADIUS_PX:
            regions += _make_candidates(_open(whole, max(1.0, OPENING_RADIUS_SHARE * radius)), x, y, slope)
    return regions


def _reopen_empty_holes(mask: Mask, whole: Mask, contrast: Map) -> Mask:
    """Remove the dark holes of a bright object from its filled mask `whole`.

    Not used for dark objects: there a bright middle is only the inside of the rim.
    """
    count, holes, stats, _ = cv2.connectedComponentsWithStats(whole - mask, connectivity=4)
    empty = MAX_HOLE_CONTRAST_SHARE * float(np.median(contrast[mask > 0]))
    for hole in range(1, count):
        pixels = holes == hole
        if stats[hole, cv2.CC_STAT_AREA] > MIN_HOLE_AREA_SHARE * whole.sum() and contrast[pixels].mean() < empty:
            whole[pixels] = 0
    return whole


def _make_candidates(mask: Mask, left: int, top: int, slope: Map) -> list[Candidate]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts = []
    for label, (x, y, width, height, area) in enumerate(stats.tolist()):
        if label == 0 or min(width, height) < 2 * MIN_RADIUS_PX - 1:
            continue
        part = (labels[y : y + height, x : x + width] == label).astype(np.uint8)
        depth = inner_distance(part, border_counts=True)
        radius = float(depth.max())
        if radius < MIN_RADIUS_PX:
            continue
        window = np.s_[top + y : top + y + height, left + x : left + x + width]
        edge = (part > 0) & (depth < 1.5)
        inner = edge & ~_on_border(window, slope.shape)
        contour = max(cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        hull = cv2.fillConvexPoly(np.zeros_like(part), cv2.convexHull(contour), 1)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        parts.append(
            Candidate(
                mask=part,
                window=window,
                area=area,
                radius=radius,
                solidity=float(fill_holes(part).sum() / hull.sum()),
                gradient=float(np.median(slope[window][inner])) if inner.any() else 0.0,
                contact=1 - float(inner.sum() / edge.sum()),
                seed=(top + y + int(row), left + x + int(column)),
            )
        )
    return parts


def _on_border(window: tuple[slice, slice], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[window]
    return np.asarray((rows == 0) | (columns == 0) | (rows == shape[0] - 1) | (columns == shape[1] - 1))


def _open(mask: Mask, radius: float) -> Mask:
    """Return the mask after morphological opening by a disk. The border of the mask is not an edge.

    Distance transforms take the same time for any radius.
    """
    pad = int(radius) + 2
    padded = _pad(mask, pad, cv2.BORDER_REPLICATE)
    core = (cv2.distanceTransform(padded, cv2.DIST_L2, 5) > radius).astype(np.uint8)
    opened = (cv2.distanceTransform(1 - core, cv2.DIST_L2, 5) <= radius) & (padded > 0)
    return opened[pad:-pad, pad:-pad].astype(np.uint8)


def _pad(mask: Mask, by: int, how: int) -> Mask:
    # A picture has thousands of small masks: np.pad would take as long as everything else together.
    return cv2.copyMakeBorder(mask, by, by, by, by, how, value=(0,)).astype(np.uint8, copy=False)


def _disk(radius: float) -> Mask:
    side = 2 * round(radius) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(np.uint8)
