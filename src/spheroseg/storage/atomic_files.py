"""Writes local files so that no reader ever sees a partly written one."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Prefix of the names of files that are not written to their end.
PARTIAL_PREFIX = ".part-"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`. A reader, also after a crash, finds the old file or the new one."""
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces the one at `path` when the block ends without an error."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL_PREFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~umask())
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_partial(folder: Path, older_than: float = 0.0) -> None:
    """Delete the partial files under `folder` that a killed process has left.

    older_than: only files that nobody has written to for so many seconds. Use 0 only while nobody writes there.
    """
    for path in folder.rglob(f"{PARTIAL_PREFIX}*"):
        with suppress(FileNotFoundError):
            if not older_than or path.stat().st_mtime < time.time() - older_than:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Write the names in `folder` to disk. Otherwise a power cut may lose the new name of a file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some network file systems do not support it.
        pass
    finally:
        os.close(handle)


def umask() -> int:
    """Return the umask of this process, which can only be read by setting it."""
    current = os.umask(0)
    os.umask(current)
    return current
