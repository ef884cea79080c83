"""Where images are read and results are written: a local folder, or what fsspec can reach."""

import lzma
import os
import shutil
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, unquote_to_bytes

import fsspec

from spheroseg.errors import StorageFull, UnreadableInput

# Kept free on a local disk, so that the database beside the results can still say that the disk is full.
RESERVE_BYTES = 32 * 1024**2
MAX_MEMBER_BYTES = 4 * 1024**3

OPEN_ARCHIVES = 16
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)

# All of ASCII that is printed, except the sign of the escape itself.
_PLAIN = "".join(chr(code) for code in range(32, 127)).replace("%", "")
_PARTIAL = ".part-"
_FILE = "file://"
_ZIP = "zip://"


def file_key(path: Path) -> str:
    """The storage key of a file where it lies; `%` and bytes that are no text are written as %XX."""
    return f"{_FILE}{quote(os.fsencode(path), safe=_PLAIN)}"


def member_key(archive: Path, member: str) -> str:
    """The storage key of a member of a zip archive where it lies."""
    return f"{_ZIP}{quote(member, safe=_PLAIN)}::{file_key(archive)}"


class ImageStore:
    """Keys without a scheme lie under `url`, a folder or an fsspec URL; `file://`, `zip://` and other URLs do not."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).removeprefix(_FILE)
        self._is_local = "://" not in self.url
        self._archives: dict[str, tuple[int, zipfile.ZipFile]] = {}
        self._opening = threading.Lock()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """A readable, seekable binary file. Raises UnreadableInput where it is missing, forbidden or no archive."""
        try:
            with self._opened(key) as file:
                yield file
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise UnreadableInput(f"{error.strerror}: {_path(key)}") from error
        except DAMAGED_ARCHIVE as error:
            if not key.startswith(_ZIP):
                raise
            raise UnreadableInput(f"damaged in its zip archive: {error}") from error

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        if key.startswith(_FILE):
            with Path(_path(key)).open("rb") as file:
                yield file
        elif key.startswith(_ZIP):
            quoted, _, place = key.removeprefix(_ZIP).rpartition(f"::{_FILE}")
            member, archive = unquote(quoted), _path(place)
            opened = self._archive(archive)
            if member not in opened.NameToInfo:
                raise UnreadableInput(f"{member} is not in {archive} any more")
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

    def _archive(self, path: str) -> zipfile.ZipFile:
        """The archive, opened once: its directory is read anew only when the file has changed."""
        stamp = _stamp(path)
        with self._opening:
            known = self._archives.get(path)
            if known is None or known[0] != stamp:
                # The old one closes itself when its last reader lets it go.
                known = self._archives[path] = (stamp, zipfile.ZipFile(path))
                while len(self._archives) > OPEN_ARCHIVES:
                    self._archives.pop(next(iter(self._archives)))
            return known[1]

    def stamp(self, key: str) -> int:
        """A number that changes when the local file behind `key` does; 0 where that cannot be known."""
        if "://" in key:
            path = _path(key.rpartition(_FILE)[2]) if _FILE in key else ""
        else:
            path = str(Path(self.url) / key) if self._is_local else ""
        return _stamp(path) if path else 0

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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_partial(folder: Path) -> None:
    """Delete what a killed `write_whole` has left under `folder`; only while nobody writes there."""
    for path in folder.rglob(f"{_PARTIAL}*"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Without this a power cut may forget the new name of a file whose content is safe.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some network file systems know no such thing.
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _stamp(path: str) -> int:
    found = os.stat(path)
    return hash((found.st_mtime_ns, found.st_size, found.st_ino))


def _path(key: str) -> str:
    return os.fsdecode(unquote_to_bytes(key.removeprefix(_FILE)))
