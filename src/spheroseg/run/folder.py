"""Lock the output folder of a run for one process, and open the database in it."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import open_engine
from spheroseg.errors import OutputUnusable, RunInUse
from spheroseg.run.options import RunOptions
from spheroseg.run.output_names import OUTPUTS
from spheroseg.storage.atomic_files import remove_partial

USER, PROJECT, DATABASE = "local", "run", "spheroseg.db"


@contextmanager
def run_folder(options: RunOptions) -> Iterator[None]:
    """Make the output folder and lock it for this process.

    Raise RunInUse if another run is writing to it, and OutputUnusable if it cannot be written to or has result files
    that no run has made.
    """
    if options.out.exists() and not options.out.is_dir():
        raise OutputUnusable(f"{options.out} is a file, not a folder: choose a folder with --out")
    if not options.state_dir.exists():
        foreign = [name for name in OUTPUTS if (options.out / name).exists()]
        if foreign:
            raise OutputUnusable(
                f"{options.out} already holds {', '.join(foreign)}, which no run has made: "
                "choose another folder with --out, so that nothing is overwritten"
            )
    try:
        options.storage_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise OutputUnusable(
            f"cannot write to {options.out}: {error.strerror}; choose another folder with --out"
        ) from None
    with (options.state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUse(
                f"another run is writing to {options.out}: wait for it, or choose another folder with --out"
            ) from None
        remove_partial(options.out)
        yield


def open_run(options: RunOptions) -> AsyncEngine:
    """Open the database of a run. The caller disposes of it."""
    return open_engine(f"sqlite:///{options.state_dir / DATABASE}")
