import numpy as np
import pytest

from spheroseg.segmentation.image import GreyImage
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import Segmentation, outline_objects
from spheroseg.training.baselines import BASELINES
from tests.support.synthetic import Picture, coverage, photograph

by_name = pytest.mark.parametrize("name", BASELINES)


def seen(name: str, pixels: Picture) -> Segmentation:
    model = BASELINES[name]()
    (maps,) = model.maps([pixels])
    return outline_objects(GreyImage(pixels, None), maps, model, Parameters())


@by_name
@pytest.mark.parametrize(
    ("ground", "object_"), [(200.0, 80.0), (20.0, 150.0)], ids=["dark objects", "bright objects"]
)
def test_the_side_of_the_threshold_is_guessed(name: str, ground: float, object_: float) -> None:
    pixels = photograph(coverage(200, 240, 40, 30, 20, (120, 100)), ground, object_, noise=4)
    (found,) = seen(name, pixels).objects
    assert found.measurements.area == pytest.approx(np.pi * 40 * 30, rel=0.05)
    assert (found.measurements.centroid_x, found.measurements.centroid_y) == pytest.approx((120, 100), abs=0.5)


@by_name
def test_the_outline_is_no_staircase(name: str) -> None:
    pixels = photograph(coverage(300, 300, 80, 80, 0, (150, 150)))
    (found,) = seen(name, pixels).objects
    assert found.measurements.circularity > 0.98


@by_name
def test_a_bright_middle_is_part_of_the_object(name: str) -> None:
    ring = coverage(300, 300, 80, 80, 0, (150, 150)) - coverage(300, 300, 50, 50, 0, (150, 150))
    (found,) = seen(name, photograph(ring)).objects
    assert found.measurements.n_holes == 0


@by_name
def test_a_picture_without_contrast_holds_nothing(name: str) -> None:
    assert seen(name, np.full((64, 80), 7, np.float32)).flags == ("no_object_found",)


def test_each_baseline_has_a_hash_of_its_own() -> None:
    assert len({make().sha256 for make in BASELINES.values()}) == len(BASELINES)
