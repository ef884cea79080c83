"""Drawn scenes: their masks are exact, all kinds are drawn, and the same seed gives the same scenes."""

import numpy as np
import pytest

from spheroseg.training.scenes import KINDS, draw_scenes, relative_depths

pytestmark = pytest.mark.slow

SHAPE = (200, 240)


def test_the_same_seed_gives_the_same_scenes() -> None:
    first = list(draw_scenes(12, 5, SHAPE))
    again = list(draw_scenes(9, 5, SHAPE))
    other = next(draw_scenes(1, 6, SHAPE))
    for one, two in zip(first, again, strict=False):
        assert one.kind == two.kind
        np.testing.assert_array_equal(one.pixels, two.pixels)
        np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(first[0].pixels, other.pixels)


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_a_scene_is_a_picture_with_as_many_objects_as_its_kind_has(number: int) -> None:
    name, kind = list(KINDS.items())[number]
    for scene in list(draw_scenes(4 * len(KINDS), 11, SHAPE))[number :: len(KINDS)]:
        assert scene.kind == name
        assert scene.pixels.shape == scene.labels.shape == SHAPE
        assert scene.pixels.dtype == np.float32
        assert 0 <= scene.pixels.min() < scene.pixels.max() <= 255
        count = len(np.unique(scene.labels)) - 1
        assert count <= kind.count[1]
        assert (count == 0) == (kind.count[1] == 0) or (scene.labels == 0).all()


def test_objects_differ_from_the_background_beside_them() -> None:
    checked = 0
    for scene in draw_scenes(5 * len(KINDS), 3, SHAPE):
        inside = scene.labels > 0
        if scene.kind in ("fluorescent", "fluorescent_many") and inside.any() and not inside.all():
            checked += 1
            assert abs(scene.pixels[inside].mean() - scene.pixels[~inside].mean()) > 2
    assert checked >= 5


def test_the_depth_is_0_outside_and_1_where_each_object_is_deepest() -> None:
    y, x = np.mgrid[0:100, 0:160]
    labels = np.zeros((100, 160), np.uint16)
    labels[np.hypot(x - 50, y - 50) < 30] = 1
    labels[(np.hypot(x - 110, y - 50) < 30) & (labels == 0)] = 3
    depths = relative_depths(labels)
    assert depths.dtype == np.float32
    assert (depths[labels == 0] == 0).all()
    for number, centre in ((1, 50), (3, 110)):
        assert depths[labels == number].max() == 1
        assert depths[50, centre] > 0.97
    # Touching objects are shallow where they touch.
    assert depths[50, 79] < 0.1
    assert depths[50, 81] < 0.1


def test_an_object_continues_beyond_the_border() -> None:
    labels = np.zeros((60, 60), np.uint16)
    labels[20:40, :30] = 1
    depths = relative_depths(labels)
    assert depths[29, 0] == pytest.approx(1, abs=0.06)
