"""Makes a model folder from the data: trains the shipped network, cross-validates it and measures the quality."""

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from queue import Empty, Queue
from statistics import fmean, stdev
from typing import Any, TypeVar

import torch

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model import Network, read_card
from spheroseg.segmentation.model.card import CARD, NETWORK
from spheroseg.training.composed import TEST_FIELDS, field_samples
from spheroseg.training.data import FIELDS, SCENES, TEST_SCENES, Sample, read_samples, scene_samples
from spheroseg.training.evaluate import evaluate, summaries
from spheroseg.training.scores import Summary
from spheroseg.training.train import Recipe, export, recipe_record, train, tune
from spheroseg.training.unet import UNet

WEIGHTS = "weights.pt"
LOW, HIGH = 0.5, 99.5
TRAINED_ON = ("spheroids", "nuclei")
VALIDATED_ON = "spheroids"
MARGIN_PX = 128  # the output depends on pixels up to 92 px away by convolutions, and 30 px by pooling and upsampling
# As a share of the area of the typical object. Smaller objects, of a quarter of its diameter, are cells or specks.
DEBRIS = 0.06
# Minimum confident share of the area of an object. All drawn objects that were found have more, half of the false
# objects have less.
LEAST_SURE = 0.33
SCALE = {"side": 256, "large_px": 64, "object_px": 32, "finest": 4096}

T = TypeVar("T")
Report = tuple[str, int, float]  # the name of a network, its step and its loss
Reports = Queue[Report]
Progress = Callable[[str, int, float], None]  # called with a report


@dataclass(frozen=True)
class Course:
    """How to make a model.

    `data`: folder with the manifest. `test_scenes`: the number of drawn scenes, and the maximum number of fields, on
    which each network is evaluated. `parts`: folder in which the base and the networks of the folds are kept, as
    models `base/NAME`, `fold-1/NAME`, …
    """

    name: str
    version: str
    data: Path
    recipe: Recipe
    folds: int = 3
    test_scenes: int = TEST_SCENES
    parts: Path | None = None


def make(course: Course, folder: Path, jobs: int, progress: Progress) -> dict[str, Any]:
    """Write the model into `folder` and return its card.

    A base is trained first, without spheroids. The networks of the folds and the shipped one are then tuned from it
    in the same way, `jobs` at a time. The quality in the card is measured on pictures that the network in question
    was not trained on: each spheroid by the network of its fold, fields composed of those spheroids, and test
    scenes.

    Raise DataAway if the data is missing, and ModelUnusable if there is a model already, its name is not allowed, or
    a folder cannot be used.
    """
    samples = read_samples(course.data, TRAINED_ON)
    if (folder / NETWORK).exists():
        raise ModelUnusable(f"there is a model in {folder} already: name a folder that is new")
    # Report faults of a name or a folder now and not after the training.
    if course.parts is not None:
        _make_empty(course.parts)
    _write(folder, _card(course, samples))
    read_card(folder)
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(jobs, context) as pool,
    ):
        reports = manager.Queue()
        parts = course.parts or Path(temporary)
        base, *others = (
            parts / part / folder.name for part in ("base", *(f"fold-{fold + 1}" for fold in range(course.folds)))
        )
        _wait_for([pool.submit(_train_base, course, base, reports)], reports, progress)
        folders = [folder, *others]
        running = [
            pool.submit(_tune_network, course, base, number, one, reports) for number, one in enumerate(folders)
        ]
        scenes, *held_out = _wait_for(running, reports, progress)
    card = _card(course, samples) | {"quality": _quality(scenes, held_out)}
    _write(folder, card)
    return card


def _train_base(course: Course, folder: Path, reports: Reports) -> None:
    samples = [sample for sample in read_samples(course.data, TRAINED_ON) if sample.set != VALIDATED_ON]
    network = train(samples, course.recipe, progress=lambda step, loss: reports.put(("base", step, loss)))
    export(network, folder)
    _write(folder, _card(course, samples))
    torch.save(network.state_dict(), folder / WEIGHTS)


