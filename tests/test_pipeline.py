import io
import math
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from spheroseg.errors import BadImage, BadParameters, ModelUnusable
from spheroseg.segmentation.image import PixelSize
from spheroseg.segmentation.measure import DIMENSIONS, Measurements, measure
from spheroseg.segmentation.model import load_model
from spheroseg.segmentation.parameters import Parameters, with_defaults
from spheroseg.segmentation.pipeline import Segmentation
from spheroseg.segmentation.pixel_size import CONTRADICTION, NOT_SQUARE
from tests.support.segmenting import segment
from tests.support.synthetic import CAMERAS, FixedModel, Picture, coverage, disks, ellipse, outline, photograph, png

MODEL = load_model("classical-contrast")
cameras = pytest.mark.parametrize(("height", "width"), CAMERAS, ids=["1024x1024", "1920x1080", "4096x3000"])


def segment_picture(pixels: Picture, **options: Any) -> Segmentation:
    return segment(png(pixels), MODEL, Parameters(), **options)[0]


def only(segmentation: Segmentation) -> Measurements:
    (one,) = segmentation.objects
    assert segmentation.flags == ()
    return one.measurements


@cameras
@pytest.mark.parametrize("share", [0.08, 0.3], ids=["small", "large"])
def test_a_disk_is_round_for_every_camera(height: int, width: int, share: float) -> None:
    radius = share * height
    cover = coverage(height, width, radius, radius, 0, (width / 2 + 3.3, height / 2 - 5.8))
    m = only(segment_picture(photograph(cover)))
    assert m.circularity == pytest.approx(1.000, abs=0.005)
    assert m.area == pytest.approx(math.pi * radius**2, rel=0.005)
    assert (m.centroid_x, m.centroid_y) == pytest.approx((width / 2 + 3.3, height / 2 - 5.8), abs=0.05)


@cameras
@pytest.mark.parametrize(("angle", "bright"), [(0, False), (33, True), (120, False)])
def test_an_ellipse_has_its_true_values_for_every_camera(height: int, width: int, angle: float, bright: bool) -> None:
    a, b = 0.3 * height, 0.2 * height
    cover = coverage(height, width, a, b, angle, (width / 2, height / 2))
    m = only(segment_picture(photograph(cover, *((30, 160) if bright else (200, 80)))))
    truth = measure(outline(ellipse(a, b, angle, (width / 2, height / 2))))
    names = (
        "area perimeter circularity roundness equivalent_diameter major_axis minor_axis aspect_ratio "
        "feret_max feret_min feret_aspect_ratio eccentricity solidity convexity extent"
    )
    for name in names.split():
        assert getattr(m, name) == pytest.approx(getattr(truth, name), rel=0.005), name
    assert math.sin(math.radians(m.orientation_deg - angle)) == pytest.approx(0, abs=0.005)
    for name in ("volume_sphere", "volume_lw2", "volume_prolate", "volume_revolution"):
        assert getattr(m, name) == pytest.approx(getattr(truth, name), rel=0.015), name


def test_a_small_probability_map_is_resized_before_the_threshold() -> None:
    small = coverage(256, 256, 60, 60, 0, (128, 128), softness=4)
    picture = cv2.resize(photograph(small), (4096, 3000))
    result, _ = segment(png(picture), FixedModel(small), Parameters())
    m = only(result)
    # The map is stretched to the picture: 16 times in x, 11.72 times in y.
    truth = measure(outline(ellipse(60 * 16, 60 * 3000 / 256)))
    assert m.area == pytest.approx(truth.area, rel=2e-3)
    assert m.circularity == pytest.approx(truth.circularity, abs=2e-3)


