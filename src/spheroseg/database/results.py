"""`segmentation_results`: the result of each completed task, and late results, which are kept but never applied."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_results as r
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import TaskCompleted
from spheroseg.tasks import TaskState


class NewResult(NamedTuple):
    """A result to be recorded. superseded: it came too late to count."""

    report: TaskCompleted
    superseded: bool


class TaskResult(NamedTuple):
    """The result of a completed task, with its image. result: the record that the worker wrote."""

    task_id: UUID
    image_id: UUID
    image: str
    page: int
    attempt: int
    worker: str
    result: dict[str, Any]
    started_at: datetime | None
    finished_at: datetime | None


async def add_results(conn: AsyncConnection, results: Collection[NewResult]) -> None:
    """Record `results`."""
    await conn.execute(
        insert(r).values(created_at=DatabaseTime()),
        [
            {
                "task_id": report.task_id,
                "attempt": report.attempt,
                "superseded": superseded,
                "worker": report.worker,
                "result": report.result,
            }
            for report, superseded in results
        ],
    )


async def has_result(conn: AsyncConnection, task_id: UUID, attempt: int) -> bool:
    """Return whether a result of that attempt is on record, superseded or not."""
    found = await conn.execute(select(r.c.id).where(r.c.task_id == task_id, r.c.attempt == attempt).limit(1))
    return found.first() is not None


async def list_results(
    conn: AsyncConnection, batch_id: UUID, limit: int, after: UUID | None = None
) -> list[TaskResult]:
    """Return up to `limit` results of a batch, in the order of the submit. after: of tasks with a higher id."""
    query = _results().where(t.c.batch_id == batch_id).order_by(t.c.id).limit(limit)
    if after is not None:
        query = query.where(t.c.id > after)
    return [TaskResult(*row) for row in await conn.execute(query)]


async def read_result(conn: AsyncConnection, task_id: UUID) -> TaskResult | None:
    """Return the result of a task, or None if it has none."""
    row = (await conn.execute(_results().where(t.c.id == task_id))).first()
    return TaskResult(*row) if row else None


def _results() -> Any:
    return (
        select(
            t.c.id,
            t.c.image_id,
            images.c.name,
            images.c.page,
            r.c.attempt,
            r.c.worker,
            r.c.result,
            t.c.started_at,
            t.c.finished_at,
        )
        .join(t, t.c.id == r.c.task_id)
        .join(images, images.c.id == t.c.image_id)
        .where(~r.c.superseded, t.c.state == TaskState.COMPLETED)
    )
