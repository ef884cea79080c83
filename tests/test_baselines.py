import numpy as np
import pytest

from spheroseg.segmentation.image import GreyImage
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import Segmentation, outline_objects
from spheroseg.training.baselines import BASELINES
from tests.support.synthetic import Picture, coverage, photograph

by_name = pytest.mark.parametrize("name", BASELINES)


def segment_picture(name: str, pixels: Picture) -> Segmentation:
    model = BASELINES[name]()
    (maps,) = model.maps([pixels])
    return outline_objects(GreyImage(pixels, None), maps, model, Parameters())


@by_name
@pytest.mark.parametrize(
    ("ground", "object_"), [(200.0, 80.0), (20.0, 150.0)], ids=["dark objects", "bright objects"]
)
def test_dark_and_bright_objects_are_found_without_a_setting(name: str, ground: float, object_: float) -> None:
    pixels = photograph(coverage(200, 240, 40, 30, 20, (120, 100)), ground, object_, noise=4)
    (found,) = segment_picture(name, pixels).objects
    assert found.measurements.area == pytest.approx(np.pi * 40 * 30, rel=0.05)
    assert (found.measurements.centroid_x, found.measurements.centroid_y) == pytest.approx((120, 100), abs=0.5)


@by_name
def test_the_outline_has_no_steps(name: str) -> None:
    pixels = photograph(coverage(300, 300, 80, 80, 0, (150, 150)))
    (found,) = segment_picture(name, pixels).objects
    assert found.measurements.circularity > 0.98


@by_name
def test_a_bright_middle_is_part_of_the_object(name: str) -> None:
    ring = coverage(300, 300, 80, 80, 0, (150, 150)) - coverage(300, 300, 50, 50, 0, (150, 150))
    (found,) = segment_picture(name, photograph(ring)).objects
    assert found.measurements.n_holes == 0


@by_name
def test_a_flat_picture_has_no_object(name: str) -> None:
    assert segment_picture(name, np.full((64, 80), 7, np.float32)).flags == ("no_object_found",)


def test_each_baseline_has_its_own_hash() -> None:
    assert len({make().sha256 for make in BASELINES.values()}) == len(BASELINES)
