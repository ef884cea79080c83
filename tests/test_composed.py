"""Pictures composed of spheroids: the truth is exact, touching objects touch, and single ones have the given size."""

from functools import partial

import cv2
import numpy as np
import pytest
from scipy.ndimage import find_objects

from spheroseg.training.composed import (
    DIAMETER_SHARES,
    LAYOUTS,
    can_be_cut,
    compose_fields,
    compose_sizes,
    cut_spheroids,
    field_samples,
    size_samples,
)
from spheroseg.training.data import FIELDS, SIZES, Sample, Truth, return_drawn
from tests.support.synthetic import Picture, coverage

pytestmark = pytest.mark.slow

SIDE = 120
BACKGROUND, SPHEROID = 180.0, 60.0


def spheroid(name: str, a: float, b: float, kind: str = "brightfield", truth: Truth = Truth.SINGLE) -> Sample:
    """Return a dark ellipse (semi-axes in px) in light that falls off to one side."""
    cover = coverage(SIDE, SIDE, a, b, 30, (SIDE / 2, SIDE / 2))
    light = np.linspace(1.1, 0.7, SIDE, dtype=np.float32)
    pixels = np.asarray(light * (BACKGROUND + (SPHEROID - BACKGROUND) * cover), np.float32)
    labels = (cover >= 0.5).astype(np.uint16)
    return Sample("spheroids", name, kind, "drawn", "MIT", truth, partial(return_drawn, pixels, labels))


@pytest.fixture(scope="module")
def spheroids() -> list[Sample]:
    return [spheroid("round", 20, 20), spheroid("oval", 28, 22)]


def test_the_transmission_does_not_depend_on_the_light(spheroids: list[Sample]) -> None:
    for cutout in cut_spheroids(spheroids):
        inside = cv2.erode(cutout.mask.astype(np.uint8), np.ones((5, 5))) > 0
        beside = cv2.dilate(cutout.mask.astype(np.uint8), np.ones((5, 5))) == 0
        np.testing.assert_allclose(cutout.transmission[inside], SPHEROID / BACKGROUND, rtol=0.03)
        np.testing.assert_allclose(cutout.transmission[beside], 1, atol=0.03)


def test_a_spheroid_with_a_fibre_and_one_that_fills_its_picture_are_not_cut() -> None:
    assert cut_spheroids([spheroid("with a fibre", 50, 14), spheroid("filling", 90, 90)]) == []
    assert len(cut_spheroids([spheroid("round", 20, 20)])) == 1


def test_only_single_spheroids_in_brightfield_are_cut(spheroids: list[Sample]) -> None:
    others = [spheroid("x", 20, 20, kind="fluorescence"), spheroid("y", 20, 20, truth=Truth.UNION)]
    assert [can_be_cut(sample) for sample in [*spheroids, *others]] == [True, True, False, False]
    assert list(field_samples(others, 3)) == []


def test_the_same_seed_gives_the_same_fields(spheroids: list[Sample]) -> None:
    cutouts = cut_spheroids(spheroids)
    first, again = list(compose_fields(cutouts, 3, 5)), list(compose_fields(cutouts, 2, 5))
    for one, two in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.pixels, two.pixels)
        np.testing.assert_array_equal(one.labels, two.labels)
    assert [field.kind for field in first] == list(LAYOUTS)
    assert not np.array_equal(first[0].pixels, next(compose_fields(cutouts, 1, 6)).pixels)


def test_each_object_is_connected_and_touches_others_as_its_layout_states(spheroids: list[Sample]) -> None:
    together = dict.fromkeys(LAYOUTS, 0)
    alone = dict.fromkeys(LAYOUTS, 0)
    for field in compose_fields(cut_spheroids(spheroids), 12, 7):
        labels = field.labels
        assert field.pixels.shape == labels.shape
        assert field.pixels.dtype == np.float32
        assert 0 <= field.pixels.min() < field.pixels.max() <= 255
        count = int(labels.max())
        assert 1 <= count <= LAYOUTS[field.kind].count[1]
        for number, box in enumerate(find_objects(labels), start=1):
            assert box is not None
            own = labels[box] == number
            assert cv2.connectedComponents(own.astype(np.uint8))[0] == 2
            around = cv2.dilate((labels == number).astype(np.uint8), np.ones((5, 5))) > 0
            touches = bool(set(np.unique(labels[around])) - {0, number})
            together[field.kind] += touches
            alone[field.kind] += not touches
    assert together["touching"] > 4 * alone["touching"]
    assert together["few"] < alone["few"]


def test_objects_are_where_the_truth_states(spheroids: list[Sample]) -> None:
    for field in compose_fields(cut_spheroids(spheroids), 6, 9):
        inside = cv2.erode((field.labels > 0).astype(np.uint8), np.ones((3, 3))) > 0
        beside = cv2.dilate((field.labels > 0).astype(np.uint8), np.ones((15, 15))) == 0
        assert abs(_level(field.pixels, inside) - _level(field.pixels, beside)) > 10


def test_a_field_names_the_source_of_its_spheroids(spheroids: list[Sample]) -> None:
    (sample,) = field_samples(spheroids, 1)
    assert (sample.set, sample.name, sample.truth) == (FIELDS, "fields/000 few", Truth.INSTANCES)
    assert (sample.source, sample.licence) == ("of drawn; composed by spheroseg", "MIT")


def test_single_spheroids_cycle_through_the_sizes_and_are_whole_if_they_fit(spheroids: list[Sample]) -> None:
    pictures = list(compose_sizes(cut_spheroids(spheroids), 2 * len(DIAMETER_SHARES), 3))
    for picture, share in zip(pictures, DIAMETER_SHARES * 2, strict=True):
        side = picture.labels.shape[0]
        assert picture.pixels.shape == picture.labels.shape == (side, side)
        inside = picture.labels > 0
        assert cv2.connectedComponents(inside.astype(np.uint8))[0] == 2
        if share <= 0.75:
            assert 2 * np.sqrt(inside.sum() / np.pi) / side == pytest.approx(share, rel=0.04)
            assert not np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).any()
        else:
            assert 0.8 < inside.mean() < 1
    assert not np.array_equal(pictures[0].labels, pictures[len(DIAMETER_SHARES)].labels)
    np.testing.assert_array_equal(pictures[1].pixels, list(compose_sizes(cut_spheroids(spheroids), 2, 3))[1].pixels)


def test_the_kind_of_a_picture_is_its_size(spheroids: list[Sample]) -> None:
    first, *_, last = size_samples(spheroids, len(DIAMETER_SHARES))
    assert (first.set, first.name, first.truth) == (SIZES, "sizes/000 0.05 of the side", Truth.INSTANCES)
    assert last.kind == "1.1 of the side"
    assert list(size_samples([], 3)) == []


def _level(pixels: Picture, where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    return float(np.median(pixels[where]))
