"""Touching objects: when they are separated, and that the border between them has no gap and no overlap."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest

from spheroseg.segmentation.contours import Outline, net_area, trace
from spheroseg.segmentation.instances import find_instances
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.measure import measure
from spheroseg.segmentation.watershed import basins
from tests.support.synthetic import Picture, coverage, disks

Labels = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]


def separated(maps: Maps, shape: tuple[int, int] | None = None) -> tuple[Labels, list[Outline], list[Outline]]:
    """Return labels and outlines with touching objects separated, and the outlines without."""
    shape = shape or (maps.probability.shape[0], maps.probability.shape[1])
    probability = np.asarray(cv2.resize(maps.probability, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    labels, outlines = trace(probability, 0.5, 10, find_instances(maps, 0.5, shape))
    return labels, outlines, trace(probability, 0.5, 10)[1]


def two_disks(depth: float, angle: float, ratio: float = 1.0, radius: float = 50.0) -> Maps:
    """Return two disks. `depth` 0: they just touch. 1: the centre of the second lies on the outline of the first."""
    other = radius * ratio
    away = radius + other - depth * min(radius, other)
    dx, dy = away * math.cos(math.radians(angle)) / 2, away * math.sin(math.radians(angle)) / 2
    return disks((240, 300), [(150 - dx, 120 - dy, radius), (150.3 + dx, 120.2 + dy, other)])


def truncated_disk_area(radius: float, chord_at: float) -> float:
    """Return the area of a disk without the segment beyond a chord at this distance from its centre."""
    return (
        math.pi * radius**2 - radius**2 * math.acos(chord_at / radius) + chord_at * math.sqrt(radius**2 - chord_at**2)
    )


def count_common_points(one: Outline, other: Outline) -> int:
    return len(set(map(tuple, one.outer.tolist())) & set(map(tuple, other.outer.tolist())))


@pytest.mark.parametrize("angle", [0, 17, 45, 90])
@pytest.mark.parametrize("depth", [0.1, 0.3, 0.6, 1.0])
def test_two_disks_are_separated_and_their_areas_add_up(depth: float, angle: float) -> None:
    _, parts, (whole,) = separated(two_disks(depth, angle))
    assert len(parts) == 2
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=0.1)
    for part in parts:
        assert net_area(part) == pytest.approx(truncated_disk_area(50, (100 - depth * 50) / 2), rel=0.015)


@pytest.mark.parametrize("ratio", [0.4, 0.7])
@pytest.mark.parametrize("depth", [0.2, 0.5])
def test_a_small_disk_beside_a_large_one_keeps_its_area(ratio: float, depth: float) -> None:
    _, parts, (whole,) = separated(two_disks(depth, 30, ratio))
    assert len(parts) == 2
    # A gap on the border, which would be filled as a hole of the whole, is under 4 px².
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=4)
    small, large = 50 * ratio, 50.0
    away = small + large - depth * small + 0.3 * math.cos(math.radians(30)) + 0.2 * math.sin(math.radians(30))
    chord = (away**2 + large**2 - small**2) / (2 * away)
    areas = sorted(map(net_area, parts))
    assert areas[1] == pytest.approx(truncated_disk_area(large, chord), rel=0.01)
    assert areas[0] == pytest.approx(truncated_disk_area(small, away - chord), rel=0.04)


@pytest.mark.parametrize("shape", [(240, 300), (960, 1200), (2407, 3011), (100, 130)], ids=str)
def test_the_border_is_shared_and_straight_at_any_size_of_the_picture(shape: tuple[int, int]) -> None:
    _, parts, (whole,) = separated(two_disks(0.4, 25), shape)
    first, second = parts
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=0.1)
    shared = np.array(sorted(set(map(tuple, first.outer.tolist())) & set(map(tuple, second.outer.tolist()))))
    # 60 px of the map are the chord.
    assert len(shared) >= 50 * shape[1] / 300
    middle = shared - shared.mean(axis=0)
    across = np.abs(middle @ np.linalg.svd(middle, full_matrices=False)[2][1])
    assert across.max() < max(1.0, 0.8 * shape[1] / 300), "px of the map, or of the picture"


def test_the_perimeter_along_the_border_has_no_steps() -> None:
    _, parts, _ = separated(two_disks(0.6, 33))
    chord_at = 35.0
    arc = 2 * math.pi * 50 - 2 * 50 * math.acos(chord_at / 50)
    for part in parts:
        assert measure(part).perimeter == pytest.approx(arc + 2 * math.sqrt(50**2 - chord_at**2), rel=0.01)


def test_labels_and_outlines_agree_and_do_not_overlap() -> None:
    places = [(60 + 70 * (i % 4) + 3 * i, 60 + 66 * (i // 4), 38.0 + i % 3) for i in range(12)]
    labels, parts, wholes = separated(disks((280, 380), places))
    assert (len(parts), len(wholes)) == (12, 1)
    times = np.zeros(labels.shape, int)
    for number, part in enumerate(parts, start=1):
        # Drawn at sixteen times the resolution; pixel centres have whole numbers.
        points = np.round((part.outer - 0.5) * 16).astype(np.int32)
        filled = cv2.fillPoly(np.zeros(labels.shape, np.uint8), [points], 1, shift=4)
        own = labels == number
        edge = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8)) != cv2.erode(
            own.astype(np.uint8), np.ones((3, 3), np.uint8)
        )
        assert ((filled > 0) == own)[~edge].all()
        times += own
    assert times.max() == 1
    assert sum(map(net_area, parts)) == pytest.approx(net_area(wholes[0]), abs=4 * 12)


@pytest.mark.parametrize("count", [3, 10, 100])
def test_each_disk_of_a_chain_or_a_lawn_is_counted(count: int) -> None:
    columns = min(count, 10)
    places = [
        (30 + 36.3 * (i % columns) + 5 * (i // columns % 2), 30 + 35.1 * (i // columns), 20) for i in range(count)
    ]
    shape = (round(max(y for _, y, _ in places)) + 30, round(max(x for x, _, _ in places)) + 30)
    labels, parts, wholes = separated(disks(shape, places))
    assert (len(parts), len(wholes)) == (count, 1)
    assert len({int(labels[int(y), int(x)]) for x, y, _ in places}) == count
    # The smallest gaps between the disks of a lawn belong to no object.
    assert sum(map(net_area, parts)) == pytest.approx(net_area(wholes[0]), rel=1e-3)


def test_three_disks_that_meet_in_one_point_leave_no_gap() -> None:
    places = [(150 + 40 * math.cos(a), 120 + 40 * math.sin(a), 48) for a in (0.3, 0.3 + 2.0944, 0.3 + 4.1888)]
    _, parts, (whole,) = separated(disks((240, 300), places))
    assert len(parts) == 3
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=1e-6)
    for one, other in (*pairwise(parts), (parts[0], parts[2])):
        assert count_common_points(one, other) > 10


@pytest.mark.parametrize("angle", [0, 40, 90])
def test_two_ellipses_side_by_side_are_separated(angle: float) -> None:
    dx, dy = 36 * math.sin(math.radians(angle)), 36 * math.cos(math.radians(angle))
    centres = [(160 + sign * dx, 130 + sign * dy) for sign in (-1, 1)]
    first, second = (coverage(260, 320, 70, 40, angle, centre, 2) for centre in centres)
    y, x = np.mgrid[0:260, 0:320] + 0.5
    nearer_first = (x - 160) * dx + (y - 130) * dy < 0
    distance = np.zeros((260, 320), np.float32)
    for side in (nearer_first, ~nearer_first):
        own = (side & (np.maximum(first, second) > 0.5)).astype(np.uint8)
        depth = cv2.distanceTransform(own, cv2.DIST_L2, 5)
        distance = np.where(own > 0, depth / depth.max(), distance).astype(np.float32)
    _, parts, (whole,) = separated(Maps(np.maximum(first, second), distance))
    assert len(parts) == 2
    # In each notch there may be a gap on the border, which would be filled as a hole of the whole: under 4 px².
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=8)
    assert net_area(parts[0]) == pytest.approx(net_area(parts[1]), rel=0.02)


def budding(bud: float, away: float, noise: float, seed: int = 0) -> Maps:
    """Return one object: a disk with a bud of `bud` times its radius. Distances are those of both together."""
    cover = np.maximum(
        coverage(240, 320, 60, 60, 0, (130, 120), 2),
        coverage(240, 320, 60 * bud, 60 * bud, 0, (130 + 60 * away, 120), 2),
    )
    depth = cv2.distanceTransform((cover > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / 60
    rng = np.random.default_rng(seed)
    noisy = np.clip(depth + rng.normal(0, noise, depth.shape), 0, 1) * (cover > 0.5)
    return Maps(cover, noisy.astype(np.float32))


@pytest.mark.parametrize("noise", [0, 0.05, 0.1, 0.2])
@pytest.mark.parametrize(("bud", "away"), [(0.4, 1.0), (0.6, 1.2), (0.45, 1.3), (0.9, 0.9)])
def test_a_bud_or_a_lobe_stays_with_its_object_in_any_noise(bud: float, away: float, noise: float) -> None:
    _, parts, _ = separated(budding(bud, away, noise))
    assert len(parts) == 1


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_noise_neither_joins_nor_splits_two_disks(noise: float) -> None:
    maps = two_disks(0.4, 10)
    assert maps.distance is not None
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noisy = maps.distance + rng.normal(0, noise, maps.distance.shape)
        _, parts, _ = separated(Maps(maps.probability, noisy.astype(np.float32)))
        assert len(parts) == 2


def test_two_disks_in_a_blurred_map_are_separated() -> None:
    maps = two_disks(0.4, 10)
    assert maps.distance is not None
    _, parts, _ = separated(
        Maps(maps.probability, np.asarray(cv2.GaussianBlur(maps.distance, (0, 0), 6), np.float32))
    )
    assert len(parts) == 2


def test_a_plateau_is_one_peak() -> None:
    cover = coverage(100, 100, 40, 40, 0, (50, 50))
    _, parts, _ = separated(Maps(cover, (cover > 0.5).astype(np.float32)))
    assert len(parts) == 1


def test_without_distances_nothing_is_separated() -> None:
    assert find_instances(Maps(coverage(50, 50, 20, 20, 0, (25, 25))), 0.5, (50, 50)) is None


def test_two_disks_at_the_edge_of_the_picture_meet_on_it() -> None:
    maps = disks((120, 300), [(110, 10, 50), (185, 10, 50)])
    labels, parts, (whole,) = separated(maps)
    assert len(parts) == 2
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=0.1)
    on_edge = [{tuple(point) for point in part.outer.tolist() if point[1] == 0} for part in parts]
    assert on_edge[0] & on_edge[1]
    assert {int(labels[0, 110]), int(labels[0, 185])} == {1, 2}


def test_a_hole_stays_with_its_object() -> None:
    maps = two_disks(0.4, 0)
    probability = maps.probability - coverage(240, 300, 10, 10, 0, (95, 120), 2)
    _, parts, (whole,) = separated(Maps(probability, maps.distance))
    assert [len(part.holes) for part in sorted(parts, key=lambda part: part.outer[:, 0].min())] == [1, 0]
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=0.1)


def test_objects_that_do_not_touch_are_not_changed() -> None:
    maps = disks((200, 300), [(70, 100, 40), (200, 100, 50)])
    _, parts, wholes = separated(maps)
    assert len(parts) == len(wholes) == 2
    for part, whole in zip(parts, wholes, strict=True):
        assert np.array_equal(part.outer, whole.outer)


def test_objects_are_separated_in_a_map_larger_than_the_picture() -> None:
    places: list[tuple[float, float, float]] = [(260, 300, 200), (600, 320, 190)]
    labels, parts, (whole,) = separated(disks((640, 900), places), (160, 225))
    assert len(parts) == 2
    assert sum(map(net_area, parts)) == pytest.approx(net_area(whole), abs=0.1)
    assert labels.shape == (160, 225)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_map_gives_consistent_outlines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fields: list[Picture] = [
        np.asarray(cv2.GaussianBlur(rng.random((150, 200)).astype(np.float32), (0, 0), s), np.float32) for s in (2, 3)
    ]
    probability, distance = ((f - f.min()) / (f.max() - f.min()) for f in fields)
    labels, parts, wholes = separated(Maps(probability, distance))
    assert int(labels.max()) == len(parts) >= len(wholes)
    # Only objects under the minimum area and gaps on a border can be missing.
    assert sum(map(net_area, parts)) == pytest.approx(sum(map(net_area, wholes)), rel=0.02)
    for number, part in enumerate(parts, start=1):
        assert net_area(part) == pytest.approx((labels == number).sum(), rel=0.25, abs=12)


@pytest.mark.parametrize(("confident", "expected"), [(1, 1), (3, 3), (4, 5)])
def test_a_doubtful_neighbour_counts_only_in_a_clump(confident: int, expected: int) -> None:
    ridge = [*([1.0, 0.1] * (confident - 1)), 1.0, 0.3, 0.5]
    height = np.repeat(np.array(ridge, np.float32), 5)[None, :].repeat(9, axis=0)
    _, peaks = basins(height, np.ones(height.shape, np.bool_))
    assert len(peaks) == expected
