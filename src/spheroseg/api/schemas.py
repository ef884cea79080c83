"""The JSON of batches, tasks and results. Ids are UUIDs, times are ISO 8601 with a time zone."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from spheroseg.database.batches import Batch
from spheroseg.database.queue_position import QueuePosition
from spheroseg.database.results import TaskResult
from spheroseg.database.task_details import TaskDetails
from spheroseg.export.object_table import add_units
from spheroseg.tasks import FINISHED, BatchState, TaskState, batch_state

AHEAD = "Number of messages before its next one in the queue; null if none of its messages waits, as when delayed."
CAPPED = "True: there are more messages ahead, which are not counted."
EXPECTED = "Seconds until it is finished, at the rate of the last five minutes; null if that is unknown."
PAGE = "Page of the file, counted from 0. In results.csv pages are counted from 1."


class WebhookOut(BaseModel):
    """The webhook of a batch. state: waiting, delivered or failed. status: HTTP status of the last answer."""

    url: str
    state: str
    attempts: int
    status: int | None
    error: str | None
    next_attempt_at: datetime | None
    delivered_at: datetime | None


class BatchSummary(BaseModel):
    """A batch and its progress. finished: tasks in any final state. failed: those of them that failed.

    state follows from the tasks: queued (none has begun), processing, and once all are finished: completed (all that
    were not cancelled), completed_with_errors, failed (none completed) or cancelled (all were).
    """

    id: UUID
    project_id: UUID
    created_at: datetime
    user: str = Field(description="Name of the user who submitted it.")
    state: BatchState
    total: int
    finished: int
    failed: int
    counts: dict[TaskState, int] = Field(description="Number of tasks in each state.")
    priority: int
    model: str
    model_sha256: str | None
    parameters: dict[str, Any]
    pixel_size_um: float | None = Field(description="µm per pixel, for all images; null if each file's own is used.")
    webhook: WebhookOut | None


class BatchOut(BatchSummary):
    """A batch, its progress and its position in the queue."""

    ahead: int | None = Field(description=AHEAD)
    ahead_is_capped: bool = Field(description=CAPPED)
    expected_seconds: float | None = Field(description=EXPECTED)


class TaskOut(BaseModel):
    """The segmentation of one image. `attempt` counts all tries, `retries` and `losses` those of the current set.

    `reason` (a code) and `error` (a sentence) are of the last attempt that did not finish. `version` grows with every
    change.
    """

    id: UUID
    batch_id: UUID
    image_id: UUID
    image: str = Field(description="Name of the image.")
    page: int = Field(description=PAGE)
    state: TaskState
    attempt: int
    retries: int
    losses: int
    reason: str | None
    error: str | None
    worker: str | None
    version: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    ahead: int | None = Field(description=AHEAD)
    ahead_is_capped: bool = Field(description=CAPPED)


class AttemptOut(BaseModel):
    """An attempt that did not finish; completed attempts are not listed.

    cause: failed, lost (its worker vanished), undelivered or handed_back.

    superseded: it was reported too late and changed nothing.
    """

    attempt: int | None
    cause: str
    reason: str
    error: str
    worker: str | None
    started_at: datetime | None
    failed_at: datetime
    next_attempt: int | None
    next_attempt_at: datetime | None
    superseded: bool


class TaskStory(TaskOut):
    """A task with all of its attempts that did not finish."""

    project_id: UUID
    expected_seconds: float | None = Field(description=EXPECTED)
    failures: list[AttemptOut] = Field(description="Attempts that did not finish, the oldest first.")
    has_history: bool = Field(
        description="False if the database keeps no failures (revision 009). Then only the last reason is known."
    )


class ObjectOut(BaseModel):
    """One spheroid. Its outline is in px: x to the right, y down, from the outer corner of the top-left pixel.

    measurements: their names end with the unit, as in results.csv. Those in µm exist if the pixel size is known.
    """

    object: int = Field(description="Its number in the mask and on the overlay, from 1.")
    outer: list[tuple[float, float]]
    holes: list[list[tuple[float, float]]]
    flags: list[str]
    measurements: dict[str, float]


class FileOut(BaseModel):
    url: str
    sha256: str


class ResultOut(BaseModel):
    """The result for one image, with the model, the parameters that were used, and the pixel size with its source.

    If no object was found, `objects` is empty and `flags` has no_object_found. A zero is never reported.
    """

    model_config = ConfigDict(extra="allow")

    task_id: UUID
    image_id: UUID
    image: str
    page: int = Field(description=PAGE)
    attempt: int
    worker: str
    started_at: datetime | None
    finished_at: datetime | None
    image_sha256: str
    width: int
    height: int
    pixel_size: dict[str, Any] | None = Field(
        description="um, and source: option, OME-XML or ImageJ; contradicted_by: um and source of others that differ "
        "by more than 1 %, if there are any."
    )
    flags: list[str]
    objects: list[ObjectOut]
    model: dict[str, str] = Field(description="name, version, sha256.")
    parameters: dict[str, Any] = Field(description="The parameters used for this image.")
    metrics_version: str
    versions: dict[str, str]
    durations_ms: dict[str, float]
    batch_size: int = Field(
        1,
        description="Images in one run of the model. inference in durations_ms is its time divided by this.",
    )
    mask: FileOut
    overlay: FileOut


class ResultPage(BaseModel):
    """next_cursor: for the next page; null on the last one."""

    items: list[ResultOut]
    next_cursor: str | None


class Changed(BaseModel):
    """The tasks that were changed."""

    count: int
    task_ids: list[UUID]


def batch_fields(batch: Batch, counts: Mapping[TaskState, int]) -> dict[str, Any]:
    """Return the fields of a BatchSummary. counts: the number of tasks in each state, zeros included."""
    webhook = None
    if batch.webhook is not None:
        webhook = WebhookOut(**batch.webhook._asdict())
        if webhook.state != "waiting":
            webhook.next_attempt_at = None
    return {
        "id": batch.id,
        "project_id": batch.project_id,
        "created_at": batch.created_at,
        "user": batch.user,
        "state": batch_state(counts),
        "total": sum(counts.values()),
        "finished": sum(counts[state] for state in FINISHED),
        "failed": counts[TaskState.FAILED],
        "counts": dict(counts),
        "priority": batch.priority,
        "model": batch.model,
        "model_sha256": batch.model_sha256,
        "parameters": batch.parameters,
        "pixel_size_um": batch.pixel_size_um,
        "webhook": webhook,
    }


def task_fields(task: TaskDetails, position: QueuePosition | None) -> dict[str, Any]:
    """Return the fields of a TaskOut. position: in the queue, None if the task does not wait."""
    fields = {name: value for name, value in task._asdict().items() if name != "lost_count"}
    return {
        **fields,
        "losses": task.lost_count,
        "ahead": position.ahead if position else None,
        "ahead_is_capped": position.is_capped if position else False,
    }


def result_fields(row: TaskResult) -> dict[str, Any]:
    """Return the fields of a ResultOut, ready for JSON."""
    result = row.result
    um = (result.get("pixel_size") or {}).get("um")
    files: dict[str, Any] = {
        kind: {"url": f"/api/segmentation/tasks/{row.task_id}/{kind}", "sha256": result[kind]["sha256"]}
        for kind in ("mask", "overlay")
        if kind in result
    }
    objects = [
        {"object": number, **traced, "measurements": add_units(traced["measurements"], um)}
        for number, traced in enumerate(result.get("objects", []), start=1)
    ]
    return {
        "task_id": str(row.task_id),
        "image_id": str(row.image_id),
        "image": row.image,
        "page": row.page,
        "attempt": row.attempt,
        "worker": row.worker,
        "started_at": row.started_at.isoformat() if row.started_at else None,
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
        **result,
        **files,
        "objects": objects,
    }