def test_a_hole_belongs_to_its_spheroid() -> None:
    cover = np.zeros((400, 800), np.float32)
    for x, outer, inner in ((200, 120, 40), (600, 100, 20)):
        for radius, sign in ((outer, 1), (inner, -1)):
            cover += sign * coverage(400, 800, radius, radius, 0, (x, 200), softness=4)
    result, _ = segment(png(photograph(cover)), FixedModel(cover), Parameters())
    assert result.flags == ("several_objects",)
    areas = [(o.measurements.area, o.measurements.hole_area) for o in result.objects]
    expected = [(math.pi * (r**2 - h**2), math.pi * h**2) for r, h in ((120, 40), (100, 20))]
    for found, true in zip(areas, expected, strict=True):
        assert found == pytest.approx(true, rel=5e-3)


def test_an_object_at_the_edge_is_flagged_and_one_inside_is_not() -> None:
    cover = coverage(600, 800, 80, 80, 0, (20, 300)) + coverage(600, 800, 80, 80, 0, (400, 300))
    result = segment_picture(photograph(cover))
    assert [o.flags for o in sorted(result.objects, key=lambda o: o.measurements.centroid_x)] == [
        ("touches_edge",),
        (),
    ]


def test_an_empty_picture_gives_no_object_and_a_flag() -> None:
    result = segment_picture(photograph(np.zeros((300, 400), np.float32), noise=5))
    assert result.objects == ()
    assert result.flags == ("no_object_found",)
    assert result.labels.shape == (300, 400)
    assert not result.labels.any()


def test_labels_number_the_objects_in_their_order() -> None:
    cover = sum((coverage(500, 700, 50, 50, 0, at) for at in ((150, 90), (500, 250), (200, 400))), np.float32(0))
    result = segment_picture(photograph(np.asarray(cover, np.float32)))
    assert result.labels.dtype == np.uint16
    assert [int(result.labels[y, x]) for x, y in ((150, 90), (500, 250), (200, 400))] == [1, 2, 3]
    for number, one in enumerate(result.objects, start=1):
        assert (result.labels == number).sum() == pytest.approx(one.measurements.area, rel=0.02)


def test_the_result_records_what_was_used() -> None:
    picture = photograph(coverage(600, 800, 80, 80, 0, (400, 300)))
    result = segment_picture(picture)
    assert (result.width, result.height) == (800, 600)
    assert (result.model_name, result.model_version) == (MODEL.name, MODEL.version)
    assert result.model_sha256 == MODEL.sha256
    assert result.parameters == {
        "threshold": 0.5,
        "min_area_px": pytest.approx(96),
        "min_area_um2": None,
        "objects": "all",
        "edge": "keep",
        "separate": True,
    }
    assert set(result.durations_ms) == {"outlines"}
    assert all(duration >= 0 for duration in result.durations_ms.values())
    wish = Parameters(0.3, 7, 10, "largest", "discard", separate=False)
    calibrated_result, _ = segment(png(picture), MODEL, wish, pixel_size_um=2)
    assert calibrated_result.parameters == {
        "threshold": 0.3,
        "min_area_px": 7.0,
        "min_area_um2": 10.0,
        "objects": "largest",
        "edge": "discard",
        "separate": False,
    }


def test_smaller_objects_than_the_minimum_area_are_left_out() -> None:
    cover = coverage(600, 800, 80, 80, 0, (400, 300))
    result, _ = segment(png(photograph(cover)), MODEL, Parameters(min_area_px=30_000))
    assert result.flags == ("no_object_found",)


TOUCHING = ((110.0, 130.0, 60.0), (210.0, 150.0, 60.0))


def choose_of_two(**wish: Any) -> list[tuple[int, int]]:
    """Segment two touching disks, one in the middle and a larger one at the edge. Return where the kept ones are."""
    cover = disks((300, 800), [*TOUCHING, (405, 160, 30), (790, 120, 90)])
    result, _ = segment(
        png(photograph(cover.probability)), FixedModel(cover.probability, cover.distance), parameters_of(wish)
    )
    numbers = [int(n) for n in np.unique(result.labels) if n]
    assert numbers == list(range(1, len(result.objects) + 1))
    places = []
    for number, one in enumerate(result.objects, start=1):
        m = one.measurements
        assert result.labels[int(m.centroid_y), int(m.centroid_x)] == number
        assert (result.labels == number).sum() == pytest.approx(m.area, rel=0.02)
        places.append((round(m.centroid_x / 100), round(m.centroid_y / 100)))
    return sorted(places)


