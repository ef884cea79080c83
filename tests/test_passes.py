"""How finely a picture is looked at, and what of the last look is debris, by what a perfect network would answer."""

import numpy as np
import pytest

from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model.card import Card
from spheroseg.segmentation.model.passes import Look, Window

from .support.networks import card
from .support.synthetic import disks

SIDE = 256  # px of the first pass
FINER = 1024  # px of a pass that is as much finer as one can be


def first_pass(maps: Maps, debris: float = 0.0, large_px: float | None = None) -> Look:
    """A picture of 1600 px whose objects should have 32 px, after a first pass that answered with `maps`."""
    scale = {"side": SIDE, "object_px": 32, "finest": 4096, "large_px": large_px}
    picture = np.random.default_rng(1).normal(100, 10, (1600, 1600)).astype(np.float32)
    look = Look(picture, Card.model_validate(card("perfect", scale=scale, debris=debris)))
    answer(look, maps)
    return look


def answer(look: Look, maps: Maps) -> None:
    height, width = maps.probability.shape
    look.put(Window(0, 0, height, width, np.s_[0:height, 0:width]), maps.probability, maps.distance)


def lattice(radius: float, apart: float, count: int, side: int = SIDE) -> Maps:
    """So many disks in a row and in a column; px."""
    places = [(40 + apart * (n % count), 40 + apart * (n // count), radius) for n in range(count**2)]
    return disks((side, side), places)


def side_of(look: Look) -> int:
    return int(max(look.maps().probability.shape))


def test_a_clump_is_judged_by_the_objects_in_it() -> None:
    assert first_pass(lattice(11, apart=21, count=5)).goes_on()
    assert not first_pass(disks((SIDE, SIDE), [(128, 128, 60)])).goes_on()


def test_objects_that_touch_have_to_be_larger_than_those_that_do_not() -> None:
    assert not first_pass(lattice(17.5, apart=50, count=4)).goes_on()
    assert first_pass(lattice(17.5, apart=34, count=4)).goes_on()
    assert not first_pass(lattice(22, apart=43, count=4)).goes_on()


def test_a_third_pass_is_for_what_is_still_far_too_small() -> None:
    for first, radius, is_wanted in ((8, 12, False), (8, 6, True), (5, 12, True)):
        look = first_pass(lattice(first, apart=40, count=5))
        assert look.goes_on()
        side = side_of(look)
        # Not aimed at what was wanted, where a pass as much finer as one can be was not enough for that.
        assert (side == FINER) is (first == 5)
        answer(look, lattice(radius, apart=60, count=5, side=side))
        assert look.goes_on() is is_wanted


def test_a_large_object_is_looked_at_from_further_away_and_both_looks_count() -> None:
    look = first_pass(disks((SIDE, SIDE), [(128, 128, 45)]), large_px=64)
    assert look.goes_on()
    side = side_of(look)
    assert side == 128
    # The same object, but for a notch that only one of the looks shows.
    coarser = disks((side, side), [(64, 64, 22.5)])
    coarser.probability[50:60, 50:60] = 0.0
    answer(look, coarser)
    assert not look.goes_on()
    joined = look.maps()
    assert joined.probability.shape == (SIDE, SIDE)
    assert joined.probability[128, 128] > 0.99
    assert joined.probability[110, 110] == pytest.approx(0.5, abs=0.02)
    assert joined.distance is not None


def test_a_look_that_misses_a_part_of_the_object_does_not_count() -> None:
    maps = disks((SIDE, SIDE), [(128, 128, 45)])
    look = first_pass(maps, large_px=64)
    assert look.goes_on()
    answer(look, disks((128, 128), [(64, 64, 14)]))
    assert not look.goes_on()
    np.testing.assert_array_equal(look.maps().probability, maps.probability)


def test_without_being_asked_to_or_below_that_size_there_is_no_look_from_further_away() -> None:
    assert not first_pass(disks((SIDE, SIDE), [(128, 128, 45)])).goes_on()
    assert not first_pass(disks((SIDE, SIDE), [(128, 128, 30)]), large_px=64).goes_on()


def test_it_is_never_much_coarser() -> None:
    look = first_pass(disks((SIDE, SIDE), [(128, 128, 120)]), large_px=64)
    assert look.goes_on()
    assert side_of(look) == round(SIDE / 2.5)


def test_objects_that_touch_are_not_looked_at_from_further_away() -> None:
    maps = lattice(17.5, apart=34, count=4)
    look = first_pass(maps, large_px=64)
    assert look.goes_on()
    assert side_of(look) > SIDE


@pytest.mark.parametrize(("places", "is_one"), [([(51, 51, 48)], True), ([(27, 51, 26), (76, 51, 26)], False)])
def test_what_fills_the_picture_in_pieces_is_one_object_where_it_looks_so_from_further_away(
    places: list[tuple[float, float, float]], is_one: bool
) -> None:
    whole = disks((SIDE, SIDE), [(128, 128, 120)])
    assert whole.distance is not None
    pieces = lattice(30, apart=59, count=4).distance
    assert pieces is not None
    broken = Maps(whole.probability, np.asarray(np.where(whole.probability > 0.5, pieces, 0), np.float32))
    look = first_pass(broken, large_px=64)
    assert look.goes_on()
    side = side_of(look)
    assert side < SIDE
    answer(look, disks((side, side), places))
    assert not look.goes_on()
    joined = look.maps()
    assert joined.distance is not None
    assert broken.distance is not None
    # Where two of the pieces meet, the other look knows of no border.
    assert bool(joined.distance[128, 128] > broken.distance[128, 128] + 0.2) is is_one


def test_debris_is_measured_by_the_typical_object_and_not_by_a_clump() -> None:
    clump = [(60 + 30 * (n % 5), 60 + 30 * (n // 5), 16.5) for n in range(25)]
    # 9 and 3 % of the area of one of them, less than 1 % of that of the clump.
    small, tiny = (230.0, 230.0, 5.0), (20.0, 230.0, 2.8)
    kept = first_pass(disks((SIDE, SIDE), [*clump, small, tiny]), debris=0.06).maps().probability
    assert kept[230, 230] > 0.5
    assert (kept[225:236, 15:26] <= 0.25).all()
