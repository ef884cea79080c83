"""A multipart body as a stream of files: each on disk and hashed while it comes in, never whole in memory."""

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
# An archive holds many images: each of them has the limit of a file, and all together this many times as much.
ARCHIVE_FACTOR = 64
MAX_NAME = 1000
PIECE = 1024**2
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an archive with nothing in it
# What some clients write for a name that is not ASCII, although the standard for forms forbids it.
_EXTENDED = re.compile(r"filename\*\s*=\s*utf-8''([^;\s]+)", re.IGNORECASE)


class Incoming:
    """A file on its way in. It is on disk, as `path`, between the first `write` and `discard`.

    problem: why no more of it was kept.
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

    def write(self, piece: bytes) -> None:
        """Add to it; blocks. What goes wrong becomes its `problem`."""
        if self.problem:
            return
        if not self.size:
            self.is_archive = piece.startswith(ZIP_STARTS)
        self.size += len(piece)
        try:
            self.check_size(self.size)
            if self._file is None:
                self.path = self._store.make_partial()
                self._file = self.path.open("wb")
            self._store.write_partial(self._file, piece)
        except SpherosegError as error:
            self.discard()
            self.problem = error
            return
        self._sha256.update(piece)

    def check_size(self, size: int) -> None:
        """Raises FileTooLarge where a file of its kind must not have that many bytes."""
        limit_mb = self.limit_mb * (ARCHIVE_FACTOR if self.is_archive else 1)
        if size > limit_mb * 1024**2:
            what = "an archive" if self.is_archive else "a file"
            raise FileTooLarge(f"larger than {limit_mb:,} MB, which is the limit for {what}: reduce or split it")

    def finish(self) -> Path:
        """The whole file, closed. Raises its problem."""
        if self.problem:
            raise self.problem
        if self.path is None:
            # Whoever looks into it says that it is empty.
            self.path = self._store.make_partial()
        if self._file:
            self._file.close()
        return self.path

    def discard(self) -> None:
        """Delete what is on disk of it, unless it was moved away."""
        if self._file:
            self._file.close()
        if self.path:
            self.path.unlink(missing_ok=True)


async def receive(
    stream: AsyncIterator[bytes],
    content_type: str,
    store: ImageStore,
    limit_mb: int,
    take: Callable[[Incoming], Awaitable[None]],
) -> None:
    """Hand each file to `take` as soon as it is complete, and delete what that leaves of it.

    Raises UnsupportedMediaType for another body than multipart/form-data, and BadRequest or FileTooLarge where the
    body is damaged: the files before that have been taken.
    """
    boundary = _boundary(content_type)
    incoming: Incoming | None = None
    try:
        # Latin-1 takes any bytes: one strange name must not end the whole request.
        parser = PushMultipartParser(boundary, header_charset="latin-1", max_segment_count=MAX_FILES)
        pending = bytearray()
        with parser:
            async for chunk in stream:
                for event in parser.parse(chunk):
                    if isinstance(event, MultipartSegment):
                        incoming = Incoming(store, _file_name(event), limit_mb)
                        continue
                    assert incoming is not None
                    pending += event or b""
                    if pending and (event is None or len(pending) >= PIECE):
                        await asyncio.to_thread(incoming.write, bytes(pending))
                        pending.clear()
                    if event is None:
                        await take(incoming)
                        incoming.discard()
    except ParserLimitReached as error:
        raise FileTooLarge(f"the multipart body goes beyond what is taken: {error}") from error
    except MultipartError as error:
        raise BadRequest(f"the multipart body is damaged or breaks off: {error}") from error
    finally:
        if incoming:
            incoming.discard()


def _boundary(content_type: str) -> str:
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(
            f"send the files as multipart/form-data, not as {kind[:100] or 'a body without a type'}: "
            "with curl, `-F files=@image.tif`"
        )
    if not options.get("boundary"):
        raise BadRequest("the Content-Type has no boundary: let your HTTP library write that header")
    boundary: str = options["boundary"]
    return boundary


def _file_name(segment: MultipartSegment) -> str:
    """The client's name for the file, cleaned; empty where there is none."""
    disposition = next(value for name, value in segment.headerlist if name == "Content-Disposition")
    if found := _EXTENDED.search(disposition):
        raw = unquote_to_bytes(found[1])
    else:
        raw = (segment.filename or "").encode("latin-1", "replace")
    try:
        return clean_name(raw.decode())
    except UnicodeDecodeError:
        return clean_name(raw.decode("latin-1"))


def clean_name(name: str) -> str:
    """A name to show and to store: relative, with slashes, printable. It never becomes a path here."""
    parts = [part.strip() for part in name.replace("\\", "/").split("/")]
    joined = "/".join(part for part in parts if part not in ("", ".", ".."))
    # The end of a name tells more than its beginning.
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in joined)[-MAX_NAME:]