def parameters_of(wish: dict[str, Any]) -> Parameters:
    return Parameters(**{"min_area_px": 100, **wish})


def test_the_chosen_objects_are_kept_and_numbered() -> None:
    assert choose_of_two() == [(1, 1), (2, 2), (4, 2), (8, 1)]
    assert choose_of_two(edge="discard") == [(1, 1), (2, 2), (4, 2)]
    assert choose_of_two(objects="largest") == [(8, 1)]
    assert choose_of_two(objects="most_central") == [(4, 2)]
    assert choose_of_two(objects="most_central", min_area_px=4000) == [(2, 2)]
    assert choose_of_two(objects="largest", edge="discard", separate=False) == [(2, 1)]
    assert choose_of_two(separate=False) == [(2, 1), (4, 2), (8, 1)]


def test_a_picture_whose_objects_are_all_discarded_is_flagged() -> None:
    cover = coverage(300, 400, 60, 60, 0, (20, 150))
    result, _ = segment(png(photograph(cover)), FixedModel(cover), Parameters(edge="discard", objects="largest"))
    assert (result.objects, result.flags, int(result.labels.max())) == ((), ("no_object_found",), 0)


def test_a_minimum_area_in_um2_is_converted_by_the_pixel_size() -> None:
    cover = coverage(300, 800, 60, 60, 0, (200, 150)) + coverage(300, 800, 30, 30, 0, (600, 150))
    for um2, um, count in ((4000, 1, 1), (4000, 2, 2), (900, 0.5, 1), (700, 0.5, 2), (0, 0.5, 2)):
        wish = Parameters(min_area_um2=um2)
        result, _ = segment(png(photograph(cover)), FixedModel(cover), wish, pixel_size_um=um)
        assert len(result.objects) == count
        assert result.parameters["min_area_px"] == pytest.approx(um2 / um**2)
    both = Parameters(min_area_px=5000, min_area_um2=1)
    result, _ = segment(png(photograph(cover)), FixedModel(cover), both, pixel_size_um=1)
    assert (len(result.objects), result.parameters["min_area_px"]) == (1, 5000)


def test_a_minimum_area_in_um2_without_a_pixel_size_says_what_to_do() -> None:
    with pytest.raises(BadParameters, match=r"min_area_um2 is 400.*give the pixel size, or min_area_px"):
        segment(png(np.zeros((60, 60))), FixedModel(np.zeros((60, 60), np.float32)), Parameters(min_area_um2=400))


def test_segmentation_is_deterministic() -> None:
    picture = photograph(coverage(600, 800, 120, 80, 20, (400, 300)), noise=4)
    assert only(segment_picture(picture)) == only(segment_picture(picture))


