"""The quality flags of outlines, on pictures of known blur and contrast and on real ones."""

import cv2
import numpy as np
import pytest

from spheroseg.segmentation.contours import trace
from spheroseg.segmentation.model import load_model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.quality import Quality, assess_quality
from tests.support.plates import EXAMPLES
from tests.support.segmenting import segment
from tests.support.synthetic import FixedModel, Picture, coverage, disks, photograph, png

MODEL = load_model("classical-contrast")


def assess(picture: Picture, probability: Picture) -> list[Quality]:
    labels, outlines = trace(probability, 0.5, 10)
    return [assess_quality(picture, probability, labels, number, one) for number, one in enumerate(outlines, start=1)]


def disk(radius: float, softness: float = 1.0) -> Picture:
    side = round(4 * radius)
    return coverage(side, side, radius, radius, 0, (side / 2, side / 2), softness)


def add_noise(picture: Picture, sigma: float, seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    return np.asarray(picture + rng.normal(0, sigma, picture.shape), np.float32)


def blur(picture: Picture, sigma: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


@pytest.mark.parametrize("radius", [6, 12, 30, 64, 200])
def test_a_sharp_object_of_good_contrast_has_no_flag(radius: float) -> None:
    (quality,) = assess(add_noise(photograph(disk(radius)), 5), disk(radius))
    assert quality.flags == ()
    assert quality.edge_width is not None
    assert quality.edge_width < 0.1


@pytest.mark.parametrize("radius", [30, 64, 200])
@pytest.mark.parametrize("background", [200, 10], ids=["dark object", "bright object"])
def test_the_edge_width_is_that_of_the_blur(radius: float, background: float) -> None:
    for share in (0.05, 0.08, 0.15):
        picture = blur(photograph(disk(radius), background, 100), share * radius)
        (quality,) = assess(picture, disk(radius))
        # The steepest slope of a Gaussian edge is that of a ramp of √(2π) standard deviations.
        assert quality.edge_width == pytest.approx(2.507 * share, rel=0.2, abs=0.03)
        assert ("out_of_focus" in quality.flags) == (share > 0.1)


@pytest.mark.parametrize("radius", [12, 30, 200])
def test_contrast_is_a_multiple_of_the_noise(radius: float) -> None:
    for step, is_low in ((60, False), (12, True)):
        (quality,) = assess(add_noise(photograph(disk(radius), 100, 100 + step), 8), disk(radius))
        assert quality.contrast is not None
        # Interpolation between pixels and reduction lower the noise.
        assert quality.contrast > step / 8 * 0.9
        if radius <= 30:
            assert quality.contrast < step / 8 * 2.5
            assert ("low_contrast" in quality.flags) == is_low


def test_scattered_cells_beside_an_object_are_not_noise() -> None:
    picture = add_noise(photograph(disk(50), 20, 120), 3)
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(0, 200, (60, 2)):
        if np.hypot(x - 100, y - 100) > 56:
            picture += 60 * coverage(200, 200, 3, 3, 0, (x, y))
    (quality,) = assess(picture, disk(50))
    assert quality.flags == ()


def test_a_soft_map_gives_an_uncertain_outline() -> None:
    for softness, is_uncertain in ((2, False), (10, False), (40, True)):
        (quality,) = assess(photograph(disk(40)), disk(40, softness))
        # Half of the ramp lies between a quarter and three quarters.
        assert quality.uncertainty == pytest.approx(softness / 40, rel=0.15, abs=0.02)
        assert ("uncertain_outline" in quality.flags) == is_uncertain


def test_pixels_of_a_neighbour_are_not_counted() -> None:
    maps = disks((200, 400), [(100, 100, 50), (210, 100, 55)])
    soft = np.maximum(maps.probability, coverage(200, 400, 55, 55, 0, (210, 100), 60))
    qualities = assess(photograph(maps.probability), np.asarray(soft, np.float32))
    assert [quality.uncertainty > 0.5 for quality in qualities].count(True) <= 1


def test_an_object_that_fills_the_picture_has_no_background_to_compare_with() -> None:
    (quality,) = assess(np.full((60, 80), 9, np.float32), np.ones((60, 80), np.float32))
    assert (quality.contrast, quality.edge_width, quality.flags) == (None, None, ())


def test_an_object_that_is_not_visible_has_low_contrast() -> None:
    (quality,) = assess(np.zeros((120, 120), np.float32), disk(30))
    assert quality.flags == ("low_contrast",)


def test_the_image_has_the_flags_of_its_largest_object() -> None:
    cover = coverage(300, 500, 60, 60, 0, (120, 150)) + coverage(300, 500, 30, 30, 0, (400, 150))
    sharp = photograph(cover)
    soft = blur(sharp, 12)
    left_soft, right_soft = sharp.copy(), sharp.copy()
    left_soft[:, :280], right_soft[:, 280:] = soft[:, :280], soft[:, 280:]
    result, _ = segment(png(left_soft), FixedModel(cover), Parameters())
    assert result.flags == ("several_objects", "out_of_focus")
    assert [one.flags for one in result.objects] == [("out_of_focus",), ()]
    result, _ = segment(png(right_soft), FixedModel(cover), Parameters())
    assert result.flags == ("several_objects",)
    assert [one.flags[-1:] for one in result.objects] == [(), ("out_of_focus",)]


def flags(picture: Picture) -> set[str]:
    result, _ = segment(png(np.clip(np.round(picture), 0, 255)), MODEL, Parameters())
    return {flag for one in result.objects for flag in one.flags if flag != "touches_edge"}


def test_real_spheroids_are_flagged_only_if_they_are_degraded() -> None:
    pictures = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(EXAMPLES.glob("*.png"))]
    grey = [np.asarray(picture, np.float32) for picture in pictures if picture is not None]
    assert len(grey) == 8
    assert [flags(picture) for picture in grey] == [set()] * 8
    # A fifth of the radius.
    out_of_focus = [flags(blur(picture, 5)) for picture in grey]
    assert sum("out_of_focus" in found for found in out_of_focus) >= 7
    assert [flags(blur(picture, 1)) for picture in grey] == [set()] * 8
    faint = [flags(add_noise(picture.mean() + 0.05 * (picture - picture.mean()), 3)) for picture in grey]
    assert sum(bool(found & {"low_contrast", "uncertain_outline"}) for found in faint) >= 7
