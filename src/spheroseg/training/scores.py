"""Scores a segmentation against the truth: foreground IoU, matched objects, F1."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

MIN_MATCH_IOU = 0.5  # an object with this IoU or more counts as found

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint16]


def foreground_iou(found: Mask, truth: Mask) -> float:
    """Return the intersection over union (Jaccard index) of two masks of the same shape, 0..1.

    It is 1 if both are empty, because there is no object and none was found. It is 0 if only one is.
    """
    union = int(np.count_nonzero(found | truth))
    return int(np.count_nonzero(found & truth)) / union if union else 1.0


@dataclass(frozen=True)
class ObjectCounts:
    """Numbers of objects in one or many pictures: found ones, those in the truth, and matching pairs."""

    found: int
    expected: int
    matched: int

    def __add__(self, other: "ObjectCounts") -> "ObjectCounts":
        return ObjectCounts(self.found + other.found, self.expected + other.expected, self.matched + other.matched)

    @property
    def f1(self) -> float:
        """2 matched / (found + expected), the harmonic mean of precision and recall, 0..1.

        It is 1 if there is no object and none was found, and 0 if only one of the two is empty.
        """
        total = self.found + self.expected
        return 2 * self.matched / total if total else 1.0


def count_matches(found: Labels, truth: Labels) -> ObjectCounts:
    """Count the objects of two label images of the same shape, and the pairs with IoU >= 0.5.

    0 is background. Each object is matched at most once, and as many as possible are matched (maximum bipartite
    matching). Above an IoU of 0.5, an object has at most one partner, so there is a choice only at exactly 0.5.
    """
    found_ids, found_index, found_areas = _list_objects(found)
    truth_ids, truth_index, truth_areas = _list_objects(truth)
    both = (found > 0) & (truth > 0)
    pairs, shared = np.unique(
        np.stack([found_index[both[found > 0]], truth_index[both[truth > 0]]]), axis=1, return_counts=True
    )
    iou = shared / (found_areas[pairs[0]] + truth_areas[pairs[1]] - shared)
    is_match = iou >= MIN_MATCH_IOU
    shape = (len(found_ids), len(truth_ids))
    matched = 0
    if is_match.any():
        graph = csr_array(
            (np.ones(int(is_match.sum()), np.int8), (pairs[0][is_match], pairs[1][is_match])), shape=shape
        )
        matched = int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))
    return ObjectCounts(*shape, matched)


def _list_objects(labels: Labels) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the labels, the index of the label of each foreground pixel, and the areas (px²)."""
    ids, index, areas = np.unique(labels[labels > 0], return_inverse=True, return_counts=True)
    return ids, index, areas


@dataclass(frozen=True)
class Score:
    """The score of one model on one picture, with `all` objects kept or only the `largest`.

    `iou`: IoU of the foreground. `counts`: numbers of objects. Both are None if there is no mask. `objects`: the
    number of objects that were found and kept. `seconds`: processor time of model and outlines, without decoding.
    """

    set: str
    name: str
    kind: str
    model: str
    kept: str
    iou: float | None
    counts: ObjectCounts | None
    objects: int
    flags: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Summary:
    """The scores of one model on one set.

    `mean`, `median`, `worst`: of the foreground IoU. `worst_name`: the picture with the worst IoU. `f1`: F1 of the
    objects of all pictures together, so that pictures with many objects have more weight. `mean_f1`: mean of the F1
    of each picture. `seconds`: mean per picture. Values that the masks of the set do not allow are None.
    """

    set: str
    model: str
    kept: str
    pictures: int
    mean: float | None
    median: float | None
    worst: float | None
    worst_name: str | None
    f1: float | None
    mean_f1: float | None
    objects: int
    seconds: float


def summarise(scores: Sequence[Score]) -> Summary:
    """Summarise the scores (at least one) of one model on one set, all with the same choice of objects.

    Of several pictures with the worst IoU, the first by name is named.
    """
    ious = [(score.iou, score.name) for score in scores if score.iou is not None]
    counts = [score.counts for score in scores if score.counts is not None]
    worst, worst_name = min(ious) if ious else (None, None)
    return Summary(
        set=scores[0].set,
        model=scores[0].model,
        kept=scores[0].kept,
        pictures=len(scores),
        mean=fmean(iou for iou, _ in ious) if ious else None,
        median=median(iou for iou, _ in ious) if ious else None,
        worst=worst,
        worst_name=worst_name,
        f1=sum(counts, ObjectCounts(0, 0, 0)).f1 if counts else None,
        mean_f1=fmean(count.f1 for count in counts) if counts else None,
        objects=sum(score.objects for score in scores),
        seconds=fmean(score.seconds for score in scores),
    )