def calibrated(**resolution: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture = photograph(coverage(300, 400, 60, 60, 0, (200, 150))).astype(np.uint8)
    tifffile.imwrite(file, picture, imagej=True, metadata={"unit": "um"}, **resolution)
    file.seek(0)
    return file


def test_a_given_pixel_size_takes_precedence_over_that_of_the_file() -> None:
    from_file, _ = segment(calibrated(resolution=(2.0, 2.0)), MODEL, Parameters())
    assert from_file.pixel_size == PixelSize(0.5, "ImageJ")
    result, image = segment(calibrated(resolution=(2.0, 2.0)), MODEL, Parameters(), pixel_size_um=0.65)
    assert result.pixel_size == image.pixel_size == PixelSize(0.65, "option", (PixelSize(0.5, "ImageJ"),))
    assert result.flags == (CONTRADICTION,)
    agreed, _ = segment(calibrated(resolution=(2.0, 2.0)), MODEL, Parameters(), pixel_size_um=0.502)
    assert agreed.pixel_size == PixelSize(0.502, "option")
    m = only(agreed)
    assert m == only(from_file)
    assert m.area * 0.65 ** DIMENSIONS["area"] == pytest.approx(m.area * 0.4225)
    assert segment_picture(photograph(coverage(300, 400, 60, 60, 0, (200, 150)))).pixel_size is None


def test_pixels_that_are_not_square_are_flagged() -> None:
    found, _ = segment(calibrated(resolution=(2.0, 1.0)), MODEL, Parameters())
    assert (found.pixel_size, found.flags) == (None, (NOT_SQUARE,))
    given, _ = segment(calibrated(resolution=(2.0, 1.0)), MODEL, Parameters(), pixel_size_um=0.65)
    assert (given.pixel_size, given.flags) == (PixelSize(0.65, "option"), (NOT_SQUARE,))


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, True, "0.65"])
def test_an_invalid_pixel_size_is_refused(size: Any) -> None:
    with pytest.raises(BadParameters, match="pixel size"):
        segment(calibrated(), MODEL, Parameters(), pixel_size_um=size)


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 1.5, math.nan, math.inf, None, "0.5", True])
def test_a_threshold_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(BadParameters, match="threshold"):
        Parameters(threshold=wrong)


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "many", False])
@pytest.mark.parametrize("name", ["min_area_px", "min_area_um2"])
def test_a_minimum_area_out_of_range_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(BadParameters, match=name):
        Parameters(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("objects", "smallest", "all, largest, most_central"),
        ("objects", None, "all, largest, most_central"),
        ("edge", "cut", "keep, discard"),
        ("edge", ["keep"], "keep, discard"),
        ("separate", 1, "true or false"),
        ("separate", None, "true or false"),
    ],
)
def test_an_unknown_value_is_refused_with_the_allowed_ones(name: str, wrong: Any, words: str) -> None:
    with pytest.raises(BadParameters, match=words):
        Parameters(**{name: wrong})


def test_older_stored_parameters_keep_their_meaning() -> None:
    old: dict[str, Any] = {"threshold": 0.4, "min_area_px": 12.0}
    assert with_defaults(old) == asdict(Parameters(**old))
    assert with_defaults(asdict(Parameters(edge="discard"))) != with_defaults({})


def test_a_page_of_a_stack_is_segmented_on_its_own() -> None:
    pages = [photograph(coverage(300, 400, r, r, 0, (200, 150))) for r in (40, 60, 80)]
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack(pages).astype(np.uint16) * 200, photometric="minisblack")
    for page, radius in enumerate((40, 60, 80)):
        result, _ = segment(file, MODEL, Parameters(), page=page)
        assert only(result).equivalent_diameter == pytest.approx(2 * radius, rel=5e-3)


def test_distances_of_another_shape_are_refused() -> None:
    for distance in (np.zeros((20, 40)), np.full((30, 40), np.nan), np.zeros((1, 30, 40))):
        model = FixedModel(np.zeros((30, 40), np.float32), distance.astype(np.float32))
        with pytest.raises(ModelUnusable, match="distances"):
            segment(png(np.zeros((30, 40))), model, Parameters())


def test_the_error_of_a_bad_image_is_passed_on() -> None:
    with pytest.raises(BadImage, match="0 bytes"):
        segment(io.BytesIO(), MODEL, Parameters())


@pytest.mark.parametrize("answer", [np.full((30, 40), np.nan), np.zeros((3, 30, 40))], ids=["nan", "three axes"])
def test_an_answer_that_is_no_map_is_refused(answer: Picture) -> None:
    with pytest.raises(ModelUnusable, match="fixed"):
        segment(png(np.zeros((30, 40))), FixedModel(answer), Parameters())
