import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spheroseg.segmentation.contours import Outline, Polygon
from spheroseg.segmentation.measure import DIMENSIONS, Measurements, measure
from tests.support.synthetic import ellipse, outline, rectangle, rotated

POSITIONAL = {"centroid_x", "centroid_y", "bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1", "orientation_deg", "extent"}
SHAPES = {
    "ellipse": ellipse(150, 100, 0, points=500),
    "rectangle": rectangle(200, 50),
    "bean": np.array([[0, 0], [80, -30], [160, 0], [120, 90], [80, 40], [30, 100]], float),
}


def test_a_circle_has_the_published_values() -> None:
    m = measure(outline(ellipse(100, 100, centre=(500, 300))))
    assert m.area == pytest.approx(31_415.93, abs=0.01)
    assert m.perimeter == pytest.approx(628.319, abs=0.001)
    assert m.circularity == pytest.approx(1, abs=1e-6)
    assert m.roundness == pytest.approx(1, abs=1e-6)
    assert m.equivalent_diameter == pytest.approx(200, abs=1e-4)
    assert (m.feret_max, m.feret_min) == pytest.approx((200, 200), abs=1e-4)
    assert m.eccentricity == pytest.approx(0, abs=1e-3)
    for volume in (m.volume_sphere, m.volume_prolate, m.volume_revolution):
        assert volume == pytest.approx(4_188_790, rel=1e-6)
    assert (m.centroid_x, m.centroid_y) == pytest.approx((500, 300))


@pytest.mark.parametrize("angle", [0, 17, 45, 90, 123.4, 179])
def test_an_ellipse_has_the_published_values_at_any_angle(angle: float) -> None:
    m = measure(outline(ellipse(150, 100, angle, centre=(400, 700))))
    assert m.area == pytest.approx(47_123.89, abs=0.01)
    assert m.perimeter == pytest.approx(793.272, abs=0.001)
    assert m.circularity == pytest.approx(0.94104, abs=1e-5)
    assert m.roundness == pytest.approx(2 / 3, abs=1e-6)
    assert m.equivalent_diameter == pytest.approx(244.949, abs=0.001)
    assert (m.feret_max, m.feret_min) == pytest.approx((300, 200), abs=0.001)
    assert (m.major_axis, m.minor_axis) == pytest.approx((300, 200), abs=0.001)
    assert m.aspect_ratio == pytest.approx(1.5, abs=1e-5)
    assert m.feret_aspect_ratio == pytest.approx(1.5, abs=1e-5)
    assert m.width_orthogonal == pytest.approx(200, abs=0.01)
    assert m.eccentricity == pytest.approx(0.745356, abs=1e-6)
    assert (m.solidity, m.convexity) == pytest.approx((1, 1), abs=1e-6)
    assert (m.orientation_deg - angle + 90) % 180 - 90 == pytest.approx(0, abs=1e-6)
    assert m.volume_sphere == pytest.approx(7_695_299, rel=1e-6)
    assert m.volume_lw2 == pytest.approx(6_000_000, rel=1e-4)
    assert m.volume_prolate == pytest.approx(6_283_185, rel=1e-4)
    assert m.volume_revolution == pytest.approx(6_283_185, rel=1e-6)


def test_the_volume_formulas_differ_for_a_long_ellipse() -> None:
    m = measure(outline(ellipse(200, 100, 30)))
    assert m.area == pytest.approx(62_831.85, abs=0.01)
    assert m.perimeter == pytest.approx(968.845, abs=0.001)
    assert m.circularity == pytest.approx(0.84117, abs=1e-5)
    assert m.equivalent_diameter == pytest.approx(282.843, abs=0.001)
    assert (m.feret_max, m.feret_min) == pytest.approx((400, 200), abs=0.001)
    assert m.eccentricity == pytest.approx(0.866025, abs=1e-6)
    assert m.volume_sphere == pytest.approx(11_847_688, rel=1e-6)
    assert m.volume_lw2 == pytest.approx(8_000_000, rel=1e-4)
    assert m.volume_prolate == pytest.approx(8_377_580, rel=1e-4)


def test_the_smallest_feret_diameter_of_a_square_is_its_side() -> None:
    m = measure(outline(rectangle(90, 90, 10, 20)))
    assert (m.area, m.perimeter) == pytest.approx((8100, 360))
    assert m.circularity == pytest.approx(math.pi / 4)
    assert m.equivalent_diameter == pytest.approx(101.554, abs=0.001)
    assert m.feret_max == pytest.approx(127.279, abs=0.001)
    assert m.feret_min == pytest.approx(90)
    assert m.width_orthogonal == pytest.approx(127.279, abs=0.001)
    assert (m.bbox_x0, m.bbox_y0, m.bbox_x1, m.bbox_y1) == (10, 20, 100, 110)
    assert (m.extent, m.solidity, m.convexity) == pytest.approx((1, 1, 1))


def test_in_a_rectangle_the_smallest_and_the_orthogonal_diameter_differ() -> None:
    m = measure(outline(rectangle(200, 50)))
    assert m.feret_max == pytest.approx(206.155, abs=0.001)
    assert m.feret_min == pytest.approx(50)
    assert m.width_orthogonal == pytest.approx(97.014, abs=0.001)
    assert m.circularity == pytest.approx(0.50265, abs=1e-5)
    # A cylinder of radius 25 and length 200.
    assert m.volume_revolution == pytest.approx(math.pi * 25**2 * 200)


