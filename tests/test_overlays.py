import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from spheroseg.export.overlays import encode_overlay
from spheroseg.segmentation.contours import trace
from spheroseg.segmentation.measure import measure
from spheroseg.segmentation.pipeline import SegmentedObject
from tests.support.synthetic import Picture, coverage, photograph


def draw(pixels: Picture, objects: list[SegmentedObject]) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(Pillow.open(io.BytesIO(encode_overlay(pixels, objects)))).astype(np.int16)


def found(cover: Picture) -> list[SegmentedObject]:
    return [SegmentedObject(outline, measure(outline), ()) for outline in trace(cover, 0.5, 10)[1]]


def coloured(
    canvas: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return canvas[..., 0] - canvas[..., 2] > 60


@pytest.mark.parametrize(
    ("shape", "drawn_shape"),
    [((150, 150), (600, 600)), ((1040, 1392), (1040, 1392)), ((3000, 4096), (1500, 2048))],
    ids=["small is enlarged", "middling is kept", "large is reduced"],
)
def test_small_images_are_enlarged_and_large_ones_reduced(
    shape: tuple[int, int], drawn_shape: tuple[int, int]
) -> None:
    assert draw(np.zeros(shape, np.float32), []).shape == (*drawn_shape, 3)


def test_the_outline_lies_on_the_edge_and_holes_have_one_too() -> None:
    cover = coverage(300, 300, 100, 100, 0, (150, 150)) - coverage(300, 300, 50, 50, 0, (150, 150))
    amber = coloured(draw(photograph(cover), found(cover)))
    rows, columns = np.nonzero(amber)
    distance = np.hypot(columns + 0.5 - 300, rows + 0.5 - 300)
    # Half the width of the line, and the colour that JPEG spreads to the neighbouring pixels.
    assert distance.max() == pytest.approx(200, abs=3)
    assert distance.min() == pytest.approx(100, abs=3)
    assert not np.any((distance > 105) & (distance < 195))


def test_each_object_has_its_number() -> None:
    cover = coverage(300, 600, 60, 60, 0, (150, 150)) + coverage(300, 600, 60, 60, 0, (450, 150))
    plain = photograph(cover)
    canvas = draw(plain, found(cover))
    for x in (150, 450):
        patch = canvas[130:170, x - 20 : x + 20]
        assert patch.max() > 240
        assert patch.min() < 20


def test_a_doubtful_outline_has_another_colour() -> None:
    cover = coverage(700, 700, 100, 100, 0, (350, 350))
    (one,) = found(cover)
    for flags, is_amber in (((), True), (("touches_edge",), True), (("out_of_focus",), False)):
        canvas = draw(photograph(cover), [replace(one, flags=flags)])
        assert coloured(canvas).any() == is_amber
        assert np.any(canvas[..., 0] - canvas[..., 1] > 60) != is_amber


def test_without_objects_the_overlay_is_grey() -> None:
    canvas = draw(photograph(coverage(200, 200, 50, 50, 0, (100, 100))), [])
    assert np.array_equal(canvas[..., 0], canvas[..., 1])
    assert np.array_equal(canvas[..., 1], canvas[..., 2])


def test_a_dim_16_bit_image_is_stretched_to_full_contrast() -> None:
    pixels = 1000 + 200 * coverage(700, 700, 200, 200, 0, (350, 350))
    canvas = draw(pixels.astype(np.float32), [])
    assert (canvas.min(), canvas.max()) == (0, 255)


def test_a_constant_image_can_be_drawn() -> None:
    assert np.unique(draw(np.full((700, 700), 5, np.float32), [])).size == 1
