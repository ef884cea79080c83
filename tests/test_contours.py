import math

import numpy as np
import pytest

from spheroseg.errors import BadParameters
from spheroseg.segmentation import contours
from spheroseg.segmentation.contours import Outline, net_area, signed_area, trace
from spheroseg.segmentation.measure import measure
from tests.support.synthetic import Picture, coverage


def disk(height: int, width: int, radius: float, x: float, y: float) -> Picture:
    return coverage(height, width, radius, radius, 0, (x, y))


def trace_outlines(probability: Picture, threshold: float = 0.5, min_area_px: float = 10.0) -> list[Outline]:
    return trace(probability, threshold, min_area_px)[1]


@pytest.mark.parametrize("radius", [10, 20, 100, 300])
def test_perimeter_and_area_of_a_probability_map_are_exact_at_any_size(radius: float) -> None:
    side = int(2 * radius + 40)
    (outline,) = trace_outlines(coverage(side, side, radius, radius, 0, (side / 2 + 0.3, side / 2 - 0.2), softness=6))
    m = measure(outline)
    assert m.perimeter == pytest.approx(2 * math.pi * radius, rel=1e-3 if radius < 20 else 2e-4)
    assert m.area == pytest.approx(math.pi * radius**2, rel=3e-3)
    assert m.circularity == pytest.approx(1, abs=2e-3 if radius < 20 else 5e-4)


def test_the_hard_edge_of_a_mask_changes_circularity_by_less_than_half_a_percent() -> None:
    (outline,) = trace_outlines(disk(300, 300, 100, 150.3, 149.8))
    assert measure(outline).circularity == pytest.approx(1, abs=0.005)


def test_coordinates_count_from_the_corner_of_the_first_pixel() -> None:
    (outline,) = trace_outlines(disk(100, 200, 20, 60.0, 40.0))
    m = measure(outline)
    assert (m.centroid_x, m.centroid_y) == pytest.approx((60, 40), abs=0.01)
    assert (m.bbox_x0, m.bbox_x1) == pytest.approx((40, 80), abs=0.1)


def test_a_full_picture_is_outlined_along_its_edge() -> None:
    (outline,) = trace_outlines(np.ones((30, 50), np.float32))
    m = measure(outline)
    assert (m.bbox_x0, m.bbox_y0, m.bbox_x1, m.bbox_y1) == (0, 0, 50, 30)
    assert m.area == pytest.approx(1500, abs=1)


def test_an_object_at_the_border_is_closed_on_the_edge() -> None:
    labels, (outline,) = trace(disk(100, 100, 30, 0.0, 50.0), 0.5, 10)
    m = measure(outline)
    assert m.bbox_x0 == 0
    assert m.area == pytest.approx(math.pi * 30**2 / 2, rel=5e-3)
    assert m.perimeter == pytest.approx(math.pi * 30 + 60, rel=5e-3)
    assert labels[50, 0] == 1


def test_a_quarter_disk_in_the_far_corner_reaches_both_edges() -> None:
    (outline,) = trace_outlines(disk(80, 120, 30, 120.0, 80.0))
    m = measure(outline)
    assert (m.bbox_x1, m.bbox_y1) == (120, 80)
    assert m.area == pytest.approx(math.pi * 30**2 / 4, rel=5e-3)


def test_holes_stay_with_their_object_and_run_the_other_way() -> None:
    ring = disk(200, 400, 60, 100, 100) - disk(200, 400, 20, 100, 100)
    other = disk(200, 400, 50, 300, 100) - disk(200, 400, 10, 310, 100)
    labels, outlines = trace(ring + other, 0.5, 10)
    assert [len(outline.holes) for outline in outlines] == [1, 1]
    for outline, outer, inner in zip(outlines, (60, 50), (20, 10), strict=True):
        assert signed_area(outline.outer) > 0 > signed_area(outline.holes[0])
        assert net_area(outline) == pytest.approx(math.pi * (outer**2 - inner**2), rel=3e-3)
    assert labels[100, 100] == labels[100, 310] == 0
    assert (labels[100, 60], labels[100, 340]) == (1, 2)


