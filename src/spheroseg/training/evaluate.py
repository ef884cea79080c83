"""Models on sets of pictures: each is asked, cleaned up after and measured as in a real run, and then scored.

What comes out does not depend on the number of processes.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from scipy.ndimage import find_objects

from spheroseg.export.overlays import encode_overlay
from spheroseg.segmentation.contours import Outline, trace
from spheroseg.segmentation.image import GreyImage
from spheroseg.segmentation.model import Model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import Segmentation, outline_objects
from spheroseg.training.data import IMAGE_SUFFIXES, Grey, Labels, Sample, Truth, components
from spheroseg.training.scores import Score, Summary, count_matches, foreground_iou, summarise

ALL, LARGEST = "all", "largest"
_AHEAD = 4  # pictures waiting for each process: scenes are drawn meanwhile, and must not pile up

# How a process makes each model for itself; must survive pickling.
Factories = Mapping[str, Callable[[], Model]]


def evaluate(
    samples: Iterable[Sample], models: Factories, jobs: int = 1, overlays: Path | None = None
) -> Iterator[list[Score]]:
    """The scores of each sample by each model, sample by sample, in their order.

    Sets with one object a picture are scored twice, with all objects and with only the largest found. Where masks are
    unions, found objects too are taken as connected components: that says whether islands were found, and nothing
    about how touching objects were separated. `jobs` is a number of processes. With `overlays` a JPEG goes into that
    folder for each sample and model: truth in blue below, what was found in amber.
    """
    if jobs == 1:
        workplace = _Workplace(models, overlays)
        yield from (workplace.score(sample) for sample in samples)
        return
    # Forking a process that has threads may hang it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _set_up, (models, overlays)) as pool:
        waiting: deque[Future[list[Score]]] = deque()
        try:
            for sample in samples:
                waiting.append(pool.submit(_score, sample))
                if len(waiting) > _AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def summaries(scores: Iterable[Score]) -> list[Summary]:
    """One a set, way to keep objects and model, sorted by these in order of appearance."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.set, score.kept, score.model), []).append(score)
    places = [list(dict.fromkeys(parts)) for parts in zip(*groups, strict=True)]
    ordered = sorted(groups, key=lambda key: [place.index(part) for place, part in zip(places, key, strict=True)])
    return [summarise(groups[key]) for key in ordered]


class _Workplace:
    def __init__(self, models: Factories, overlays: Path | None) -> None:
        # Several processes that each start a thread per core only get in each other's way.
        cv2.setNumThreads(1)
        self.models = {name: make() for name, make in models.items()}
        self.overlays = overlays

    def score(self, sample: Sample) -> list[Score]:
        pixels, truth = sample.read()
        scores = []
        for name, model in self.models.items():
            # By the clock it would depend on who else is at work.
            started = time.process_time()
            image = GreyImage(pixels, None)
            (maps,) = model.maps([pixels])
            segmentation = outline_objects(image, maps, model, Parameters())
            seconds = time.process_time() - started
            for kept in (ALL, LARGEST) if sample.truth == Truth.SINGLE else (ALL,):
                labels = segmentation.labels if kept == ALL else _largest(segmentation)
                scores.append(_scored(sample, name, kept, labels, truth, segmentation.flags, seconds))
            if self.overlays is not None:
                self._draw(sample, name, pixels, segmentation, truth)
        return scores

    def _draw(
        self, sample: Sample, model: str, pixels: Grey, segmentation: Segmentation, truth: Labels | None
    ) -> None:
        assert self.overlays is not None
        path = self.overlays / PurePosixPath(sample.set) / f"{_flat(sample)}_{model}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        outlines = [] if truth is None else _outlines(truth)
        path.write_bytes(encode_overlay(pixels, segmentation.objects, truth=outlines))


def _scored(
    sample: Sample,
    model: str,
    kept: str,
    labels: Labels,
    truth: Labels | None,
    flags: tuple[str, ...],
    seconds: float,
) -> Score:
    iou = counts = None
    if truth is not None:
        iou = foreground_iou(labels > 0, truth > 0)
        counts = count_matches(components(labels > 0) if sample.truth == Truth.UNION else labels, truth)
    objects = len(np.unique(labels[labels > 0]))
    return Score(sample.set, sample.name, sample.kind, model, kept, iou, counts, objects, flags, seconds)


def _largest(segmentation: Segmentation) -> Labels:
    areas = [found.measurements.area for found in segmentation.objects]
    if not areas:
        return segmentation.labels
    return np.asarray(segmentation.labels == int(np.argmax(areas)) + 1, np.uint16)


def _outlines(labels: Labels) -> list[Outline]:
    """Each object for itself: where two touch, each has its side of the border."""
    outlines = []
    for number, window in enumerate(find_objects(labels), start=1):
        if window is None:
            continue
        alone = (labels[window] == number).astype(np.float32)
        _, found = trace(alone, 0.5, 0.0)
        corner = np.array([window[1].start, window[0].start], float)
        outlines += [Outline(o.outer + corner, tuple(hole + corner for hole in o.holes)) for o in found]
    return outlines


def _flat(sample: Sample) -> str:
    """Its name as one file name that does not say the same thing twice."""
    parts = [part for part in PurePosixPath(sample.name).parts[1:] if part != "images"]
    name = "_".join(parts).replace(" ", "_")
    return name.removesuffix(PurePosixPath(name).suffix) if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


_here: _Workplace


def _set_up(models: Factories, overlays: Path | None) -> None:
    global _here
    _here = _Workplace(models, overlays)


def _score(sample: Sample) -> list[Score]:
    return _here.score(sample)
