"""Zip archives that somebody has sent: opened and unpacked within bounds, one member at a time."""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from spheroseg.api.incoming import PIECE, ZIP_STARTS, Incoming
from spheroseg.errors import BadArchive, FileTooLarge, SpherosegError
from spheroseg.segmentation.file_format import detect_format

MAX_MEMBERS = 10_000
# Of the table of contents: what zipfile reads at once, and turns into objects many times as large.
MAX_DIRECTORY_BYTES = MAX_MEMBERS * 512
# Those whose unpacking can be stopped at any byte, and takes little memory.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Bounded(io.FileIO):
    """A file of which nobody reads much at once; only a table of contents is read so."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > MAX_DIRECTORY_BYTES:
            raise FileTooLarge(_too_many())
        return super().read(size) or b""


def _too_many() -> str:
    return f"the archive holds more than {MAX_MEMBERS:,} files: split it"


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Blocks. Raises BadArchive where it is damaged, FileTooLarge where it holds too many files."""
    with _Bounded(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except SpherosegError:
            raise
        except Exception as error:
            # A damaged one makes the library raise anything.
            raise BadArchive(f"the zip archive is damaged or incomplete: {error}") from error
        with archive:
            if len(archive.infolist()) > MAX_MEMBERS:
                raise FileTooLarge(_too_many())
            yield archive


def files_in(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Its members in their order, without folders and what an operating system hides there."""
    return [member for member in archive.infolist() if not member.is_dir() and not _is_hidden(member.filename)]


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Incoming) -> None:
    """Write a member to `target`, up to its limit; blocks.

    Raises BadArchive where it is encrypted or damaged, FileTooLarge where it says so itself, and BadImage at its
    first bytes where it is no image.
    """
    if member.flag_bits & 0x1:
        raise BadArchive("encrypted in its zip archive: unpack it first")
    if member.compress_type not in METHODS:
        raise BadArchive("packed with a method that is not read: make the zip archive with the usual one, deflate")
    # What it says of itself may be a lie; then the limit is met while it is unpacked.
    target.check_size(member.file_size)
    try:
        with archive.open(member) as source:
            while piece := source.read(PIECE):
                if not target.size:
                    if piece.startswith(ZIP_STARTS):
                        raise BadArchive("a zip archive inside a zip archive: unpack it first")
                    # Before the rest is unpacked for nothing.
                    detect_format(io.BytesIO(piece))
                target.write(piece)
                if target.problem:
                    return
    except SpherosegError:
        raise
    except Exception as error:
        raise BadArchive(f"damaged in its zip archive: {error or type(error).__name__}") from error