def test_an_object_inside_the_hole_of_another_is_an_object() -> None:
    ring = disk(200, 200, 80, 100, 100) - disk(200, 200, 50, 100, 100)
    _, outlines = trace(ring + disk(200, 200, 20, 100, 100), 0.5, 10)
    assert sorted(round(net_area(o) / math.pi) for o in outlines) == pytest.approx([400, 3900], rel=0.01)


def test_a_hole_of_a_pixel_is_filled_in_outline_and_labels() -> None:
    probability = disk(60, 60, 20, 30, 30)
    probability[30, 30] = 0.2
    labels, (outline,) = trace(probability, 0.5, 10)
    assert outline.holes == ()
    assert labels[30, 30] == 1


def test_pixels_that_touch_at_a_corner_are_one_object() -> None:
    probability = np.zeros((40, 40), np.float32)
    probability[5:15, 5:15] = probability[15:25, 15:25] = 1
    labels, outlines = trace(probability, 0.5, 10)
    assert len(outlines) == 1
    assert labels.max() == 1


def test_a_close_neighbour_does_not_change_an_outline() -> None:
    left, right = disk(100, 200, 30, 60, 50), disk(100, 200, 30, 121.5, 50)
    both = trace_outlines(np.maximum(left, right))
    alone = trace_outlines(left) + trace_outlines(right)
    assert [net_area(o) for o in both] == pytest.approx([net_area(o) for o in alone], rel=1e-3)


def test_objects_are_numbered_from_top_to_bottom() -> None:
    spots = [(150, 20), (40, 60), (160, 100)]
    probability = sum((disk(130, 200, 12, x, y) for x, y in spots), np.zeros((130, 200), np.float32))
    labels, outlines = trace(probability.astype(np.float32), 0.5, 10)
    assert [int(labels[y, x]) for x, y in spots] == [1, 2, 3]
    assert [round(measure(o).centroid_y) for o in outlines] == [20, 60, 100]


def test_labels_and_outlines_name_the_same_objects() -> None:
    rng = np.random.default_rng(3)
    labels, outlines = trace(rng.random((120, 150)).astype(np.float32), 0.6, 5)
    assert labels.dtype == np.uint16
    assert int(labels.max()) == len(outlines) > 10
    for number, outline in enumerate(outlines, start=1):
        rows, columns = np.nonzero(labels == number)
        x0, y0 = outline.outer.min(axis=0)
        x1, y1 = outline.outer.max(axis=0)
        assert x0 <= columns.min() + 0.5 <= columns.max() + 0.5 <= x1
        assert y0 <= rows.min() + 0.5 <= rows.max() + 0.5 <= y1


def test_objects_below_the_minimum_are_left_out_of_labels_and_outlines() -> None:
    probability = np.maximum(disk(100, 200, 20, 50, 50), disk(100, 200, 4, 150, 50))
    labels, outlines = trace(probability, 0.5, 100)
    assert len(outlines) == 1
    assert labels[50, 150] == 0


def test_the_threshold_moves_the_outline_along_a_ramp() -> None:
    y, x = np.mgrid[0:200, 0:200] + 0.5
    cone = np.clip(1 - np.hypot(x - 100, y - 100) / 80, 0, 1).astype(np.float32)
    for threshold in (0.25, 0.5, 0.75):
        (outline,) = trace_outlines(cone, threshold)
        assert measure(outline).equivalent_diameter == pytest.approx(160 * (1 - threshold), rel=2e-3)


def test_a_map_without_objects_gives_none() -> None:
    labels, outlines = trace(np.full((50, 60), 0.3, np.float32), 0.5, 0)
    assert outlines == []
    assert labels.shape == (50, 60)
    assert not labels.any()


def test_more_objects_than_a_label_image_can_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contours, "MAX_OBJECTS", 99)
    probability = np.full((20, 20), 0.4, np.float32)
    probability[::2, ::2] = 1
    with pytest.raises(BadParameters, match="more than 99 objects"):
        trace(probability, 0.5, 0)
