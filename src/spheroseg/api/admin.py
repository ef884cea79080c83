"""For administrators: queue metrics, the audit trail, the workers."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from spheroseg.api.auth import AppResources, CurrentAdmin
from spheroseg.api.fields import ShortName, parse_row_id
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.database import audit
from spheroseg.database.engine import reading
from spheroseg.database.workers import read_workers
from spheroseg.monitoring.queue_metrics import queue_metrics

router = APIRouter(prefix="/admin", tags=["admin"])


class QueueMetrics(BaseModel):
    """The metrics of the queues. Times are in seconds."""

    queue: dict[str, Any] = Field(
        description="status: connected, disconnected (with reason and since), or disabled if "
        "ENABLE_MESSAGE_QUEUE is false."
    )
    queues: dict[str, dict[str, Any]] = Field(
        description="RabbitMQ's queues: messages ready and unacked, consumers; also published, delivered, acked, "
        "redelivered if the management API is configured. Empty while RabbitMQ does not answer."
    )
    messages: dict[str, int] | None = Field(
        description="Messages that the running processes have published and consumed since they started, their "
        "errors, and the number of processes; a few seconds old. Null without RabbitMQ."
    )
    database_queue: dict[str, dict[str, Any]] = Field(
        description="The queues in the database: messages waiting, in_hand (claimed by a process), at_rabbitmq, and "
        "oldest_seconds."
    )
    tasks: dict[str, int] = Field(description="Number of tasks by state.")
    failures: dict[str, int] = Field(description="Number of attempts that did not finish, by reason.")
    waiting_seconds: dict[str, float | None]
    processing_seconds: dict[str, float | None]


@router.get("/queue/metrics")
async def read_queue_metrics(resources: AppResources, admin: CurrentAdmin) -> QueueMetrics:
    """Read the status of the queue, its messages, message and error counts, and the tasks in the database."""
    return QueueMetrics(**await queue_metrics(resources.engine, resources.rabbit, resources.management))


class AuditOut(BaseModel):
    """actor: name of a user, or cli:NAME for a user of the command line. detail: what was changed, and its number."""

    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]


@router.get("/audit")
async def list_audit(
    resources: AppResources,
    admin: CurrentAdmin,
    actor: Annotated[ShortName | None, Query(description="Only of this actor.")] = None,
    action: Annotated[ShortName | None, Query(description="Only this action, such as dead_letters.retry.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AuditOut]:
    """List who changed what, the newest first."""
    before = read_cursor(cursor, parse_row_id)
    async with reading(resources.engine) as conn:
        rows = await audit.list_records(conn, limit + 1, before=before, actor=actor, action=action)
    items = [AuditOut.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return Page(items=items, next_cursor=write_cursor(rows, limit, lambda row: row.id))


class CurrentTask(BaseModel):
    task_id: UUID
    batch_id: UUID
    image: str
    attempt: int
    started_at: datetime | None


class WorkerOut(BaseModel):
    """A worker that reported or sent a heartbeat within the last hour.

    state, reason: from its heartbeat; null if it has no DATABASE_URL. finished: tasks of the last hour, by state.
    """

    name: str
    state: str | None
    reason: str | None
    last_seen: datetime | None
    current: list[CurrentTask]
    finished: dict[str, int]
    detail: dict[str, Any]


class Workers(BaseModel):
    items: list[WorkerOut]


@router.get("/workers")
async def list_workers(resources: AppResources, admin: CurrentAdmin) -> Workers:
    """List the workers and what each is doing, from their reports and heartbeats."""
    async with reading(resources.engine) as conn:
        return Workers(
            items=[WorkerOut.model_validate(worker, from_attributes=True) for worker in await read_workers(conn)]
        )
