"""The child process of a worker slot: it loads the model once and does one task after another until it is killed.

Requests and answers are JSON objects on stdin and stdout, each behind its length (4 bytes, big-endian). The child
knows no queue and no database. A hard deadline is kept by the parent, which kills the whole process group: nothing
in here could interrupt native code.
"""

import argparse
import hashlib
import importlib
import json
import os
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
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
from spheroseg.segmentation.measure import METRICS_VERSION
from spheroseg.segmentation.model import Model
from spheroseg.segmentation.pipeline import Parameters, Segmentation, segment
from spheroseg.storage import ImageStore
from spheroseg.worker.shelf import Shelf

LENGTH = struct.Struct(">I")
# What numbers may depend on.
LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless", "scikit-image", "tifffile")

Answer = dict[str, Any]


def serve(load: Callable[[], Callable[[TaskNew], Answer]]) -> None:
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
        try:
            answer = _encode({"result": work(TaskNew.model_validate(request))})
        except Exception as error:
            answer = _encode({"failed": _failure(error)})
        _send(answers, answer)


def segment_task(task: TaskNew, store: ImageStore, model: Model) -> Answer:
    """Segment the image of `task`, write mask and overlay under the attempt's own key, return the record of it."""
    with store.open(task.image_key) as file:
        if not file.seekable():
            raise UnreadableInput(f"{task.image_key} cannot be read at random")
        _check_content(file, task, store.stamp(task.image_key))
        segmentation, image = segment(file, model, Parameters(**task.parameters), task.page, task.pixel_size_um)
    began = datetime.now(UTC)
    mask_key = f"{task.result_key}/mask.tif"
    overlay_key = f"{task.result_key}/overlay.png"
    mask = encode_mask(segmentation.labels, segmentation.pixel_size)
    overlay = encode_overlay(image.pixels, segmentation.objects)
    store.put(mask_key, mask)
    store.put(overlay_key, overlay)
    writing = (datetime.now(UTC) - began).total_seconds() * 1000
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
        "pixel_size": asdict(segmentation.pixel_size) if segmentation.pixel_size else None,
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
        "versions": {
            "spheroseg": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
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


def _receive(pipe: BinaryIO) -> Answer | None:
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    request: Answer = json.loads(pipe.read(*LENGTH.unpack(head)))
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

    def load() -> Callable[[TaskNew], Answer]:
        # What the first image would otherwise have to wait for.
        importlib.import_module("scipy.spatial")
        importlib.import_module("skimage.measure")
        dirs = [Path(part) for part in arguments.model_dirs.split(os.pathsep) if part]
        store, shelf = ImageStore(arguments.storage), Shelf(dirs)
        shelf.model(arguments.model, None)
        return lambda task: segment_task(task, store, shelf.model(task.model, task.model_sha256))

    serve(load)


if __name__ == "__main__":
    main()
