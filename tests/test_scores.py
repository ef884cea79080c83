"""Scores: foreground IoU, matched objects, and their summaries."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from spheroseg.training.scores import ObjectCounts, Score, count_matches, foreground_iou, summarise

Labels = npt.NDArray[np.uint16]


def field(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (40, 40)) -> Labels:
    """Return labels with boxes (top, left, height, width). The first is object 1."""
    labels = np.zeros(shape, np.uint16)
    for number, (top, left, height, width) in enumerate(boxes, start=1):
        labels[top : top + height, left : left + width] = number
    return labels


EMPTY = field()


@pytest.mark.parametrize(
    ("found", "truth", "iou"),
    [
        (field((0, 0, 10, 10)), field((0, 0, 10, 10)), 1.0),
        (field((0, 0, 10, 10)), field((0, 5, 10, 10)), 50 / 150),
        (field((0, 0, 10, 10), (0, 10, 10, 10)), field((0, 0, 10, 20)), 1.0),
        (field((0, 0, 10, 10)), field((20, 20, 10, 10)), 0.0),
        (EMPTY, EMPTY, 1.0),
        (field((0, 0, 1, 1)), EMPTY, 0.0),
        (EMPTY, field((0, 0, 1, 1)), 0.0),
    ],
    ids=[
        "the same",
        "half beside it",
        "split, which the foreground does not show",
        "elsewhere",
        "both empty",
        "nothing there",
        "nothing found",
    ],
)
def test_foreground_iou_is_exact(found: Labels, truth: Labels, iou: float) -> None:
    assert foreground_iou(found > 0, truth > 0) == iou


@pytest.mark.parametrize(
    ("found", "truth", "counts", "f1"),
    [
        (field((0, 0, 10, 10), (20, 20, 5, 5)), field((20, 20, 5, 5), (0, 0, 10, 10)), ObjectCounts(2, 2, 2), 1.0),
        (field((0, 0, 10, 20)), field((0, 0, 10, 10), (0, 10, 10, 10)), ObjectCounts(1, 2, 1), 2 / 3),
        (field((0, 0, 10, 19)), field((0, 0, 10, 9), (0, 9, 10, 10)), ObjectCounts(1, 2, 1), 2 / 3),
        (field((0, 0, 10, 10), (0, 10, 10, 10)), field((0, 0, 10, 20)), ObjectCounts(2, 1, 1), 2 / 3),
        (field((0, 0, 10, 10), (30, 30, 3, 3)), field((0, 0, 10, 10)), ObjectCounts(2, 1, 1), 2 / 3),
        (field((0, 0, 10, 10)), field((0, 4, 10, 10)), ObjectCounts(1, 1, 0), 0.0),
        (EMPTY, EMPTY, ObjectCounts(0, 0, 0), 1.0),
        (EMPTY, field((0, 0, 5, 5)), ObjectCounts(0, 1, 0), 0.0),
        (field((0, 0, 5, 5)), EMPTY, ObjectCounts(1, 0, 0), 0.0),
    ],
    ids=[
        "numbers do not matter",
        "merged, each of the two is half",
        "merged, one of the two is more than half",
        "split into halves: one of them counts",
        "debris counts as an object",
        "too little overlap",
        "both empty",
        "nothing found",
        "nothing there",
    ],
)
def test_objects_are_matched_once_and_as_many_as_possible(
    found: Labels, truth: Labels, counts: ObjectCounts, f1: float
) -> None:
    assert count_matches(found, truth) == counts
    assert counts.f1 == pytest.approx(f1)


def test_if_an_object_has_two_partners_the_choice_matches_as_many_as_possible() -> None:
    # Each half of the first truth is at exactly 0.5; one half could as well be taken for the second truth.
    truth = field((0, 0, 10, 20), (0, 20, 10, 5))
    found = field((0, 0, 10, 10), (0, 10, 10, 10), (0, 20, 10, 5))
    assert count_matches(found, truth) == ObjectCounts(3, 2, 2)


def test_labels_may_have_gaps() -> None:
    found = field((0, 0, 10, 10), (20, 0, 10, 10))
    assert count_matches(found * 1000, found) == ObjectCounts(2, 2, 2)


SCORE = Score("plates", "a.png", "brightfield", "otsu", "all", 0.9, ObjectCounts(1, 1, 1), 1, (), 0.1)


def test_a_summary_names_the_worst_picture_and_pools_the_objects() -> None:
    scores = [
        SCORE,
        replace(SCORE, name="b.png", iou=0.2, counts=ObjectCounts(8, 10, 6), objects=8, seconds=0.3),
        replace(SCORE, name="c.png", iou=0.7, counts=ObjectCounts(0, 0, 0), objects=0, seconds=0.2),
    ]
    row = summarise(scores)
    assert (row.set, row.model, row.kept, row.pictures) == ("plates", "otsu", "all", 3)
    assert row.mean == pytest.approx(0.6)
    assert row.median == 0.7
    assert (row.worst, row.worst_name) == (0.2, "b.png")
    assert row.f1 == pytest.approx(2 * 7 / 20)
    assert row.mean_f1 == pytest.approx((1 + 12 / 18 + 1) / 3)
    assert row.objects == 9
    assert row.seconds == pytest.approx(0.2)


def test_without_masks_only_objects_and_time_are_summarised() -> None:
    row = summarise([replace(SCORE, iou=None, counts=None, objects=4)])
    assert (row.mean, row.median, row.worst, row.worst_name, row.f1, row.mean_f1) == (None,) * 6
    assert row.objects == 4
