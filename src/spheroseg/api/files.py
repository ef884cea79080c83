"""Files out of the store, as downloads."""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, BinaryIO
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from spheroseg.errors import Gone, UnreadableInput
from spheroseg.storage import ImageStore

PIECE_BYTES = 1024**2
LONGEST_NAME = 150


def file_responses(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """What `send_file` may answer, for OpenAPI."""
    return {
        200: {
            "description": description,
            "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": {"description": "SHA-256 of the file.", "schema": {"type": "string"}}},
        },
        304: {"description": "As the ETag in If-None-Match says, you have it already"},
    }


async def send_file(
    request: Request, store: ImageStore, key: str, sha256: str, media_type: str, name: str, *, inline: bool = False
) -> Response:
    """The file under `key`, piece by piece; `name` is what the client may call it.

    Raises Gone where it is not in the store any more.
    """
    headers = {
        "ETag": f'"{sha256}"',
        "Cache-Control": "private, no-cache",
        "Content-Disposition": disposition(name, inline=inline),
        "X-Content-Type-Options": "nosniff",
    }
    if _is_known(request.headers.get("if-none-match", ""), sha256):
        return Response(status_code=304, headers=headers)
    opened = contextlib.ExitStack()

    def open_file() -> tuple[BinaryIO, int]:
        file = opened.enter_context(store.open(key))
        size = file.seek(0, 2)
        file.seek(0)
        return file, size

    try:
        file, size = await run_in_threadpool(open_file)
    except UnreadableInput:
        raise Gone(
            "the file is not in the store any more: somebody has deleted it; submit the image again to make it anew"
        ) from None
    headers["Content-Length"] = str(size)
    return StreamingResponse(_pieces(file, opened), media_type=media_type, headers=headers)


async def _pieces(file: BinaryIO, opened: contextlib.ExitStack) -> AsyncIterator[bytes]:
    try:
        while piece := await run_in_threadpool(file.read, PIECE_BYTES):
            yield piece
    finally:
        opened.close()


def _is_known(if_none_match: str, sha256: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or f'"{sha256}"' in tags


def disposition(name: str, *, inline: bool) -> str:
    """A Content-Disposition for any name: nothing in it can end the header, or lead out of a folder."""
    name = "".join(char if char.isprintable() and char not in '\\:*?"<>|' else "_" for char in name)
    name = name.replace("/", "__").strip(". ")
    stem, dot, suffix = name.rpartition(".")
    name = f"{(stem or suffix)[:LONGEST_NAME]}{dot if stem else ''}{suffix if stem else ''}"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
