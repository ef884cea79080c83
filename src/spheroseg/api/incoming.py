"""A multipart body as a stream of files. Each is written to disk and hashed as it arrives, never held in memory."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from spheroseg.errors import BadRequest, FileTooLarge, SpherosegError, UnsupportedMediaType
from spheroseg.storage import ImageStore

MAX_FILES = 10_000
# Each image in an archive has the limit of a file; all of them together have this many times as much.
ARCHIVE_FACTOR = 64
MAX_NAME_LENGTH = 1000
CHUNK_BYTES = 1024**2
ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")  # the second is that of an empty archive
# Some clients send names that are not ASCII in this form, although RFC 7578 forbids it in multipart/form-data.
_EXTENDED_FILE_NAME = re.compile(r"filename\*\s*=\s*utf-8''([^;\s]+)", re.IGNORECASE)


class IncomingFile:
    """A file that is being received. It is on disk at `path` between the first `write` and `discard`.

    problem: the reason why the rest of it was not kept.
    """

    def __init__(self, store: ImageStore, name: str, limit_mb: int) -> None:
        self.name = name
        self.limit_mb = limit_mb
        self.size = 0
        self.path: Path | None = None
        self.problem: SpherosegError | None = None
        self.is_archive = False
        self._store = store
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append `chunk`; blocks. An error does not raise but becomes the `problem` of the file."""
        if self.problem:
            return
        if not self.size:
            self.is_archive = chunk.startswith(ZIP_SIGNATURES)
        self.size += len(chunk)
        try:
            self.check_size(self.size)
            if self._file is None:
                self.path = self._store.make_partial()
                self._file = self.path.open("wb")
            self._store.write_partial(self._file, chunk)
        except SpherosegError as error:
            self.discard()
            self.problem = error
            return
        self._sha256.update(chunk)

    def check_size(self, size: int) -> None:
        """Raise FileTooLarge if `size` bytes are too many for a file of this kind."""
        limit_mb = self.limit_mb * (ARCHIVE_FACTOR if self.is_archive else 1)
        if size > limit_mb * 1024**2:
            kind = "an archive" if self.is_archive else "a file"
            raise FileTooLarge(f"larger than {limit_mb:,} MB, the limit for {kind}: reduce or split it")

    def finish(self) -> Path:
        """Close the file and return its path. Raise its problem if it has one."""
        if self.problem:
            raise self.problem
        if self.path is None:
            # An empty file is made as well, so that whoever reads it reports that it is empty.
            self.path = self._store.make_partial()
        if self._file:
            self._file.close()
        return self.path

    def discard(self) -> None:
        """Delete the file from disk, unless it was moved elsewhere."""
        if self._file:
            self._file.close()
        if self.path:
            self.path.unlink(missing_ok=True)


async def receive(
    stream: AsyncIterator[bytes],
    content_type: str,
    store: ImageStore,
    limit_mb: int,
    take: Callable[[IncomingFile], Awaitable[None]],
) -> None:
    """Pass each file to `take` as soon as it is complete, and delete what `take` leaves of it on disk.

    Raise UnsupportedMediaType for another body than multipart/form-data, and BadRequest or FileTooLarge if the body
    is damaged. The files before the damage have been taken then.
    """
    boundary = _boundary(content_type)
    incoming: IncomingFile | None = None
    try:
        # Latin-1 decodes any bytes, so that one unusual name does not end the whole request.
        parser = PushMultipartParser(boundary, header_charset="latin-1", max_segment_count=MAX_FILES)
        pending = bytearray()
        with parser:
            async for chunk in stream:
                for event in parser.parse(chunk):
                    if isinstance(event, MultipartSegment):
                        incoming = IncomingFile(store, _file_name(event), limit_mb)
                        continue
                    assert incoming is not None
                    pending += event or b""
                    if pending and (event is None or len(pending) >= CHUNK_BYTES):
                        await asyncio.to_thread(incoming.write, bytes(pending))
                        pending.clear()
                    if event is None:
                        await take(incoming)
                        incoming.discard()
    except ParserLimitReached as error:
        raise FileTooLarge(f"the multipart body exceeds a limit: {error}") from error
    except MultipartError as error:
        raise BadRequest(f"the multipart body is damaged or incomplete: {error}") from error
    finally:
        if incoming:
            incoming.discard()


def _boundary(content_type: str) -> str:
    media_type, options = parse_options_header(content_type)
    if media_type != "multipart/form-data":
        raise UnsupportedMediaType(
            f"send the files as multipart/form-data, not as {media_type[:100] or 'a body without a type'}: "
            "with curl, `-F files=@image.tif`"
        )
    if not options.get("boundary"):
        raise BadRequest("the Content-Type has no boundary: let your HTTP library write that header")
    boundary: str = options["boundary"]
    return boundary


def _file_name(segment: MultipartSegment) -> str:
    """Return the client's name for the file, cleaned. Empty if it has none."""
    disposition = next(value for name, value in segment.headerlist if name == "Content-Disposition")
    if match := _EXTENDED_FILE_NAME.search(disposition):
        raw = unquote_to_bytes(match[1])
    else:
        raw = (segment.filename or "").encode("latin-1", "replace")
    try:
        return clean_name(raw.decode())
    except UnicodeDecodeError:
        return clean_name(raw.decode("latin-1"))


def clean_name(name: str) -> str:
    """Return a name that can be stored and shown: relative, with slashes, printable. It is never used as a path."""
    parts = [part.strip() for part in name.replace("\\", "/").split("/")]
    joined = "/".join(part for part in parts if part not in ("", ".", ".."))
    # If a name is too long, its end says more than its beginning.
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in joined)[-MAX_NAME_LENGTH:]
