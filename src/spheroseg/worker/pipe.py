"""What a worker slot and its child process send to each other over stdin and stdout, and in what frames.

A frame is a body behind its length (4 bytes, big-endian). The child first sends a `Greeting`. Then the slot
sends requests, each a JSON list of tasks, and the child sends one `Answer` for each task as soon as it is done.
"""

import asyncio
import struct
from typing import Any, BinaryIO, TypedDict

_LENGTH = struct.Struct(">I")

# A result as `segmentation_results` stores it.
Record = dict[str, Any]


class Failure(TypedDict):
    """Why a task failed. reason: an error code."""

    reason: str
    error: str
    retryable: bool


class Answer(TypedDict, total=False):
    """The answer to the task with index `task` in its request: either a result or a failure."""

    task: int
    result: Record
    failed: Failure


class Greeting(TypedDict, total=False):
    """The first frame of a child: `ready`, or `unusable` with the reason why it cannot work."""

    ready: bool
    unusable: str


def frame(body: bytes) -> bytes:
    """Return `body` behind its length."""
    return _LENGTH.pack(len(body)) + body


def write_frame(pipe: BinaryIO, body: bytes) -> None:
    pipe.write(frame(body))
    pipe.flush()


def read_frame(pipe: BinaryIO) -> bytes | None:
    """Return the body of the next frame, or None at the end of the pipe."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return pipe.read(*_LENGTH.unpack(head))


async def receive_frame(pipe: asyncio.StreamReader) -> bytes:
    """Return the body of the next frame. Raises asyncio.IncompleteReadError at the end of the pipe."""
    head = await pipe.readexactly(_LENGTH.size)
    return await pipe.readexactly(*_LENGTH.unpack(head))
