"""The storage of images and results: a local folder, or any place that fsspec can reach."""

import errno
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

from spheroseg.errors import StorageFull, StorageUnusable, UnreadableInput
from spheroseg.storage.atomic_files import PARTIAL_PREFIX, remove_partial, sync_folder, umask, write_atomically

# Kept free on a local disk, so that the database beside the results can still record that the disk is full.
RESERVE_BYTES = 32 * 1024**2
MAX_MEMBER_BYTES = 4 * 1024**3

MAX_OPEN_ARCHIVES = 16
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)

# Printable ASCII characters, except the escape character itself.
_PLAIN = "".join(chr(code) for code in range(32, 127)).replace("%", "")
_INCOMING = "incoming"
# No upload of one file takes longer. An older partial file was left by a process that was killed.
ABANDONED_SECONDS = 24 * 3600.0
_FILE = "file://"
_ZIP = "zip://"


def file_key(path: Path) -> str:
    """Return the storage key of a local file that stays where it is. `%` and undecodable bytes are written as %XX."""
    return f"{_FILE}{quote(os.fsencode(path), safe=_PLAIN)}"


def member_key(archive: Path, member: str) -> str:
    """Return the storage key of a member of a local zip archive that stays where it is."""
    return f"{_ZIP}{quote(member, safe=_PLAIN)}::{file_key(archive)}"


class ImageStore:
    """Reads and writes files by their storage keys. url: a folder or an fsspec URL.

    A key without a scheme names a file under `url`. A key with one, such as `file://` or `zip://`, does not.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).removeprefix(_FILE)
        self._is_local = "://" not in self.url
        self._archives: dict[str, tuple[int, zipfile.ZipFile]] = {}
        self._opening = threading.Lock()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open a file for reading. Raises UnreadableInput if it is missing, forbidden or in a damaged archive."""
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
            quoted, _, archive_key = key.removeprefix(_ZIP).rpartition(f"::{_FILE}")
            member, archive = unquote(quoted), _path(archive_key)
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
        """Return the archive. It stays open, and is opened again only when the file has changed."""
        stamp = _stamp(path)
        with self._opening:
            known = self._archives.get(path)
            if known is None or known[0] != stamp:
                # The old archive is closed when its last reader has ended.
                known = self._archives[path] = (stamp, zipfile.ZipFile(path))
                while len(self._archives) > MAX_OPEN_ARCHIVES:
                    self._archives.pop(next(iter(self._archives)))
            return known[1]

    def stamp(self, key: str) -> int:
        """Return a number that changes when the local file of `key` changes, or 0 if the file is not local."""
        if "://" in key:
            path = _path(key.rpartition(_FILE)[2]) if _FILE in key else ""
        else:
            path = str(Path(self.url) / key) if self._is_local else ""
        return _stamp(path) if path else 0

    def put(self, key: str, content: bytes) -> None:
        """Write all of `content` or nothing. Raises StorageFull if the disk has no room for it."""
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
        write_atomically(path, content)

    def put_file(self, key: str, path: Path) -> None:
        """Store the file at `path`, which `make_partial` made, under `key`. In a local storage it is moved.

        `key` must be derived from the content, because a file that has this key already counts as the same file.
        Raises StorageFull.
        """
        with _full_disk():
            if not self._is_local:
                system, target = fsspec.core.url_to_fs(f"{self.url.rstrip('/')}/{key}")
                if not system.exists(target) or system.size(target) != path.stat().st_size:
                    system.put_file(str(path), target)
                return
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o666 & ~umask())
            target = Path(self.url) / key
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            sync_folder(target.parent)

    def make_partial(self) -> Path:
        """Create an empty file to be written and given to `put_file`, on the disk of the storage if that is local."""
        folder = self._incoming()
        with _full_disk():
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=PARTIAL_PREFIX)
            os.close(handle)
        return Path(name)

    def write_partial(self, file: BinaryIO, piece: bytes) -> None:
        """Append to a file of `make_partial`. Raises StorageFull if less than `RESERVE_BYTES` would stay free."""
        with _full_disk():
            if shutil.disk_usage(self._incoming()).free < len(piece) + RESERVE_BYTES:
                raise OSError(errno.ENOSPC, "")
            file.write(piece)
            file.flush()

    def remove_abandoned(self) -> None:
        """Delete the partial files that killed processes have left, but none that a process may still be writing."""
        folder = self._incoming()
        if folder.is_dir():
            remove_partial(folder, older_than=ABANDONED_SECONDS)

    def _incoming(self) -> Path:
        return Path(self.url) / _INCOMING if self._is_local else Path(tempfile.gettempdir()) / "spheroseg"

    def path_if_local(self, key: str) -> Path | None:
        """Return the path of a key under a local storage, or None for any other key."""
        return Path(self.url) / key if self._is_local and "://" not in key else None

    def require_local_path(self, key: str) -> Path:
        """Return the path of a key without a scheme. Raises ValueError if the storage is not local."""
        if not self._is_local:
            raise ValueError(f"{self.url} is not a local folder")
        return Path(self.url) / key


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise StorageUnusable(
                f"the storage does not take files now ({error.strerror or error}): ask who runs the server, "
                "then send it again"
            ) from error
        raise StorageFull("the disk of the storage is full: free some space on the server, then send it again") from (
            error
        )


def _stamp(path: str) -> int:
    status = os.stat(path)
    return hash((status.st_mtime_ns, status.st_size, status.st_ino))


def _path(key: str) -> str:
    return os.fsdecode(unquote_to_bytes(key.removeprefix(_FILE)))
