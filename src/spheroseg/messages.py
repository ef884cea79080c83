"""The messages between processes: JSON with a schema version, never pixels."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spheroseg.errors import BadMessage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD = "zstd"
COMPRESS_ABOVE_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024**2


class Queue(StrEnum):
    TASKS = "segmentation.tasks"
    RESULTS = "segmentation.results"
    DEAD_LETTERS = "segmentation.dlq"


TASK_KEY = "task.new"

# Routing key of a cancel, which every worker receives. Its body is the task's id.
CANCELLED_KEY = "task.cancelled"

# This queue exists only in the database: RabbitMQ delivers a cancel to every worker and stores none.
CANCELS = "segmentation.cancels"

ROUTES: Mapping[str, str] = {
    CANCELLED_KEY: CANCELS,
    TASK_KEY: Queue.TASKS,
    "task.started": Queue.RESULTS,
    "task.completed": Queue.RESULTS,
    "task.failed": Queue.RESULTS,
}


class QueueType(StrEnum):
    """The types of queues at RabbitMQ."""

    CLASSIC = "classic"
    QUORUM = "quorum"


@dataclass(frozen=True)
class Message:
    """A message with its envelope.

    priority: 0 to 10; the highest is delivered first. delay: seconds from publishing until it may be delivered; only
    the table honours it, RabbitBroker ignores it. task_id, user_id: let the queue find messages, and order them
    fairly, without reading their bodies.
    """

    id: str
    routing_key: str
    body: bytes
    priority: int = 0
    delay: float = 0.0
    task_id: UUID | None = None
    user_id: UUID | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_encoding: str | None = None

    @property
    def attempt(self) -> int | None:
        """The attempt that the id names, or None if the id was not made by `message_id`."""
        parts = self.id.split(":")
        return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else None

    def log_fields(self) -> dict[str, Any]:
        """Return the task and the attempt that the envelope names, for a log event."""
        return {"task_id": None if self.task_id is None else str(self.task_id), "attempt": self.attempt}


def message_id(task_id: UUID, attempt: int, kind: str) -> str:
    """Return the id of the message of this kind about this attempt.

    Usually a second message with the same id is a duplicate. But the message of an attempt that was not delivered or
    was handed back is sent again with the same id.
    """
    return f"{task_id}:{attempt}:{kind}"


def task_message_id(task_id: UUID, attempt: int) -> str:
    """Return the id of the message that asks for this attempt."""
    return message_id(task_id, attempt, TASK_KEY)


class _Body(BaseModel):
    # Unknown fields are ignored, so that an old worker can read the messages of a newer backend.
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    task_id: UUID
    attempt: Annotated[int, Field(ge=1)]

    @property
    def message_id(self) -> str:
        return message_id(self.task_id, self.attempt, self.kind)  # type: ignore[attr-defined]

    def message(self, *, priority: int = 0, delay: float = 0.0, user_id: UUID | None = None) -> Message:
        """Return this body in a message, compressed if it is large."""
        body = self.model_dump_json().encode()
        encoding = None
        if len(body) > COMPRESS_ABOVE_BYTES:
            body, encoding = zstd.compress(body), ZSTD
        return Message(
            id=self.message_id,
            routing_key=self.kind,  # type: ignore[attr-defined]
            body=body,
            content_encoding=encoding,
            priority=priority,
            delay=delay,
            task_id=self.task_id,
            user_id=user_id,
        )


class TaskNew(_Body):
    """One image to segment. pixel_size_um: µm per pixel, if the user gave it."""

    kind: Literal["task.new"] = "task.new"
    image_key: str
    image_sha256: str
    page: Annotated[int, Field(ge=0)] = 0
    model: str
    model_sha256: str | None = None
    parameters: dict[str, Any] = {}
    pixel_size_um: float | None = None

    @property
    def result_key(self) -> str:
        """The folder in the storage to which only this attempt writes."""
        return f"results/{self.task_id}/{self.attempt}"


class _Report(_Body):
    worker: str
    at: AwareDatetime


class TaskStarted(_Report):
    kind: Literal["task.started"] = "task.started"


class TaskCompleted(_Report):
    """`result` is the record that `segmentation_results` stores, see `worker/record.py`."""

    kind: Literal["task.completed"] = "task.completed"
    started_at: AwareDatetime
    result: dict[str, Any]

    @property
    def processing_time_ms(self) -> int:
        return _milliseconds(self.started_at, self.at)


FailureCause = Literal["failed", "lost", "handed_back"]


class TaskFailed(_Report):
    """An attempt that did not finish. retryable: the same work may succeed at another time."""

    kind: Literal["task.failed"] = "task.failed"
    cause: FailureCause = "failed"
    started_at: AwareDatetime | None = None
    reason: str
    error: str
    retryable: bool = True


Report = TaskStarted | TaskCompleted | TaskFailed

_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def decode_task(message: Message) -> TaskNew:
    """Return the task in `message`. Raises BadMessage if it cannot be read."""
    body = _plain_body(message)
    try:
        return TaskNew.model_validate_json(body)
    except ValidationError as error:
        raise BadMessage(_describe("task.new", error)) from error


def decode_report(message: Message) -> Report:
    """Return the report in `message`. Raises BadMessage if it cannot be read."""
    body = _plain_body(message)
    try:
        return _REPORT.validate_json(body)
    except ValidationError as error:
        raise BadMessage(_describe("report", error)) from error


def _plain_body(message: Message) -> bytes:
    # PostgreSQL cannot store NUL in text, and a library may have written one into its error.
    return _decompressed(message).replace(b"\\u0000", b"\\ufffd")


def _decompressed(message: Message) -> bytes:
    if message.content_encoding in (None, "", "utf-8"):
        return message.body
    if message.content_encoding != ZSTD:
        raise BadMessage(f"the content encoding {message.content_encoding!r} is not known; {ZSTD!r} is")
    try:
        # The size that a frame declares may be false or missing, so limit the decompressed bytes themselves.
        body = zstd.ZstdDecompressor().decompress(message.body, MAX_BODY_BYTES + 1)
    except zstd.ZstdError as error:
        raise BadMessage(f"the compressed body is damaged: {error}") from error
    if len(body) > MAX_BODY_BYTES:
        raise BadMessage(f"the body is larger than {MAX_BODY_BYTES // 1024**2} MB unpacked")
    return body


def _describe(kind: str, error: ValidationError) -> str:
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors()[:5]
    )
    return f"not a readable {kind} message: {faults}"


def _milliseconds(start: datetime, end: datetime) -> int:
    # Half a millisecond is rounded up, as in the SQL of revision 010, which fills in the times of earlier tasks.
    return max(0, (end - start + timedelta(microseconds=500)) // timedelta(milliseconds=1))
