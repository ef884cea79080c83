"""Measures the work on images without a task system, with which the queue is compared."""

import io
import multiprocessing
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter

import cv2

from benchmarks.processor import Rate, seconds_used
from spheroseg.export.masks import encode_mask
from spheroseg.export.overlays import encode_overlay
from spheroseg.segmentation.model import Model, load_model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import outline_objects, read_image
from spheroseg.storage import ImageStore

START_TIMEOUT_SECONDS = 120.0  # for all processes to load the model and segment an image


@dataclass(frozen=True)
class ModelChoice:
    """A model by name, and the folders in which it is searched beside the shipped ones."""

    name: str
    dirs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Laps:
    """Seconds in each part of the work on one or more images."""

    decode: float
    inference: float
    outlines: float
    writing: float

    def __add__(self, other: "Laps") -> "Laps":
        return Laps(*(own + others for own, others in zip(astuple(self), astuple(other), strict=True)))


def measure(images: Sequence[Path], model: ModelChoice, processes: int, results: Path | None) -> tuple[Rate, Laps]:
    """Return the rate of a number of processes with one thread each, and the laps of all images together.

    With `results`, a mask and an overlay of each image are written there, as the child of a worker does.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    with context.Pool(processes, _set_up, (model, images[0], results, ready)) as pool:
        ready.wait(START_TIMEOUT_SECONDS)
        used, began = seconds_used(), perf_counter()
        laps = pool.map(_work, enumerate(images), chunksize=1)
        seconds, used = perf_counter() - began, seconds_used() - used
    return Rate(len(images) / seconds, 1000 * used / len(images)), sum(laps, Laps(0, 0, 0, 0))


class _Process:
    """The model and the storage of one process."""

    def __init__(self, model: Model, results: Path | None) -> None:
        self.model = model
        self.store = ImageStore(results) if results else None

    def work(self, number: int, path: Path) -> Laps:
        """Segment one image and return the time of each part."""
        laps = [perf_counter()]
        with path.open("rb") as file:
            image = read_image(io.BytesIO(file.read()))
        laps.append(perf_counter())
        (maps,) = self.model.maps([image.pixels])
        laps.append(perf_counter())
        segmentation = outline_objects(image, maps, self.model, Parameters())
        laps.append(perf_counter())
        if self.store:
            self.store.put(f"{number}/mask.tif", encode_mask(segmentation.labels, segmentation.pixel_size))
            self.store.put(f"{number}/overlay.png", encode_overlay(image.pixels, segmentation.objects))
        laps.append(perf_counter())
        return Laps(*(after - before for before, after in pairwise(laps)))


_process: _Process


def _set_up(model: ModelChoice, first: Path, results: Path | None, ready: Barrier) -> None:
    global _process
    cv2.setNumThreads(1)
    _process = _Process(load_model(model.name, model.dirs), results)
    # The first image loads modules, so it is segmented before the measurement.
    _process.work(-1, first)
    ready.wait(START_TIMEOUT_SECONDS)


def _work(numbered: tuple[int, Path]) -> Laps:
    return _process.work(*numbered)
