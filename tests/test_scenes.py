"""Drawn scenes: exact masks, the same from the same seed, and of every kind that is promised."""

import numpy as np
import pytest

from spheroseg.training.scenes import KINDS, distances, scenes

SIDE = (200, 240)


def test_the_same_seed_gives_the_same_scenes_whatever_comes_before() -> None:
    first = list(scenes(12, 5, SIDE))
    again = list(scenes(9, 5, SIDE))
    other = next(scenes(1, 6, SIDE))
    for one, two in zip(first, again, strict=False):
        assert one.kind == two.kind
        np.testing.assert_array_equal(one.pixels, two.pixels)
        np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(first[0].pixels, other.pixels)


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_a_scene_is_a_picture_with_as_many_objects_as_its_kind_has(number: int) -> None:
    kind, layout = list(KINDS.items())[number]
    for scene in list(scenes(4 * len(KINDS), 11, SIDE))[number :: len(KINDS)]:
        assert scene.kind == kind
        assert scene.pixels.shape == scene.labels.shape == SIDE
        assert scene.pixels.dtype == np.float32
        assert 0 <= scene.pixels.min() < scene.pixels.max() <= 255
        count = len(np.unique(scene.labels)) - 1
        assert count <= layout.count[1]
        assert (count == 0) == (layout.count[1] == 0) or (scene.labels == 0).all()


def test_objects_differ_from_the_ground_beside_them() -> None:
    seen = 0
    for scene in scenes(5 * len(KINDS), 3, SIDE):
        inside = scene.labels > 0
        if scene.kind in ("fluorescent", "fluorescent_many") and inside.any() and not inside.all():
            seen += 1
            assert abs(scene.pixels[inside].mean() - scene.pixels[~inside].mean()) > 2
    assert seen >= 5


def test_the_distance_is_0_outside_and_1_where_each_object_is_deepest() -> None:
    y, x = np.mgrid[0:100, 0:160]
    labels = np.zeros((100, 160), np.uint16)
    labels[np.hypot(x - 50, y - 50) < 30] = 1
    labels[(np.hypot(x - 110, y - 50) < 30) & (labels == 0)] = 3
    found = distances(labels)
    assert found.dtype == np.float32
    assert (found[labels == 0] == 0).all()
    for number, centre in ((1, 50), (3, 110)):
        assert found[labels == number].max() == 1
        assert found[50, centre] > 0.97
    # Touching objects are shallow where they touch.
    assert found[50, 79] < 0.1
    assert found[50, 81] < 0.1


def test_an_object_goes_on_beyond_the_border() -> None:
    labels = np.zeros((60, 60), np.uint16)
    labels[20:40, :30] = 1
    found = distances(labels)
    assert found[29, 0] == pytest.approx(1, abs=0.06)
