"""Contour lines and the pixels of a polygon: the same as those of scikit-image."""

import numpy as np
import pytest
from skimage.draw import polygon as skimage_polygon
from skimage.measure import find_contours

from spheroseg.segmentation.marching_squares import MAX_COMPARISONS, contour_lines, pixels_inside


@pytest.mark.parametrize("steps", [2, 3, 8, 1000], ids="{} values".format)
def test_contour_lines_are_those_of_scikit_image_bit_for_bit_and_in_their_order(steps: int) -> None:
    # With few values, pixels lie exactly at the level and many squares have two lines.
    random = np.random.default_rng(steps)
    for _ in range(300):
        values = random.integers(0, steps + 1, random.integers(2, 14, 2)) / steps
        for level in (0.0, 0.5, 0.71):
            expected = find_contours(values, level, fully_connected="high")  # type: ignore[no-untyped-call]
            lines = contour_lines(values, level)
            assert len(lines) == len(expected)
            for line, other in zip(lines, expected, strict=True):
                assert np.array_equal(line, other)


def test_a_map_without_a_crossing_has_no_line() -> None:
    assert contour_lines(np.zeros((5, 5)), 0.5) == []


def test_the_pixels_inside_a_polygon_are_those_of_scikit_image() -> None:
    random = np.random.default_rng(0)
    for number in range(500):
        corners = random.uniform(-2, 12, (random.integers(3, 9), 2))
        if number % 2:
            corners = np.round(2 * corners) / 2  # pixels on edges and corners
        rows, columns = pixels_inside(corners, (9, 10))
        expected = skimage_polygon(corners[:, 0], corners[:, 1], (9, 10))  # type: ignore[no-untyped-call]
        assert np.array_equal(rows, expected[0])
        assert np.array_equal(columns, expected[1])


def test_a_large_polygon_of_many_corners_is_filled_in_blocks() -> None:
    angles = np.linspace(0, 2 * np.pi, 1500, endpoint=False)
    circle = 60 + 50 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    assert 100 * 100 * len(circle) > 3 * MAX_COMPARISONS
    rows, columns = pixels_inside(circle, (120, 120))
    expected = skimage_polygon(circle[:, 0], circle[:, 1], (120, 120))  # type: ignore[no-untyped-call]
    assert np.array_equal(rows, expected[0])
    assert np.array_equal(columns, expected[1])
