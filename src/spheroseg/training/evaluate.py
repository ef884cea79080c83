"""Evaluates models on sets of pictures: segments each picture as in a real run, and scores the result.

The scores do not depend on the number of processes.
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
_MAX_WAITING = 4  # pictures per process; more drawn scenes would fill the memory

# Each process creates its own models, so the factories must be picklable.
Factories = Mapping[str, Callable[[], Model]]


def evaluate(
    samples: Iterable[Sample], models: Factories, jobs: int = 1, overlays: Path | None = None
) -> Iterator[list[Score]]:
    """Yield the scores of each sample by all models, in the order of the samples.

    Sets with one object per picture are scored twice: with all objects, and with only the largest. If masks are
    unions, touching objects of the model are also merged into connected components. The score then shows whether
    these were found, but not how touching objects were separated. `jobs`: number of processes. With `overlays`, a
    JPEG for each sample and model is written into that folder, with the truth in blue below the outlines in amber.
    """
    if jobs == 1:
        evaluator = _Evaluator(models, overlays)
        yield from (evaluator.score(sample) for sample in samples)
        return
    # A forked copy of a process that has threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _set_up, (models, overlays)) as pool:
        waiting: deque[Future[list[Score]]] = deque()
        try:
            for sample in samples:
                waiting.append(pool.submit(_score, sample))
                if len(waiting) > _MAX_WAITING * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def summaries(scores: Iterable[Score]) -> list[Summary]:
    """Return one summary per set, choice of objects (all or largest) and model, each in order of appearance."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.set, score.kept, score.model), []).append(score)
    orders = [list(dict.fromkeys(parts)) for parts in zip(*groups, strict=True)]
    ordered = sorted(groups, key=lambda key: [order.index(part) for order, part in zip(orders, key, strict=True)])
    return [summarise(groups[key]) for key in ordered]


class _Evaluator:
    """The models of one process."""

    def __init__(self, models: Factories, overlays: Path | None) -> None:
        # Several processes that each start a thread per core would slow each other down.
        cv2.setNumThreads(1)
        self.models = {name: make() for name, make in models.items()}
        self.overlays = overlays

    def score(self, sample: Sample) -> list[Score]:
        """Return the scores of all models on one sample."""
        pixels, truth = sample.read()
        scores = []
        for name, model in self.models.items():
            # Measure processor time, because wall-clock time depends on the load of the machine.
            started = time.process_time()
            image = GreyImage(pixels, None)
            (maps,) = model.maps([pixels])
            segmentation = outline_objects(image, maps, model, Parameters())
            seconds = time.process_time() - started
            for kept in (ALL, LARGEST) if sample.truth == Truth.SINGLE else (ALL,):
                labels = segmentation.labels if kept == ALL else _keep_largest(segmentation)
                scores.append(_score_labels(sample, name, kept, labels, truth, segmentation.flags, seconds))
            if self.overlays is not None:
                self._draw(sample, name, pixels, segmentation, truth)
        return scores

    def _draw(
        self, sample: Sample, model: str, pixels: Grey, segmentation: Segmentation, truth: Labels | None
    ) -> None:
        assert self.overlays is not None
        path = self.overlays / PurePosixPath(sample.set) / f"{_file_name(sample)}_{model}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        outlines = [] if truth is None else _trace_labels(truth)
        path.write_bytes(encode_overlay(pixels, segmentation.objects, truth=outlines))


def _score_labels(
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


def _keep_largest(segmentation: Segmentation) -> Labels:
    areas = [one.measurements.area for one in segmentation.objects]
    if not areas:
        return segmentation.labels
    return np.asarray(segmentation.labels == int(np.argmax(areas)) + 1, np.uint16)


def _trace_labels(labels: Labels) -> list[Outline]:
    """Trace each object separately, so that each has a closed outline of its own where two touch."""
    outlines = []
    for number, window in enumerate(find_objects(labels), start=1):
        if window is None:
            continue
        mask = (labels[window] == number).astype(np.float32)
        _, traced = trace(mask, 0.5, 0.0)
        corner = np.array([window[1].start, window[0].start], float)
        outlines += [Outline(o.outer + corner, tuple(hole + corner for hole in o.holes)) for o in traced]
    return outlines


def _file_name(sample: Sample) -> str:
    """Return the name of the sample as one file name, without the set and the suffix."""
    parts = [part for part in PurePosixPath(sample.name).parts[1:] if part != "images"]
    name = "_".join(parts).replace(" ", "_")
    return name.removesuffix(PurePosixPath(name).suffix) if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


_evaluator: _Evaluator


def _set_up(models: Factories, overlays: Path | None) -> None:
    global _evaluator
    _evaluator = _Evaluator(models, overlays)


def _score(sample: Sample) -> list[Score]:
    return _evaluator.score(sample)
