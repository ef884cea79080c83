"""Where images are read and results are written: a local folder, or what fsspec can reach."""

import errno
import lzma
import os
import shutil
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, unquote_to_bytes

import fsspec

from spheroseg.errors import StorageFull, StorageUnusable, UnreadableInput

# Kept free on a local disk, so that the database beside the results can still say that the disk is full.
RESERVE_BYTES = 32 * 1024**2
MAX_MEMBER_BYTES = 4 * 1024**3

OPEN_ARCHIVES = 16
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)

# All of ASCII that is printed, except the sign of the escape itself.
_PLAIN = "".join(chr(code) for code in range(32, 127)).replace("%", "")
_PARTIAL = ".part-"
_INCOMING = "incoming"
# Nobody uploads one file for longer; what is older was left by a process that was killed.
ABANDONED_SECONDS = 24 * 3600.0
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

    def put_file(self, key: str, path: Path) -> None:
        """Take the file at `path`, which `make_partial` made, as the content of `key`; a local one is moved.

        For keys that name their content: what has the same key is the same. Raises StorageFull.
        """
        with _full_disk():
            if not self._is_local:
                system, target = fsspec.core.url_to_fs(f"{self.url.rstrip('/')}/{key}")
                if not system.exists(target) or system.size(target) != path.stat().st_size:
                    system.put_file(str(path), target)
                return
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o666 & ~_umask())
            target = Path(self.url) / key
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            _sync_folder(target.parent)

    def make_partial(self) -> Path:
        """An empty file to be written and handed to `put_file`, on the same disk where the storage is local."""
        folder = self._incoming()
        with _full_disk():
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=_PARTIAL)
            os.close(handle)
        return Path(name)

    def write_partial(self, file: BinaryIO, piece: bytes) -> None:
        """Add to a file that `make_partial` made. Raises StorageFull, while a reserve is left."""
        with _full_disk():
            if shutil.disk_usage(self._incoming()).free < len(piece) + RESERVE_BYTES:
                raise OSError(errno.ENOSPC, "")
            file.write(piece)
            file.flush()

    def remove_abandoned(self) -> None:
        """Delete the partial files that a killed process has left; other processes may be writing theirs."""
        folder = self._incoming()
        if folder.is_dir():
            remove_partial(folder, older_than=ABANDONED_SECONDS)

    def _incoming(self) -> Path:
        return Path(self.url) / _INCOMING if self._is_local else Path(tempfile.gettempdir()) / "spheroseg"

    def local_path(self, key: str) -> Path | None:
        """Where the file of a key lies under a local storage; None for any other."""
        return Path(self.url) / key if self._is_local and "://" not in key else None

    def path(self, key: str) -> Path:
        """The local path of a key without a scheme."""
        if not self._is_local:
            raise ValueError(f"{self.url} is not a local folder")
        return Path(self.url) / key


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`; a reader, or a crash, finds the old file or the new, never a part."""
    with writing_whole(path) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of the one at `path` when all is written; as `write_whole`, in pieces."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_partial(folder: Path, older_than: float = 0.0) -> None:
    """Delete what a killed writer has left under `folder`: what has been still for `older_than` seconds.

    With 0 only while nobody writes there.
    """
    for path in folder.rglob(f"{_PARTIAL}*"):
        with suppress(FileNotFoundError):
            if not older_than or path.stat().st_mtime < time.time() - older_than:
                path.unlink()


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
