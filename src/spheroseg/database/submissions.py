"""Writes a batch and its tasks, once for each idempotency key of a user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_new
from spheroseg.database.revision_010 import writable_task_values
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import task_message_id
from spheroseg.tasks import TaskState


@dataclass(frozen=True)
class NewBatch:
    """A batch to be written. pixel_size_um: given for all of its images, in µm per pixel."""

    id: UUID
    user_id: UUID
    project_id: UUID
    idempotency_key: str
    priority: int
    model: str
    model_sha256: str | None
    parameters: Mapping[str, Any]
    pixel_size_um: float | None


class NewTask(NamedTuple):
    """A new task. problem: (code, sentence) if its input is known to be unusable; then it fails at once."""

    id: UUID
    image_id: UUID
    problem: tuple[str, str] | None


class StoredBatch(NamedTuple):
    """A batch that exists already, with its tasks in the order of the submit."""

    id: UUID
    task_ids: list[UUID]


async def add_batch(conn: AsyncConnection, batch: NewBatch) -> bool:
    """Write `batch`. Return False if its user has used its idempotency key before: then nothing is written."""
    values = {**vars(batch), "parameters": dict(batch.parameters), "created_at": DatabaseTime()}
    return bool((await conn.execute(insert_new(conn, b).values(values))).rowcount)


async def read_stored_batch(conn: AsyncConnection, user_id: UUID, idempotency_key: str) -> StoredBatch:
    """Return the batch that this user submitted under this key."""
    by_key = select(b.c.id).where(b.c.user_id == user_id, b.c.idempotency_key == idempotency_key)
    batch_id: UUID = (await conn.execute(by_key)).scalar_one()
    # UUIDs of version 7 sort in the order in which they were made.
    task_ids = await conn.execute(select(t.c.id).where(t.c.batch_id == batch_id).order_by(t.c.id))
    return StoredBatch(batch_id, list(task_ids.scalars()))


async def add_tasks(conn: AsyncConnection, batch_id: UUID, tasks: Sequence[NewTask], now: datetime) -> None:
    """Write `tasks` of a batch, created at `now`: queued for their first attempt, or failed with their problem."""
    await conn.execute(insert(t), [_task_values(conn, batch_id, task, now) for task in tasks])


def _task_values(conn: AsyncConnection, batch_id: UUID, task: NewTask, now: datetime) -> dict[str, Any]:
    # An input that cannot even be read was never attempted.
    attempt = 0 if task.problem else 1
    reason, error = task.problem or (None, None)
    return writable_task_values(
        conn,
        id=task.id,
        batch_id=batch_id,
        image_id=task.image_id,
        state=TaskState.FAILED if task.problem else TaskState.QUEUED,
        attempt=attempt,
        first_attempt=attempt,
        reason=reason,
        error=error,
        created_at=now,
        finished_at=now if task.problem else None,
        message_queue_id=None if task.problem else task_message_id(task.id, attempt),
    )
