"""Measures outlines. All values are computed from the exact polygon, never from pixels.

docs/metrics.md explains each value to the readers of the tables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.contours import Outline, Polygon, net_area, signed_area

METRICS_VERSION = "1"

# The power of length of each field. Multiply a value by (µm per px) ** dimension to calibrate it.
DIMENSIONS: Mapping[str, int] = MappingProxyType(
    {
        "area": 2,
        "perimeter": 1,
        "hole_area": 2,
        "n_holes": 0,
        "equivalent_diameter": 1,
        "circularity": 0,
        "roundness": 0,
        "solidity": 0,
        "convexity": 0,
        "extent": 0,
        "eccentricity": 0,
        "major_axis": 1,
        "minor_axis": 1,
        "orientation_deg": 0,
        "aspect_ratio": 0,
        "feret_max": 1,
        "feret_min": 1,
        "feret_aspect_ratio": 0,
        "width_orthogonal": 1,
        "centroid_x": 1,
        "centroid_y": 1,
        "bbox_x0": 1,
        "bbox_y0": 1,
        "bbox_x1": 1,
        "bbox_y1": 1,
        "volume_sphere": 3,
        "volume_lw2": 3,
        "volume_prolate": 3,
        "volume_revolution": 3,
    }
)


@dataclass(frozen=True)
class Measurements:
    """The measurements of one object, px, px² and px³. Ratios have no unit, `orientation_deg` is in degrees."""

    area: float
    perimeter: float
    hole_area: float
    n_holes: int
    equivalent_diameter: float
    circularity: float
    roundness: float
    solidity: float
    convexity: float
    extent: float
    eccentricity: float
    major_axis: float
    minor_axis: float
    orientation_deg: float
    aspect_ratio: float
    feret_max: float
    feret_min: float
    feret_aspect_ratio: float
    width_orthogonal: float
    centroid_x: float
    centroid_y: float
    bbox_x0: float
    bbox_y0: float
    bbox_x1: float
    bbox_y1: float
    volume_sphere: float
    volume_lw2: float
    volume_prolate: float
    volume_revolution: float


def measure(outline: Outline) -> Measurements:
    """Measure one object.

    Area, centroid and fitted ellipse exclude the object's holes. Perimeter, hull, Feret diameters, box and all
    volumes except `volume_sphere` are those of the outer outline. With L = `feret_max`, W = `width_orthogonal`:

    - circularity 4πA/P² (ImageJ; CellProfiler FormFactor), not clipped; roundness 4A/(π major²) (ImageJ)
    - solidity A/A_hull, extent A/A_box, convexity P_hull/P; equivalent diameter 2√(A/π)
    - ellipse of the same second moments: axes 4√λ, eccentricity √(1 − λ₂/λ₁); orientation anticlockwise from the
      x axis as seen on the screen, 0 ≤ angle < 180
    - feret_min: smallest distance of two parallel lines around the hull, over the directions of its edges
    - volumes: π/6 d³ (sphere); L·W²/2 (SpheroidSizer, JoVE 51639); π/6 L·W² (prolate spheroid);
      π∬|v|dA, v the distance from the major axis: the mean of the volumes that the two halves sweep (Pappus)

    Raise `ValueError` if the outline encloses no area.
    """
    area = net_area(outline)
    if not area > 0:
        raise ValueError("the outline encloses no area")
    outer = outline.outer
    hole_area = sum((-signed_area(hole) for hole in outline.holes), 0.0)
    perimeter = _perimeter(outer)
    (cx, cy), covariance = _moments((outer, *outline.holes))
    major, minor, angle = _ellipse(covariance)
    # Imported here because SciPy takes half a second to load, and most commands do not need it.
    from scipy.spatial import ConvexHull

    hull = outer[ConvexHull(outer).vertices]
    feret_max, feret_min, width = _calipers(hull)
    (x0, y0), (x1, y1) = outer.min(axis=0), outer.max(axis=0)
    diameter = 2 * math.sqrt(area / math.pi)
    return Measurements(
        area=area,
        perimeter=perimeter,
        hole_area=hole_area,
        n_holes=len(outline.holes),
        equivalent_diameter=diameter,
        circularity=4 * math.pi * area / perimeter**2,
        roundness=4 * area / (math.pi * major**2),
        solidity=area / abs(signed_area(hull)),
        convexity=_perimeter(hull) / perimeter,
        extent=area / float((x1 - x0) * (y1 - y0)),
        eccentricity=math.sqrt(max(0.0, 1 - (minor / major) ** 2)),
        major_axis=major,
        minor_axis=minor,
        orientation_deg=angle,
        aspect_ratio=major / minor,
        feret_max=feret_max,
        feret_min=feret_min,
        feret_aspect_ratio=feret_max / feret_min,
        width_orthogonal=width,
        centroid_x=cx,
        centroid_y=cy,
        bbox_x0=float(x0),
        bbox_y0=float(y0),
        bbox_x1=float(x1),
        bbox_y1=float(y1),
        volume_sphere=math.pi / 6 * diameter**3,
        volume_lw2=feret_max * width**2 / 2,
        volume_prolate=math.pi / 6 * feret_max * width**2,
        volume_revolution=_revolution_volume(outer),
    )


def centroid(outline: Outline) -> npt.NDArray[np.float64]:
    """Return x, y (px) of the centroid of the net area."""
    return np.array(_moments((outline.outer, *outline.holes))[0])


def _perimeter(polygon: Polygon) -> float:
    return float(np.hypot(*(np.roll(polygon, -1, axis=0) - polygon).T).sum())


def _moments(polygons: tuple[Polygon, ...]) -> tuple[tuple[float, float], npt.NDArray[np.float64]]:
    """Return centroid and covariance (2, 2) of the enclosed area, by Green's theorem (Steger 1996, FGBV-96-05)."""
    origin = polygons[0].mean(axis=0)  # near the polygon, because far from the origin the sums would lose digits
    area, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
    for polygon in polygons:
        a = polygon - origin
        b = np.roll(a, -1, axis=0)
        cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
        area += float(cross.sum()) / 2
        first += cross @ (a + b) / 6
        second += (
            (a + b).T @ (cross[:, None] * (a + b)) + a.T @ (cross[:, None] * a) + b.T @ (cross[:, None] * b)
        ) / 24
    mean = first / area
    x, y = (origin + mean).tolist()
    return (x, y), second / area - np.outer(mean, mean)


