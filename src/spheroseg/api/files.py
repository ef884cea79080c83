"""Downloads: files of the storage as HTTP responses."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse

from spheroseg.errors import BadImage
from spheroseg.segmentation.file_format import detect_format
from spheroseg.storage import ImageStore

CHUNK_BYTES = 1024**2
MAX_NAME_LENGTH = 150
IMAGE_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "BMP": "image/bmp", "TIFF": "image/tiff"}
UNKNOWN_MEDIA_TYPE = "application/octet-stream"


def file_responses(description: str, media_types: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """Return the responses that `send_file` may give, for OpenAPI."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
    etag = {"ETag": {"description": "SHA-256 of the file.", "schema": {"type": "string"}}}
    return {
        200: {"description": description, "content": content, "headers": etag},
        206: {"description": "The part that the Range header asks for", "content": content},
        304: {"description": "The client has this file already, as the ETag in If-None-Match shows"},
        416: {"description": "The file does not have the part that the Range header asks for"},
    }


async def send_file(
    request: Request,
    store: ImageStore,
    key: str,
    *,
    sha256: str,
    name: str,
    media_type: str | None = None,
    is_inline: bool = False,
) -> Response:
    """Send the file under `key` in chunks. `name` is the file name that the client is offered.

    sha256: the checksum of the file, which becomes its ETag; empty if it is unknown, and then there is no ETag.
    media_type: None to detect it from the content.
    Raise UnreadableInput or OSError if the file cannot be read.
    """
    headers = {
        "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition(name, is_inline=is_inline),
        # A browser must neither guess another type nor run scripts in a file that a user has uploaded.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if sha256:
        headers["ETag"] = f'"{sha256}"'
        if _matches(request.headers.get("if-none-match", ""), sha256):
            return Response(status_code=304, headers=headers)
    opened = ExitStack()

    def open_file() -> tuple[BinaryIO, int, str]:
        file = opened.enter_context(store.open(key))
        size = file.seek(0, 2)
        file.seek(0)
        return file, size, media_type or _detect_media_type(file)

    file, size, media_type = await run_in_threadpool(open_file)
    path = store.path_if_local(key)
    if path is not None:
        opened.close()
        return FileResponse(path, media_type=media_type, headers=headers)
    headers["Content-Length"] = str(size)
    return StreamingResponse(_read_chunks(file, opened), media_type=media_type, headers=headers)


def _detect_media_type(file: BinaryIO) -> str:
    try:
        return IMAGE_MEDIA_TYPES[detect_format(file)]
    except BadImage:
        return UNKNOWN_MEDIA_TYPE


async def _read_chunks(file: BinaryIO, opened: ExitStack) -> AsyncIterator[bytes]:
    try:
        while chunk := await run_in_threadpool(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        opened.close()


def _matches(if_none_match: str, sha256: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or f'"{sha256}"' in tags


def content_disposition(name: str, *, is_inline: bool) -> str:
    """Return a Content-Disposition header for any name. No name can end the header or lead out of a folder."""
    name = "".join(char if char.isprintable() and char not in '\\:*?"<>|' else "_" for char in name)
    name = name.replace("/", "__").strip(". ")
    stem, dot, suffix = name.rpartition(".")
    name = f"{(stem or suffix)[:MAX_NAME_LENGTH]}{dot if stem else ''}{suffix if stem else ''}"
    ascii_name = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    kind = "inline" if is_inline else "attachment"
    return f"{kind}; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
