"""The program of a worker slot's child process: segment the images of tasks.

`child_server.py` is the loop around it, which receives the tasks and sends the answers.
"""

import argparse
import hashlib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2

from spheroseg.errors import InputChanged, UnreadableInput
from spheroseg.export.masks import encode_mask
from spheroseg.export.overlays import encode_overlay
from spheroseg.messages import TaskNew
from spheroseg.segmentation.image import GreyImage
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model import Model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import outline_objects, read_image
from spheroseg.storage import ImageStore
from spheroseg.worker.child_server import IndexedResult, Work, serve
from spheroseg.worker.model_cache import ModelCache
from spheroseg.worker.pipe import Record
from spheroseg.worker.record import make_record

# More pixels in one inference take more memory and save no time.
MAX_PIXELS_TOGETHER = 40_000_000


@dataclass(frozen=True, eq=False)
class _Picture:
    """A decoded image. index: the index of its task in the request. decode_ms: how long reading it took."""

    index: int
    task: TaskNew
    model: Model
    parameters: Parameters
    image: GreyImage
    decode_ms: float


def segment_tasks(
    tasks: Sequence[TaskNew],
    store: ImageStore,
    model_of: Callable[[TaskNew], Model],
    max_pixels: int = MAX_PIXELS_TOGETHER,
) -> Iterator[IndexedResult]:
    """Segment the images of `tasks`; run those with the same model together, up to `max_pixels` per inference.

    Writes the mask and the overlay of each image under the key of its attempt. Yields for each task its record or
    the error that concerns it alone. `model_of` returns the model of a task or raises ModelUnusable.
    """
    together: list[_Picture] = []
    for index, task in _grouped_by_model(tasks):
        try:
            picture = _read(index, task, store, model_of(task))
        except Exception as error:
            yield index, error
            continue
        pixels = sum(other.image.pixels.size for other in (*together, picture))
        if together and (picture.model is not together[0].model or pixels > max_pixels):
            yield from _segment_together(together, store)
            together = []
        together.append(picture)
    yield from _segment_together(together, store)


def _grouped_by_model(tasks: Sequence[TaskNew]) -> list[tuple[int, TaskNew]]:
    """Return the tasks with their indices, grouped by model. The models are in the order of their first tasks."""
    positions: dict[tuple[str, str | None], int] = {}
    for task in tasks:
        positions.setdefault((task.model, task.model_sha256), len(positions))
    return sorted(enumerate(tasks), key=lambda item: positions[item[1].model, item[1].model_sha256])


def _read(index: int, task: TaskNew, store: ImageStore, model: Model) -> _Picture:
    parameters = Parameters(**task.parameters)
    with store.open(task.image_key) as file:
        if not file.seekable():
            raise UnreadableInput(f"{task.image_key} cannot be read at random")
        _check_content(file, task, store.stamp(task.image_key))
        began = time.perf_counter()
        image = read_image(file, task.page, task.pixel_size_um)
    return _Picture(index, task, model, parameters, image, 1000 * (time.perf_counter() - began))


def _segment_together(pictures: Sequence[_Picture], store: ImageStore) -> Iterator[IndexedResult]:
    if not pictures:
        return
    began = time.perf_counter()
    maps: list[Maps] | None = None
    try:
        maps = pictures[0].model.maps([picture.image.pixels for picture in pictures])
    except Exception as error:
        if len(pictures) == 1:
            yield pictures[0].index, error
            return
    # Outside of the `except`: the exception may keep memory alive, and lack of memory may be the problem.
    if maps is None:
        # Do each alone, so that only the picture that causes the error fails.
        for picture in pictures:
            yield from _segment_together([picture], store)
        return
    durations = {"inference": 1000 * (time.perf_counter() - began) / len(pictures)}
    for picture, its_maps in zip(pictures, maps, strict=True):
        try:
            record = _finish(picture, its_maps, store, durations)
            yield picture.index, {**record, "batch_size": len(pictures)}
        except Exception as error:
            yield picture.index, error


def _finish(picture: _Picture, maps: Maps, store: ImageStore, durations: dict[str, float]) -> Record:
    """Trace and measure the objects, write the mask and the overlay, and return the record."""
    task = picture.task
    segmentation = outline_objects(picture.image, maps, picture.model, picture.parameters)
    durations = {"decode": picture.decode_ms, **durations, **segmentation.durations_ms}
    segmentation = replace(segmentation, durations_ms=durations)
    began = time.perf_counter()
    mask_key = f"{task.result_key}/mask.tif"
    overlay_key = f"{task.result_key}/overlay.jpg"
    mask = encode_mask(segmentation.labels, segmentation.pixel_size)
    overlay = encode_overlay(picture.image.pixels, segmentation.objects)
    store.put(mask_key, mask)
    store.put(overlay_key, overlay)
    writing = 1000 * (time.perf_counter() - began)
    return {
        **make_record(segmentation),
        "mask": {"key": mask_key, "sha256": hashlib.sha256(mask).hexdigest()},
        "overlay": {"key": overlay_key, "sha256": hashlib.sha256(overlay).hexdigest()},
        "durations_ms": {**segmentation.durations_ms, "writing": round(writing, 1)},
        "image_sha256": task.image_sha256,
    }


# The content and the stamp of the file that was hashed last, so that a stack is not hashed again for each page.
_last_hashed: tuple[str, int] = ("", 0)


def _check_content(file: BinaryIO, task: TaskNew, stamp: int) -> None:
    """Raise InputChanged if the file is not the one that was submitted."""
    global _last_hashed
    content = (f"{task.image_key} {task.image_sha256}", stamp)
    if content == _last_hashed:
        return
    if hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != task.image_sha256:
        raise InputChanged("the file was changed after it was listed: run the same command again")
    file.seek(0)
    _last_hashed = content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    parser.add_argument(
        "--model", required=True, help="loaded at the start; other models are loaded when a task names them"
    )
    parser.add_argument("--model-dirs", default="", help=f"folders with models, separated by {os.pathsep!r}")
    arguments = parser.parse_args()
    # A slot uses one core. Threads for every core in each slot would only slow each other down.
    cv2.setNumThreads(1)

    def load() -> Work:
        # Import now what the first image would otherwise have to wait for.
        importlib.import_module("scipy.spatial")
        dirs = [Path(part) for part in arguments.model_dirs.split(os.pathsep) if part]
        store, models = ImageStore(arguments.storage), ModelCache(dirs)
        models.get(arguments.model, None)
        return lambda tasks: segment_tasks(tasks, store, lambda task: models.get(task.model, task.model_sha256))

    serve(load)


if __name__ == "__main__":
    main()
