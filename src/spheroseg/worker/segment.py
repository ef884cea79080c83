"""The child process of a worker slot: it loads the model once and does one request after another until it is killed.

A request is a JSON list of tasks on stdin; each task is answered by a JSON object on stdout, with its number in the
list, as soon as it is done. Requests and answers stand behind their length (4 bytes, big-endian). The child knows no
queue and no database. A hard deadline is kept by the parent, which kills the whole process group: nothing in here
could interrupt native code.
"""

import argparse
import functools
import hashlib
import importlib
import json
import os
import platform
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import numpy as np

from spheroseg import __version__
from spheroseg.errors import InputChanged, SpherosegError, UnreadableInput
from spheroseg.export.masks import encode_mask
from spheroseg.export.overlays import encode_overlay
from spheroseg.messages import TaskNew
from spheroseg.segmentation.image import GreyImage
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.measure import METRICS_VERSION
from spheroseg.segmentation.model import Model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import Segmentation, outline_objects, read_image
from spheroseg.storage import ImageStore
from spheroseg.worker.shelf import Shelf

LENGTH = struct.Struct(">I")
# What numbers may depend on.
LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless", "scipy", "tifffile")

# More than this in one inference would only need more memory.
MOST_PIXELS_TOGETHER = 40_000_000

Answer = dict[str, Any]
# The number of a task in its request, and its record or why there is none.
Outcome = tuple[int, Answer | Exception]
Work = Callable[[Sequence[TaskNew]], Iterable[Outcome]]


def serve(load: Callable[[], Work]) -> None:
    """Load once, then answer requests with what `load` gave until stdin ends.

    An exception of `load` is answered as `unusable`, one of the work as `failed`.
    """
    # Whatever a library prints must not land between two answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _die_with_parent()
    try:
        work = load()
    except SpherosegError as error:
        _send(answers, _encode({"unusable": str(error)}))
        return
    _send(answers, _encode({"ready": True}))
    while (request := _receive(sys.stdin.buffer)) is not None:
        for answer in _answers(work, request):
            _send(answers, answer)


def one_by_one(work: Callable[[TaskNew], Answer]) -> Work:
    """Work that does not get better by doing several tasks together."""

    def each(tasks: Sequence[TaskNew]) -> Iterator[Outcome]:
        for number, task in enumerate(tasks):
            try:
                yield number, work(task)
            except Exception as error:
                yield number, error

    return each


def _answers(work: Work, request: Sequence[Any]) -> Iterator[bytes]:
    unanswered = set(range(len(request)))
    try:
        for number, outcome in work([TaskNew.model_validate(task) for task in request]):
            unanswered.discard(number)
            yield _answer(number, outcome)
    except Exception as error:
        for number in sorted(unanswered):
            yield _answer(number, error)


def _answer(number: int, outcome: Answer | Exception) -> bytes:
    if not isinstance(outcome, Exception):
        try:
            return _encode({"task": number, "result": outcome})
        except Exception as error:
            outcome = error
    return _encode({"task": number, "failed": _failure(outcome)})


@dataclass(frozen=True, eq=False)
class _Picture:
    """The image of the task with that `number` in its request; `decode_ms`: how long reading it took."""

    number: int
    task: TaskNew
    model: Model
    parameters: Parameters
    image: GreyImage
    decode_ms: float


def segment_tasks(
    tasks: Sequence[TaskNew],
    store: ImageStore,
    model_of: Callable[[TaskNew], Model],
    most_pixels: int = MOST_PIXELS_TOGETHER,
) -> Iterator[Outcome]:
    """Segment the images of `tasks`, those of a model together, but not more than `most_pixels` at once.

    Mask and overlay of each are written under its attempt's own key. What is wrong with one is its own outcome.
    `model_of` raises ModelUnusable.
    """
    together: list[_Picture] = []
    for number, task in _by_model(tasks):
        try:
            picture = _read(number, task, store, model_of(task))
        except Exception as error:
            yield number, error
            continue
        pixels = sum(other.image.pixels.size for other in (*together, picture))
        if together and (picture.model is not together[0].model or pixels > most_pixels):
            yield from _segment_together(together, store)
            together = []
        together.append(picture)
    yield from _segment_together(together, store)


def _by_model(tasks: Sequence[TaskNew]) -> list[tuple[int, TaskNew]]:
    """Numbered and in their own order, but all of a model beside its first."""
    firsts: dict[tuple[str, str | None], int] = {}
    for task in tasks:
        firsts.setdefault((task.model, task.model_sha256), len(firsts))
    return sorted(enumerate(tasks), key=lambda item: firsts[item[1].model, item[1].model_sha256])


def _read(number: int, task: TaskNew, store: ImageStore, model: Model) -> _Picture:
    parameters = Parameters(**task.parameters)
    with store.open(task.image_key) as file:
        if not file.seekable():
            raise UnreadableInput(f"{task.image_key} cannot be read at random")
        _check_content(file, task, store.stamp(task.image_key))
        began = time.perf_counter()
        image = read_image(file, task.page, task.pixel_size_um)
    return _Picture(number, task, model, parameters, image, 1000 * (time.perf_counter() - began))


