"""Checks of the settings and the disk of this machine: secrets and storage."""

import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import fsspec

from spheroseg.errors import BadSettings
from spheroseg.monitoring.doctor.checks import (
    CheckContext,
    CheckResult,
    ok,
    problem,
    run_in_daemon_thread,
    warning,
)
from spheroseg.storage import RESERVE_BYTES
from spheroseg.storage.atomic_files import write_atomically

LOW_DISK_BYTES = 1024**3
PROBE = b"spheroseg doctor"


async def check_secrets(context: CheckContext) -> AsyncIterator[CheckResult]:
    try:
        context.settings.refuse_weak_secrets()
    except BadSettings as error:
        for line in str(error).splitlines()[1:]:
            message, _, advice = line.strip().rpartition(": ")
            yield problem("secrets", message, advice)
        return
    if context.settings.in_production:
        yield ok("secrets", "none is weak or the default")
    else:
        yield ok("secrets", "not checked in development; SPHEROSEG_ENV=production refuses weak ones")


async def check_storage(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Write a small file, read it back, delete it, and look at the free space."""
    url = context.settings.resolved_storage_url().removeprefix("file://")
    if "://" in url:
        yield await run_in_daemon_thread(lambda: _check_remote_storage(url))
        return
    is_default = not context.settings.storage_url
    yield await run_in_daemon_thread(lambda: _check_local_storage(Path(url), is_default))


def _check_local_storage(folder: Path, is_default: bool) -> CheckResult:
    if is_default and not folder.exists():
        return ok("storage", f"{folder} will be made by the first command")
    if not folder.is_dir():
        fault = "is a file, not a folder" if folder.exists() else "does not exist"
        return problem("storage", f"{folder} {fault}", "make the folder, or mount the volume, or set STORAGE_URL")
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        write_atomically(probe, PROBE)
        content = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        advice = f"let the user that runs spheroseg write there (`ls -ld {folder}`), or set another STORAGE_URL"
        return problem("storage", f"{folder} cannot be written to: {error.strerror or error}", advice)
    if content != PROBE:
        return problem("storage", f"{folder} returns other bytes than were written", "check that disk")
    free = shutil.disk_usage(folder).free
    free_text = f"{free / 1024**3:.1f} GB are free"
    if free < RESERVE_BYTES:
        return problem("storage", f"the disk of {folder} is full: {free_text}", "free some space")
    if free < LOW_DISK_BYTES:
        return warning("storage", f"the disk of {folder} is nearly full: {free_text}", "free some space")
    return ok("storage", f"{folder}: written, read back and deleted; {free_text}")


def _check_remote_storage(url: str) -> CheckResult:
    probe = f"{url.rstrip('/')}/.doctor-{uuid.uuid4().hex}"
    try:
        system, path = fsspec.core.url_to_fs(probe)
        with system.open(path, "wb") as file:
            file.write(PROBE)
        with system.open(path, "rb") as file:
            content = file.read()
        system.rm_file(path)
    except ImportError as error:
        return problem("storage", f"{url} needs a package that is missing: {error}", "install that package")
    except Exception as error:
        message = f"{url} cannot be written to: {type(error).__name__}: {error}"
        return problem("storage", message, "check STORAGE_URL, its credentials, and that they may write and delete")
    if content != PROBE:
        return problem("storage", f"{url} returns other bytes than were written", "check the server of the storage")
    return ok("storage", f"{url}: written, read back and deleted")
