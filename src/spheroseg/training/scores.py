"""How well what was found agrees with what is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

MATCH = 0.5  # IoU from which an object counts as found

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint16]


def foreground_iou(found: Mask, truth: Mask) -> float:
    """Pixels in both masks over pixels in at least one, 0..1.

    1 where both are empty: nothing is there, and nothing was found. 0 where only one is.
    """
    either = int(np.count_nonzero(found | truth))
    return int(np.count_nonzero(found & truth)) / either if either else 1.0


@dataclass(frozen=True)
class Counts:
    """Objects of one picture, or of many: found, there in truth, and pairs of the two that match."""

    found: int
    expected: int
    matched: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.found + other.found, self.expected + other.expected, self.matched + other.matched)

    @property
    def f1(self) -> float:
        """2 matched / (found + expected), the harmonic mean of precision and recall, 0..1.

        1 where there is nothing to find and nothing was found. 0 where only one of the two is empty.
        """
        total = self.found + self.expected
        return 2 * self.matched / total if total else 1.0


def count_matches(found: Labels, truth: Labels) -> Counts:
    """Objects of two label images (0 ground, other values an object each) that are the same to IoU >= 0.5.

    An object is matched once at most, and as many as possible are (maximum bipartite matching). Above 0.5 an object
    has one partner at most; only at exactly 0.5 is there something to choose.
    """
    found_ids, found_index, found_areas = _objects(found)
    truth_ids, truth_index, truth_areas = _objects(truth)
    both = (found > 0) & (truth > 0)
    pairs, shared = np.unique(
        np.stack([found_index[both[found > 0]], truth_index[both[truth > 0]]]), axis=1, return_counts=True
    )
    iou = shared / (found_areas[pairs[0]] + truth_areas[pairs[1]] - shared)
    good = iou >= MATCH
    shape = (len(found_ids), len(truth_ids))
    matched = 0
    if good.any():
        graph = csr_array((np.ones(int(good.sum()), np.int8), (pairs[0][good], pairs[1][good])), shape=shape)
        matched = int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))
    return Counts(*shape, matched)


def _objects(labels: Labels) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    ids, index, areas = np.unique(labels[labels > 0], return_inverse=True, return_counts=True)
    return ids, index, areas


@dataclass(frozen=True)
class Score:
    """One picture as one model sees it, with `all` objects kept or only the `largest`.

    `iou` is that of the foreground, `counts` are of objects, both None without a mask. `objects` is how many were
    found and kept. `seconds` of processor time, for the model and the outlines, without decoding.
    """

    set: str
    name: str
    kind: str
    model: str
    kept: str
    iou: float | None
    counts: Counts | None
    objects: int
    flags: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Summary:
    """One model on one set: foreground IoU (mean, median, worst and the name of that picture), objects, time.

    `f1` is of the objects of all pictures together, so that a picture with many weighs more; `mean_f1` is the mean
    of the pictures' own. `seconds` is the mean of a picture. What the set's masks do not tell is None.
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
    """Of one model on one set with one way to keep objects; at least one picture.

    Of equally bad pictures the first by name is the worst.
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
        f1=sum(counts, Counts(0, 0, 0)).f1 if counts else None,
        mean_f1=fmean(count.f1 for count in counts) if counts else None,
        objects=sum(score.objects for score in scores),
        seconds=fmean(score.seconds for score in scores),
    )
