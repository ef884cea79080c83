"""Checks of this machine: secrets, storage, the model, and the child process that does the work."""

import hashlib
import io
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
from PIL import Image as Pillow

from spheroseg.errors import BadSettings, ModelUnusable
from spheroseg.messages import TaskNew
from spheroseg.monitoring.doctor.findings import Finding, Site, in_thread, ok, problem, warning
from spheroseg.segmentation.model import DEFAULT_MODEL, KnownModel, find_model, known_models, load_model
from spheroseg.storage import RESERVE_BYTES, ImageStore, write_whole
from spheroseg.worker.child import Child, ChildDied, child_command

LITTLE_BYTES = 1024**3
PROBE = b"spheroseg doctor"
SAME_VERSION = "install the same version of spheroseg everywhere, and check MODEL"


async def look_at_secrets(site: Site) -> AsyncIterator[Finding]:
    try:
        site.settings.refuse_weak_secrets()
    except BadSettings as error:
        for line in str(error).splitlines()[1:]:
            what, _, step = line.strip().rpartition(": ")
            yield problem("secrets", what, step)
        return
    if site.settings.in_production:
        yield ok("secrets", "none is weak or the default")
    else:
        yield ok("secrets", "not judged in development; SPHEROSEG_ENV=production refuses weak ones")


async def look_at_storage(site: Site) -> AsyncIterator[Finding]:
    url = site.settings.resolved_storage_url().removeprefix("file://")
    if "://" in url:
        yield await in_thread(lambda: _remote(url))
        return
    is_default = not site.settings.storage_url
    yield await in_thread(lambda: _local(Path(url), is_default))


def _local(folder: Path, is_default: bool) -> Finding:
    if is_default and not folder.exists():
        return ok("storage", f"{folder} will be made by the first command")
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        return problem("storage", f"{folder} {what}", "make the folder, or mount the volume, or set STORAGE_URL")
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        write_whole(probe, PROBE)
        read = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        step = f"let the user that runs spheroseg write there (`ls -ld {folder}`), or set another STORAGE_URL"
        return problem("storage", f"{folder} cannot be written to: {error.strerror or error}", step)
    if read != PROBE:
        return problem("storage", f"{folder} gives back something else than was written", "check that disk")
    free = shutil.disk_usage(folder).free
    words = f"{free / 1024**3:.1f} GB are free"
    if free < RESERVE_BYTES:
        return problem("storage", f"the disk of {folder} is full: {words}", "free some space")
    if free < LITTLE_BYTES:
        return warning("storage", f"the disk of {folder} is nearly full: {words}", "free some space")
    return ok("storage", f"{folder}: written, read back and deleted; {words}")


def _remote(url: str) -> Finding:
    probe = f"{url.rstrip('/')}/.doctor-{uuid.uuid4().hex}"
    try:
        system, path = fsspec.core.url_to_fs(probe)
        with system.open(path, "wb") as file:
            file.write(PROBE)
        with system.open(path, "rb") as file:
            read = file.read()
        system.rm_file(path)
    except ImportError as error:
        return problem("storage", f"{url} needs a package that is missing: {error}", "install that package")
    except Exception as error:
        what = f"{url} cannot be written to: {type(error).__name__}: {error}"
        return problem("storage", what, "check STORAGE_URL, its credentials, and that they may write and delete")
    if read != PROBE:
        return problem("storage", f"{url} gives back something else than was written", "check what serves it")
    return ok("storage", f"{url}: written, read back and deleted")


async def look_at_model(site: Site) -> AsyncIterator[Finding]:
    dirs, wanted = site.settings.model_folders, site.settings.model or DEFAULT_MODEL
    for place in dirs:
        if not place.is_dir():
            yield warning("model", f"MODEL_DIRS names {place}, which is no folder", "make it, or correct MODEL_DIRS")
    known = await in_thread(lambda: known_models(dirs))
    if wanted not in [model.name for model in known]:
        names = ", ".join(model.name for model in known)
        what = f"there is no model {wanted!r}: known are {names}"
        yield problem("model", what, "set MODEL to one of them, or leave it out")
    for model in known:
        yield await in_thread(partial(_model, model, wanted, dirs))


def _model(model: KnownModel, wanted: str, dirs: Sequence[Path]) -> Finding:
    default = ", the default" if model.name == wanted else ""
    try:
        loaded = load_model(model.name, dirs)
    except ModelUnusable as error:
        # The site works without what nobody has to use.
        judged = problem if default else warning
        return judged("model", str(error), "`spheroseg model check FOLDER` says more; mend or remove that folder")
    return ok("model", f"{loaded.name} {loaded.version}{default}, sha256 {loaded.sha256[:12]}…")


async def look_at_child(site: Site) -> AsyncIterator[Finding]:
    """A worker slot's own child process, with one small picture; nothing of it stays."""
    dirs = site.settings.model_folders
    model = find_model(site.settings.model or DEFAULT_MODEL, dirs)
    with tempfile.TemporaryDirectory(prefix="spheroseg-doctor-") as folder, tempfile.TemporaryFile() as told:
        picture = _spheroid()
        ImageStore(folder).put("picture.png", picture)
        task = TaskNew(
            task_id=uuid.uuid4(),
            attempt=1,
            image_key="picture.png",
            image_sha256=hashlib.sha256(picture).hexdigest(),
            model=model.name,
            model_sha256=model.sha256,
        )
        child = Child(child_command(folder, model.name, dirs), stderr=told.fileno())
        try:
            answer = await child.perform(task)
        except (ChildDied, ModelUnusable) as error:
            told.seek(0)
            last = told.read().decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
            step = f"try `spheroseg run` on one image here; memory is the usual cause. Its last words: {last[0]}"
            yield problem("child process", str(error), step)
            return
        finally:
            await child.kill()
    if "failed" in answer:
        yield problem("child process", f"failed on an example: {answer['failed']['error']}", SAME_VERSION)
    elif len(answer["result"]["objects"]) != 1:
        found = len(answer["result"]["objects"])
        yield problem("child process", f"found {found} objects in an example that shows one", SAME_VERSION)
    else:
        yield ok("child process", "started, and found the one object of an example")


def _spheroid() -> bytes:
    """A PNG of one dark disc on bright, faintly noisy ground."""
    y, x = np.mgrid[0:256, 0:256]
    grey = 200.0 - 120.0 / (1.0 + np.exp((np.hypot(x - 128, y - 128) - 60.0) / 2.0))
    grey += np.random.default_rng(1).normal(0.0, 3.0, grey.shape)
    written = io.BytesIO()
    Pillow.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(written, "PNG")
    return written.getvalue()