def _segment_together(pictures: Sequence[_Picture], store: ImageStore) -> Iterator[Outcome]:
    if not pictures:
        return
    began = time.perf_counter()
    maps: list[Maps] | None = None
    try:
        maps = pictures[0].model.maps([picture.image.pixels for picture in pictures])
    except Exception as error:
        if len(pictures) == 1:
            yield pictures[0].number, error
            return
    # Out of the `except`: an error that is held may hold memory, and want of that may be what it is about.
    if maps is None:
        # Whoever is to blame fails alone.
        for picture in pictures:
            yield from _segment_together([picture], store)
        return
    durations = {"inference": 1000 * (time.perf_counter() - began) / len(pictures)}
    for picture, its_maps in zip(pictures, maps, strict=True):
        try:
            record = _finish(picture, its_maps, store, durations)
            yield picture.number, {**record, "batch_size": len(pictures)}
        except Exception as error:
            yield picture.number, error


def _finish(picture: _Picture, maps: Maps, store: ImageStore, durations: dict[str, float]) -> Answer:
    """Outline, write mask and overlay, return the record."""
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
        **_record(segmentation),
        "mask": {"key": mask_key, "sha256": hashlib.sha256(mask).hexdigest()},
        "overlay": {"key": overlay_key, "sha256": hashlib.sha256(overlay).hexdigest()},
        "durations_ms": {**segmentation.durations_ms, "writing": round(writing, 1)},
        "image_sha256": task.image_sha256,
    }


def _record(segmentation: Segmentation) -> Answer:
    return {
        "width": segmentation.width,
        "height": segmentation.height,
        "pixel_size": segmentation.pixel_size.record() if segmentation.pixel_size else None,
        "flags": list(segmentation.flags),
        "objects": [
            {
                "outer": np.round(found.outline.outer, 3).tolist(),
                "holes": [np.round(hole, 3).tolist() for hole in found.outline.holes],
                "measurements": asdict(found.measurements),
                "flags": list(found.flags),
            }
            for found in segmentation.objects
        ],
        "model": {
            "name": segmentation.model_name,
            "version": segmentation.model_version,
            "sha256": segmentation.model_sha256,
        },
        "parameters": segmentation.parameters,
        "metrics_version": METRICS_VERSION,
        "versions": _versions(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    # What is installed is read from files, and stays as it is while we run.
    return {
        "spheroseg": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


# The file that was hashed last, so that the pages of a stack do not each read all of it.
_last_hashed: tuple[str, int] = ("", 0)


def _check_content(file: BinaryIO, task: TaskNew, stamp: int) -> None:
    """The result must belong to the file that was listed, not to what somebody has put in its place since."""
    global _last_hashed
    known = (f"{task.image_key} {task.image_sha256}", stamp)
    if known == _last_hashed:
        return
    if hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != task.image_sha256:
        raise InputChanged("the file was changed after it was listed: run the same command again")
    file.seek(0)
    _last_hashed = known


def _failure(error: Exception) -> Answer:
    if isinstance(error, SpherosegError):
        return {"reason": error.code, "error": str(error), "retryable": error.retryable}
    if isinstance(error, MemoryError):
        return {"reason": "out_of_memory", "error": "not enough memory for this image", "retryable": True}
    if isinstance(error, OSError):
        return {"reason": "io_error", "error": str(error), "retryable": True}
    return {"reason": "crashed", "error": f"{type(error).__name__}: {error}", "retryable": True}


def _encode(answer: Answer) -> bytes:
    # A measurement that is no number is an error of ours, not an empty cell.
    return json.dumps(answer, allow_nan=False).encode()


def _send(pipe: BinaryIO, body: bytes) -> None:
    pipe.write(LENGTH.pack(len(body)) + body)
    pipe.flush()


def _receive(pipe: BinaryIO) -> list[Any] | None:
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    request: list[Any] = json.loads(pipe.read(*LENGTH.unpack(head)))
    return request


def _die_with_parent() -> None:
    """Let Linux kill us when the parent dies, even in the middle of native code; elsewhere stdin ends."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--model", required=True, help="loaded at once; others when a task names them")
    parser.add_argument("--model-dirs", default="", help=f"folders of models, with {os.pathsep!r} between them")
    arguments = parser.parse_args()
    # A slot is one core: several slots that each start a thread per core only get in each other's way.
    cv2.setNumThreads(1)

    def load() -> Work:
        # What the first image would otherwise have to wait for.
        importlib.import_module("scipy.spatial")
        dirs = [Path(part) for part in arguments.model_dirs.split(os.pathsep) if part]
        store, shelf = ImageStore(arguments.storage), Shelf(dirs)
        shelf.model(arguments.model, None)
        return lambda tasks: segment_tasks(tasks, store, lambda task: shelf.model(task.model, task.model_sha256))

    serve(load)


if __name__ == "__main__":
    main()
