"""The work on an image without any task system: what the queue is compared with."""

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

START_TIMEOUT = 120.0  # s; for all processes to have loaded the model and done an image


@dataclass(frozen=True)
class Selected:
    """A model by name, and the folders to look in beside those that come along."""

    name: str
    dirs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Laps:
    """Seconds in each part of one image."""

    decode: float
    inference: float
    outlines: float
    writing: float

    def __add__(self, other: "Laps") -> "Laps":
        return Laps(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def measure(images: Sequence[Path], model: Selected, processes: int, results: Path | None) -> tuple[Rate, Laps]:
    """The rate of so many processes with one thread each, and the laps of all images together.

    With `results`, a mask and an overlay of each are written there, as a worker's child does.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    with context.Pool(processes, _set_up, (model, images[0], results, ready)) as pool:
        ready.wait(START_TIMEOUT)
        used, began = seconds_used(), perf_counter()
        laps = pool.map(_work, enumerate(images), chunksize=1)
        seconds, used = perf_counter() - began, seconds_used() - used
    return Rate(len(images) / seconds, 1000 * used / len(images)), sum(laps, Laps(0, 0, 0, 0))


class _Bench:
    def __init__(self, model: Model, results: Path | None) -> None:
        self.model = model
        self.store = ImageStore(results) if results else None

    def work(self, number: int, path: Path) -> Laps:
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


_here: _Bench


def _set_up(model: Selected, first: Path, results: Path | None, ready: Barrier) -> None:
    global _here
    cv2.setNumThreads(1)
    _here = _Bench(load_model(model.name, model.dirs), results)
    # What is loaded with the first image is loaded now.
    _here.work(-1, first)
    ready.wait(START_TIMEOUT)


def _work(numbered: tuple[int, Path]) -> Laps:
    return _here.work(*numbered)
