"""Which passes a picture gets, and what is removed as debris, with the answers of a perfect network."""

import numpy as np
import pytest

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model.card import Card
from spheroseg.segmentation.model.planner import PassPlanner
from spheroseg.segmentation.model.windows import Window

from .support.networks import card
from .support.synthetic import disks

SIDE = 256  # px of the first pass
MAX_FINER_SIDE = 1024  # px of the finest pass that can follow it


def first_pass(maps: Maps, debris: float = 0.0, large_px: float | None = None) -> PassPlanner:
    """Plan for a picture of 1600 px whose objects should measure 32 px, after a first pass answered with `maps`."""
    scale = {"side": SIDE, "object_px": 32, "finest": 4096, "large_px": large_px}
    picture = np.random.default_rng(1).normal(100, 10, (1600, 1600)).astype(np.float32)
    planner = PassPlanner(picture, Card.model_validate(card("perfect", scale=scale, debris=debris)))
    answer(planner, maps)
    return planner


def answer(planner: PassPlanner, maps: Maps) -> None:
    height, width = maps.probability.shape
    planner.current.put(Window(0, 0, height, width, np.s_[0:height, 0:width]), maps.probability, maps.distance)


def lattice(radius: float, apart: float, count: int, side: int = SIDE) -> Maps:
    """Return `count` disks in each row and column. `radius`, `apart`: px."""
    places = [(40 + apart * (n % count), 40 + apart * (n // count), radius) for n in range(count**2)]
    return disks((side, side), places)


def side_of(planner: PassPlanner) -> int:
    return int(max(planner.maps().probability.shape))


def test_a_clump_is_judged_by_the_objects_in_it() -> None:
    assert first_pass(lattice(11, apart=21, count=5)).next_pass()
    assert first_pass(disks((SIDE, SIDE), [(128, 128, 60)])).next_pass() is None


def test_objects_that_touch_have_to_be_larger_than_those_that_do_not() -> None:
    assert first_pass(lattice(17.5, apart=50, count=4)).next_pass() is None
    assert first_pass(lattice(17.5, apart=34, count=4)).next_pass()
    assert first_pass(lattice(22, apart=43, count=4)).next_pass() is None


def test_a_third_pass_follows_only_if_the_objects_are_still_far_too_small() -> None:
    for first, radius, is_wanted in ((8, 12, False), (8, 6, True), (5, 12, True)):
        planner = first_pass(lattice(first, apart=40, count=5))
        assert planner.next_pass()
        side = side_of(planner)
        # The pass did not aim at the wanted diameter if even the finest possible one was not fine enough for it.
        assert (side == MAX_FINER_SIDE) is (first == 5)
        answer(planner, lattice(radius, apart=60, count=5, side=side))
        assert (planner.next_pass() is not None) is is_wanted


def test_a_large_object_gets_a_coarser_pass_and_both_are_averaged() -> None:
    planner = first_pass(disks((SIDE, SIDE), [(128, 128, 45)]), large_px=64)
    assert planner.next_pass()
    side = side_of(planner)
    assert side == 128
    # The same object, but for a notch that only one of the passes shows.
    coarser = disks((side, side), [(64, 64, 22.5)])
    coarser.probability[50:60, 50:60] = 0.0
    answer(planner, coarser)
    assert planner.next_pass() is None
    joined = planner.maps()
    assert joined.probability.shape == (SIDE, SIDE)
    assert joined.probability[128, 128] > 0.99
    assert joined.probability[110, 110] == pytest.approx(0.5, abs=0.02)
    assert joined.distance is not None


def test_a_coarser_pass_that_misses_a_part_of_the_object_does_not_count() -> None:
    maps = disks((SIDE, SIDE), [(128, 128, 45)])
    planner = first_pass(maps, large_px=64)
    assert planner.next_pass()
    answer(planner, disks((128, 128), [(64, 64, 14)]))
    assert planner.next_pass() is None
    np.testing.assert_array_equal(planner.maps().probability, maps.probability)


def test_there_is_no_coarser_pass_without_large_px_or_below_it() -> None:
    assert first_pass(disks((SIDE, SIDE), [(128, 128, 45)])).next_pass() is None
    assert first_pass(disks((SIDE, SIDE), [(128, 128, 30)]), large_px=64).next_pass() is None


def test_the_reduction_of_the_coarser_pass_is_limited() -> None:
    planner = first_pass(disks((SIDE, SIDE), [(128, 128, 120)]), large_px=64)
    assert planner.next_pass()
    assert side_of(planner) == round(SIDE / 2.5)


def test_objects_that_touch_get_no_coarser_pass() -> None:
    maps = lattice(17.5, apart=34, count=4)
    planner = first_pass(maps, large_px=64)
    assert planner.next_pass()
    assert side_of(planner) > SIDE


@pytest.mark.parametrize(("places", "is_one"), [([(51, 51, 48)], True), ([(27, 51, 26), (76, 51, 26)], False)])
def test_pieces_that_fill_the_picture_are_one_object_if_the_coarser_pass_shows_one(
    places: list[tuple[float, float, float]], is_one: bool
) -> None:
    whole = disks((SIDE, SIDE), [(128, 128, 120)])
    assert whole.distance is not None
    pieces = lattice(30, apart=59, count=4).distance
    assert pieces is not None
    broken = Maps(whole.probability, np.asarray(np.where(whole.probability > 0.5, pieces, 0), np.float32))
    planner = first_pass(broken, large_px=64)
    assert planner.next_pass()
    side = side_of(planner)
    assert side < SIDE
    answer(planner, disks((side, side), places))
    assert planner.next_pass() is None
    joined = planner.maps()
    assert joined.distance is not None
    assert broken.distance is not None
    # Where two of the pieces meet, the coarser pass has no border.
    assert bool(joined.distance[128, 128] > broken.distance[128, 128] + 0.2) is is_one


def test_debris_is_measured_by_the_typical_object_and_not_by_a_clump() -> None:
    clump = [(60 + 30 * (n % 5), 60 + 30 * (n // 5), 16.5) for n in range(25)]
    # 9 and 3 % of the area of one of them, less than 1 % of that of the clump.
    small, tiny = (230.0, 230.0, 5.0), (20.0, 230.0, 2.8)
    kept = first_pass(disks((SIDE, SIDE), [*clump, small, tiny]), debris=0.06).maps().probability
    assert kept[230, 230] > 0.5
    assert (kept[225:236, 15:26] <= 0.25).all()
