"""Where images are read and results are written: a local folder, or what fsspec can reach."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from spheroseg.errors import StorageFull, UnreadableInput

# Kept free on a local disk, so that the database beside the results can still say that the disk is full.
RESERVE_BYTES = 32 * 1024**2
MAX_MEMBER_BYTES = 4 * 1024**3

_FILE = "file://"
_ZIP = "zip://"


def file_key(path: Path) -> str:
    """The storage key of a file where it lies."""
    return f"{_FILE}{path}"


def member_key(archive: Path, member: str) -> str:
    """The storage key of a member of a zip archive where it lies."""
    return f"{_ZIP}{member}::{_FILE}{archive}"


class ImageStore:
    """Keys without a scheme lie under `url`, a folder or an fsspec URL; `file://`, `zip://` and other URLs do not."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).removeprefix(_FILE)
        self._is_local = "://" not in self.url

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """A readable, seekable binary file. Raises UnreadableInput where it is missing, forbidden or no archive."""
        try:
            with self._opened(key) as file:
                yield file
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise UnreadableInput(f"{error.strerror}: {_path(key)}") from error
        except zipfile.BadZipFile as error:
            raise UnreadableInput(f"damaged zip archive: {error}") from error

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        if key.startswith(_FILE):
            with Path(_path(key)).open("rb") as file:
                yield file
        elif key.startswith(_ZIP):
            member, _, archive = key.removeprefix(_ZIP).rpartition(f"::{_FILE}")
            with zipfile.ZipFile(archive) as opened:
                if opened.getinfo(member).file_size > MAX_MEMBER_BYTES:
                    raise UnreadableInput(f"{member} is larger than {MAX_MEMBER_BYTES // 1024**3} GB unpacked")
                with opened.open(member) as unpacked:
                    yield cast(BinaryIO, unpacked)
        elif "://" in key:
            with fsspec.open(key, "rb") as remote:
                yield remote
        elif self._is_local:
            with (Path(self.url) / key).open("rb") as file:
                yield file
        else:
            with fsspec.open(f"{self.url.rstrip('/')}/{key}", "rb") as remote:
                yield remote

    def put(self, key: str, content: bytes) -> None:
        """Write the whole of `content` or nothing. Raises StorageFull where there is no room for it."""
        if not self._is_local:
            with fsspec.open(f"{self.url.rstrip('/')}/{key}", "wb") as remote:
                remote.write(content)
            return
        path = Path(self.url) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < len(content) + RESERVE_BYTES:
            raise StorageFull(
                f"the disk of {self.url} is full ({free // 1024**2} MB free, {RESERVE_BYTES // 1024**2} MB are kept "
                "in reserve): free some space, then run the same command again"
            )
        write_whole(path, content)

    def path(self, key: str) -> Path:
        """The local path of a key without a scheme."""
        if not self._is_local:
            raise ValueError(f"{self.url} is not a local folder")
        return Path(self.url) / key


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`; a reader, or a crash, finds the old file or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _path(key: str) -> str:
    return key.removeprefix(_FILE)
