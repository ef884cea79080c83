"""Checks of the models, and of the child process that runs them."""

import hashlib
import io
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from spheroseg.errors import ModelUnusable
from spheroseg.messages import TaskNew
from spheroseg.monitoring.doctor.checks import (
    CheckContext,
    CheckResult,
    ok,
    problem,
    run_in_daemon_thread,
    warning,
)
from spheroseg.segmentation.model import DEFAULT_MODEL, KnownModel, find_model, known_models, load_model
from spheroseg.storage import ImageStore
from spheroseg.worker.child import Child, ChildDied, child_command

SAME_VERSION = "install the same version of spheroseg everywhere, and check MODEL"


async def check_models(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Load every model of MODEL_DIRS and see that MODEL is one of them."""
    folders, default = context.settings.model_folders, context.settings.model or DEFAULT_MODEL
    for folder in folders:
        if not folder.is_dir():
            yield warning("model", f"MODEL_DIRS names {folder}, which is no folder", "make it, or correct MODEL_DIRS")
    models = await run_in_daemon_thread(lambda: known_models(folders))
    if default not in [model.name for model in models]:
        names = ", ".join(model.name for model in models)
        message = f"there is no model {default!r}; the known models are {names}"
        yield problem("model", message, "set MODEL to one of them, or leave it out")
    for model in models:
        yield await run_in_daemon_thread(partial(_check_model, model, default, folders))


def _check_model(model: KnownModel, default: str, folders: Sequence[Path]) -> CheckResult:
    is_default = model.name == default
    try:
        loaded = load_model(model.name, folders)
    except ModelUnusable as error:
        # The site works without a model that nobody has to use.
        verdict = problem if is_default else warning
        return verdict("model", str(error), "`spheroseg model check FOLDER` says more; repair or remove that folder")
    label = ", the default" if is_default else ""
    return ok("model", f"{loaded.name} {loaded.version}{label}, sha256 {loaded.sha256[:12]}…")


async def check_child_process(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Segment one small image in a child process as a worker starts it, in a temporary folder."""
    folders = context.settings.model_folders
    model = find_model(context.settings.model or DEFAULT_MODEL, folders)
    with tempfile.TemporaryDirectory(prefix="spheroseg-doctor-") as folder, tempfile.TemporaryFile() as stderr:
        image = _draw_spheroid()
        ImageStore(folder).put("picture.png", image)
        task = TaskNew(
            task_id=uuid.uuid4(),
            attempt=1,
            image_key="picture.png",
            image_sha256=hashlib.sha256(image).hexdigest(),
            model=model.name,
            model_sha256=model.sha256,
        )
        child = Child(child_command(folder, model.name, folders), stderr=stderr.fileno())
        try:
            answer = await child.perform(task)
        except (ChildDied, ModelUnusable) as error:
            stderr.seek(0)
            last_line = stderr.read().decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            advice = (
                "try `spheroseg run` on one image here; memory is the usual cause. "
                f"The last line that it printed: {last_line[0]}"
            )
            yield problem("child process", str(error), advice)
            return
        finally:
            await child.kill()
    if "failed" in answer:
        yield problem("child process", f"failed on an example: {answer['failed']['error']}", SAME_VERSION)
    elif len(answer["result"]["objects"]) != 1:
        count = len(answer["result"]["objects"])
        yield problem("child process", f"found {count} objects in an example that shows one", SAME_VERSION)
    else:
        yield ok("child process", "started, and found the one object of an example")


def _draw_spheroid() -> bytes:
    """Return a PNG of 256 × 256 px: one dark disc of radius 60 px on a bright, slightly noisy background."""
    y, x = np.mgrid[0:256, 0:256]
    grey = 200.0 - 120.0 / (1.0 + np.exp((np.hypot(x - 128, y - 128) - 60.0) / 2.0))
    grey += np.random.default_rng(1).normal(0.0, 3.0, grey.shape)
    buffer = io.BytesIO()
    Pillow.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