@pytest.mark.parametrize("angle", [0.0, 30.0, 77.0, 145.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_changes_only_the_orientation(shape: str, angle: float) -> None:
    before, after = (_values(measure(outline(p))) for p in (SHAPES[shape], rotated(SHAPES[shape], angle)))
    assert _without_position(after) == pytest.approx(_without_position(before), rel=1e-9)
    turned = after["orientation_deg"] - before["orientation_deg"] - angle
    assert (turned + 90) % 180 - 90 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_translation_changes_only_the_position(shape: str) -> None:
    before = _values(measure(outline(SHAPES[shape])))
    after = _values(measure(outline(SHAPES[shape] + np.array([3000.25, 1234.5]))))
    assert _without_position(after) == pytest.approx(_without_position(before), rel=1e-9)
    assert after["centroid_x"] - before["centroid_x"] == pytest.approx(3000.25)
    assert after["bbox_y1"] - before["bbox_y1"] == pytest.approx(1234.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mirrored_object_has_the_mirrored_orientation_and_the_same_shape(shape: str) -> None:
    tilted = rotated(SHAPES[shape], 25)
    mirrored = (tilted * np.array([-1, 1]))[::-1]
    before, after = _values(measure(outline(tilted))), _values(measure(outline(mirrored)))
    assert _without_position(after) == pytest.approx(_without_position(before), rel=1e-9)
    total = before["orientation_deg"] + after["orientation_deg"]
    assert (total + 90) % 180 - 90 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.65, 4.0])
def test_scaling_follows_the_table_of_dimensions(shape: str, factor: float) -> None:
    before = _values(measure(outline(SHAPES[shape])))
    after = _values(measure(outline(SHAPES[shape] * factor)))
    for name, value in before.items():
        assert after[name] == pytest.approx(value * factor ** DIMENSIONS[name], rel=1e-9, abs=1e-9), name


def test_a_pixel_of_065_um_makes_the_area_04225_times_as_large() -> None:
    assert 0.65 ** DIMENSIONS["area"] == pytest.approx(0.4225)


def test_every_measurement_has_a_dimension() -> None:
    assert list(DIMENSIONS) == [field.name for field in dataclasses.fields(Measurements)]
    assert set(DIMENSIONS.values()) == {0, 1, 2, 3}


def test_a_hole_is_taken_from_its_own_spheroid_only() -> None:
    pairs = [(ellipse(100, 100, centre=(150, 150)), 30.0), (ellipse(80, 80, centre=(400, 150)), 20.0)]
    for outer, radius in pairs:
        middle = tuple(outer.mean(axis=0))
        full = measure(outline(outer))
        holed = measure(outline(outer, ellipse(radius, radius, centre=middle)))
        assert holed.n_holes == 1
        assert holed.hole_area == pytest.approx(math.pi * radius**2, rel=1e-6)
        assert holed.area == pytest.approx(full.area - math.pi * radius**2, rel=1e-6)
        assert holed.perimeter == full.perimeter
        assert holed.feret_max == full.feret_max
        assert holed.volume_revolution == full.volume_revolution
        assert holed.solidity == pytest.approx(holed.area / full.area, rel=1e-6)


def test_a_hole_to_one_side_moves_the_centroid_away() -> None:
    m = measure(outline(ellipse(100, 100), ellipse(20, 20, centre=(50, 0))))
    # The centroid of what remains: (0·A − 50·a) / (A − a).
    assert m.centroid_x == pytest.approx(-50 * 400 / (10_000 - 400), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(5, 200), min_size=3, max_size=30))
def test_feret_diameters_equal_those_of_a_brute_force_search(radii: list[float]) -> None:
    star = _star(radii)
    m = measure(outline(star))
    pairs = star[:, None, :] - star
    assert m.feret_max == pytest.approx(np.hypot(pairs[..., 0], pairs[..., 1]).max(), rel=1e-9)
    # No direction has a smaller width, and directions near the minimum come close to it.
    angles = np.linspace(0, math.pi, 20_001)
    widths = np.ptp(star @ np.array([np.cos(angles), np.sin(angles)]), axis=0)
    assert m.feret_min <= widths.min() + 1e-9
    assert m.feret_min == pytest.approx(widths.min(), rel=1e-3)


def test_an_outline_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="no area"):
        measure(Outline(np.array([[0, 0], [10, 10], [0, 0.0]]), ()))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(5, 200), min_size=5, max_size=40))
def test_measurements_keep_their_bounds_for_any_star_shape(radii: list[float]) -> None:
    m = measure(outline(_star(radii)))
    assert 0 < m.circularity <= 1
    assert 0 < m.solidity <= 1 + 1e-9
    assert 0 < m.convexity <= 1 + 1e-9
    assert 0 < m.extent <= 1 + 1e-9
    assert 0 <= m.eccentricity < 1
    assert 0 <= m.orientation_deg < 180
    assert m.feret_min <= m.width_orthogonal * (1 + 1e-9)
    assert m.feret_min <= m.feret_max
    assert m.equivalent_diameter <= m.feret_max * (1 + 1e-9)


def _star(radii: list[float]) -> Polygon:
    t = np.linspace(0, 2 * math.pi, len(radii), endpoint=False)
    return np.asarray(np.column_stack([np.cos(t), np.sin(t)]) * np.array(radii)[:, None])


def _values(m: Measurements) -> dict[str, float]:
    return {name: float(value) for name, value in dataclasses.asdict(m).items()}


def _without_position(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in POSITIONAL}
