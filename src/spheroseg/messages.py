"""What travels between the processes: JSON with a schema version, never pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spheroseg.errors import BadMessage


class Queue(StrEnum):
    TASKS = "segmentation.tasks"
    RESULTS = "segmentation.results"
    DEAD_LETTERS = "segmentation.dlq"


ROUTES: Mapping[str, Queue] = {
    "task.new": Queue.TASKS,
    "task.started": Queue.RESULTS,
    "task.completed": Queue.RESULTS,
    "task.failed": Queue.RESULTS,
}


@dataclass(frozen=True)
class Message:
    """An envelope. `priority` is 0 to 10, the higher the sooner; `delay` is in seconds from publishing.

    `task_id` and `user_id` let the queue find and fairly order messages without reading their bodies.
    """

    id: str
    routing_key: str
    body: bytes
    priority: int = 0
    delay: float = 0.0
    task_id: UUID | None = None
    user_id: UUID | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


class _Body(BaseModel):
    # Unknown fields are ignored, so that an old worker understands a newer backend.
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    task_id: UUID
    attempt: Annotated[int, Field(ge=1)]

    @property
    def message_id(self) -> str:
        """Same task, attempt and kind, same id: that is how a duplicate is known."""
        return f"{self.task_id}:{self.attempt}:{self.kind}"  # type: ignore[attr-defined]

    def message(self, *, priority: int = 0, delay: float = 0.0, user_id: UUID | None = None) -> Message:
        return Message(
            id=self.message_id,
            routing_key=self.kind,  # type: ignore[attr-defined]
            body=self.model_dump_json().encode(),
            priority=priority,
            delay=delay,
            task_id=self.task_id,
            user_id=user_id,
        )


class TaskNew(_Body):
    """One image to segment. `pixel_size_um` is the user's explicit value in µm, if there is one."""

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
        """The folder in storage that only this attempt writes to."""
        return f"results/{self.task_id}/{self.attempt}"


class _Report(_Body):
    worker: str
    at: AwareDatetime


class TaskStarted(_Report):
    kind: Literal["task.started"] = "task.started"


class TaskCompleted(_Report):
    """`result` is the record that `segmentation_results` keeps; see `worker/child.py`."""

    kind: Literal["task.completed"] = "task.completed"
    started_at: AwareDatetime
    result: dict[str, Any]

    @property
    def processing_time_ms(self) -> int:
        return _milliseconds(self.started_at, self.at)


class TaskFailed(_Report):
    """An attempt that did not finish. `cause` tells a failure from a loss and from a hand-back."""

    kind: Literal["task.failed"] = "task.failed"
    cause: Literal["failed", "lost", "handed_back"] = "failed"
    started_at: AwareDatetime | None = None
    reason: str
    error: str
    retryable: bool = True


Report = TaskStarted | TaskCompleted | TaskFailed

_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def decode_task(body: bytes) -> TaskNew:
    """Raises BadMessage with the reason in words."""
    try:
        return TaskNew.model_validate_json(body)
    except ValidationError as error:
        raise BadMessage(_words("task.new", error)) from error


def decode_report(body: bytes) -> Report:
    """Raises BadMessage with the reason in words."""
    try:
        return _REPORT.validate_json(body)
    except ValidationError as error:
        raise BadMessage(_words("report", error)) from error


def _words(kind: str, error: ValidationError) -> str:
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors()[:5]
    )
    return f"not a readable {kind} message: {faults}"


def _milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))
