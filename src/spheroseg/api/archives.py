"""Uploaded zip archives: opened and unpacked within limits, one member at a time."""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from spheroseg.api.incoming import CHUNK_BYTES, ZIP_SIGNATURES, IncomingFile
from spheroseg.errors import BadArchive, FileTooLarge, SpherosegError
from spheroseg.segmentation.file_format import detect_format

MAX_MEMBERS = 10_000
# zipfile reads the whole table of contents at once, and its objects take many times as much memory.
MAX_DIRECTORY_BYTES = MAX_MEMBERS * 512
# Unpacking these methods can be stopped at any byte, and takes little memory.
SUPPORTED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _BoundedFile(io.FileIO):
    """A file that refuses to read much at once. zipfile does so only for the table of contents."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > MAX_DIRECTORY_BYTES:
            raise FileTooLarge(_too_many_files())
        return super().read(size) or b""


def _too_many_files() -> str:
    return f"the archive contains more than {MAX_MEMBERS:,} files: split it"


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive; blocks. Raise BadArchive if it is damaged, FileTooLarge if it contains too many files."""
    with _BoundedFile(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except SpherosegError:
            raise
        except Exception as error:
            # For a damaged archive zipfile may raise anything.
            raise BadArchive(f"the zip archive is damaged or incomplete: {error}") from error
        with archive:
            if len(archive.infolist()) > MAX_MEMBERS:
                raise FileTooLarge(_too_many_files())
            yield archive


def files_in(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the members in their order, without folders and without files that an operating system hides there."""
    return [member for member in archive.infolist() if not member.is_dir() and not _is_hidden(member.filename)]


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: IncomingFile) -> None:
    """Write a member to `target`, up to its limit; blocks.

    Raise BadArchive if it is encrypted or damaged, FileTooLarge if its header gives too large a size, and BadImage
    after the first chunk if it is no image.
    """
    if member.flag_bits & 0x1:
        raise BadArchive("encrypted in its zip archive: unpack it first")
    if member.compress_type not in SUPPORTED_METHODS:
        raise BadArchive("packed with an unsupported method: make the zip archive with the usual one, deflate")
    # The size in the header may be false. Then `target` meets its limit during unpacking.
    target.check_size(member.file_size)
    try:
        with archive.open(member) as source:
            while chunk := source.read(CHUNK_BYTES):
                if not target.size:
                    if chunk.startswith(ZIP_SIGNATURES):
                        raise BadArchive("a zip archive inside a zip archive: unpack it first")
                    # Detected now, so that the rest of a file that is no image is not unpacked.
                    detect_format(io.BytesIO(chunk))
                target.write(chunk)
                if target.problem:
                    return
    except SpherosegError:
        raise
    except Exception as error:
        raise BadArchive(f"damaged in its zip archive: {error or type(error).__name__}") from error