def _tune_network(course: Course, base: Path, number: int, folder: Path, reports: Reports) -> list[Summary]:
    """Tune the shipped network (0) or that of a fold (from 1). Return its scores on unseen pictures."""
    samples = read_samples(course.data, TRAINED_ON)
    held_out = _hold_out(samples, number, course.folds)
    name = f"fold {number}" if number else "shipped"
    kept = [sample for sample in samples if sample not in held_out]
    start = UNet()
    start.load_state_dict(torch.load(base / WEIGHTS))
    network = tune(start, kept, course.recipe, lambda step, loss: reports.put((name, step, loss)), number)
    export(network, folder)
    _write(folder, _card(course, samples))
    return _evaluate_unseen(course, folder, held_out)


def _evaluate_unseen(course: Course, folder: Path, held_out: Sequence[Sample]) -> list[Summary]:
    fields = field_samples(held_out, min(TEST_FIELDS, course.test_scenes))
    unseen: Iterable[Sample] = chain(held_out, fields, scene_samples(course.test_scenes))
    scores = evaluate(unseen, {course.name: partial(Network, folder)})
    return summaries(score for sample_scores in scores for score in sample_scores)


def _hold_out(samples: Sequence[Sample], number: int, folds: int) -> list[Sample]:
    """Return the spheroids that the network of a fold must not see; none for the shipped network (0)."""
    validated = [sample for sample in samples if sample.set == VALIDATED_ON]
    return validated[number - 1 :: folds] if number else []


def _card(course: Course, samples: Sequence[Sample]) -> dict[str, Any]:
    sources = sorted({(sample.set, sample.source, sample.licence) for sample in samples})
    return {
        "format": 1,
        "name": course.name,
        "version": course.version,
        "licence": "MIT",
        "description": "Spheroids, organoids and other cell aggregates in brightfield and fluorescence, one or many.",
        "input": {"name": "image", "low": LOW, "high": HIGH, "multiple": 16, "margin": MARGIN_PX},
        "output": {"probability": "probability", "distance": "distance"},
        "scale": SCALE,
        "threshold": 0.5,
        "debris": DEBRIS,
        "least_sure": LEAST_SURE,
        "training": {
            "data": [{"set": set_, "source": source, "licence": licence} for set_, source, licence in sources]
            + [{"set": SCENES, "source": "drawn by spheroseg.training.scenes", "licence": "MIT"}],
            "recipe": recipe_record(course.recipe),
            "command": f"spheroseg model train {course.name} --steps {course.recipe.steps} "
            f"--tuning {course.recipe.tuning} --processes {course.recipe.processes} --scenes {course.recipe.scenes} "
            f"--seed {course.recipe.seed} --folds {course.folds}",
        },
        "quality": {},
    }


def _quality(shipped: Sequence[Summary], held_out: Sequence[Sequence[Summary]]) -> dict[str, Any]:
    rows = {"shipped network on test scenes": [asdict(row) for row in shipped]}
    for set_ in (VALIDATED_ON, FIELDS, SCENES):
        summaries_of_set = [row for fold in held_out for row in fold if row.set == set_ and row.kept == "all"]
        ious = [row.mean for row in summaries_of_set if row.mean is not None]
        f1s = [row.f1 for row in summaries_of_set if row.f1 is not None]
        if ious:
            rows[f"networks of the folds on {set_} they were not trained on"] = [
                {"folds": len(ious), **_mean_and_sd("mean_iou", ious), **_mean_and_sd("f1", f1s)},
                *(asdict(row) for row in summaries_of_set),
            ]
    return rows


def _mean_and_sd(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: fmean(values), f"{name}_sd": stdev(values) if len(values) > 1 else 0.0}


def _make_empty(parts: Path) -> None:
    try:
        parts.mkdir(parents=True, exist_ok=True)
        is_empty = not any(parts.iterdir())
    except OSError as error:
        raise ModelUnusable(
            f"cannot write into {parts}: {error.strerror}; name another folder with --parts"
        ) from None
    if not is_empty:
        raise ModelUnusable(f"{parts} is not empty: name a new folder with --parts")


def _write(folder: Path, card: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelUnusable(f"cannot write into {folder}: {error.strerror}; name another folder") from None


def _wait_for(running: Sequence[Future[T]], reports: Reports, progress: Progress) -> list[T]:
    """Wait for the processes and return their results. Meanwhile, pass on their reports."""
    while any(not future.done() for future in running):
        wait(running, timeout=0.5)
        _pass_on(reports, progress)
    _pass_on(reports, progress)
    return [future.result() for future in running]


def _pass_on(reports: Reports, progress: Progress) -> None:
    try:
        while True:
            progress(*reports.get_nowait())
    except Empty:
        return