def _ellipse(covariance: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the axes (full lengths, px) and the orientation (degrees) of the ellipse with this covariance."""
    variances, directions = np.linalg.eigh(covariance)
    minor, major = (4 * np.sqrt(variances)).tolist()
    x, y = directions[:, 1]
    return major, minor, math.degrees(math.atan2(-y, x)) % 180


def _calipers(hull: Polygon) -> tuple[float, float, float]:
    """Return the largest and smallest Feret diameter of a convex polygon, and its width across the largest one (px).

    The method is rotating calipers (Shamos 1978; Toussaint 1983): both extremes occur where one jaw lies on an edge.
    """
    count = len(hull)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.unwrap(np.arctan2(edges[:, 1], edges[:, 0]))
    # The vertex opposite an edge is the one at which the direction of the outline has turned by 180 degrees.
    opposite = np.searchsorted(np.concatenate([angles, angles + 2 * math.pi]), angles + math.pi) % count
    normals = np.column_stack([-edges[:, 1], edges[:, 0]]) / np.hypot(*edges.T)[:, None]
    feret_min = float(np.abs(np.einsum("ij,ij->i", hull[opposite] - hull, normals)).min())
    # Try both ends of the edge with the vertex and its neighbours, because for parallel edges, rounding decides which
    # vertex was found.
    ends = np.concatenate([np.arange(count), np.arange(1, count + 1) % count])
    others = np.concatenate([np.tile((opposite + step) % count, 2) for step in (-1, 0, 1)])
    spans = hull[others] - np.tile(hull[ends], (3, 1))
    lengths = np.hypot(*spans.T)
    longest = int(lengths.argmax())
    feret_max = float(lengths[longest])
    along = spans[longest] / feret_max
    return feret_max, feret_min, float(np.ptp(hull @ np.array([-along[1], along[0]])))


def _revolution_volume(outer: Polygon) -> float:
    """Return π∬|v|dA over the outer outline (px³), v measured from the major axis through its centroid."""
    centroid, covariance = _moments((outer,))
    along = np.linalg.eigh(covariance)[1][:, 1]
    u = (outer - centroid) @ along
    v = (outer - centroid) @ (-along[1], along[0])
    u, v = _insert_axis_crossings(u, v)
    volume = 0.0
    for half in (np.maximum(v, 0), np.maximum(-v, 0)):
        # ∬v dA of one half. The part of its outline along the axis adds nothing, because v = 0 there.
        cross = u * np.roll(half, -1) - np.roll(u, -1) * half
        volume += math.pi * abs(float(cross @ (half + np.roll(half, -1)))) / 6
    return volume


def _insert_axis_crossings(
    u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Insert a vertex wherever an edge crosses v = 0."""
    next_u, next_v = np.roll(u, -1), np.roll(v, -1)
    at = np.flatnonzero(v * next_v < 0)
    share = v[at] / (v[at] - next_v[at])
    return np.insert(u, at + 1, u[at] + share * (next_u[at] - u[at])), np.insert(v, at + 1, 0.0)
