"""What is known of batches: whose they are, how far they are, what came out."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.projects import visible_to
from spheroseg.database.schema import (
    RETRIES,
    images,
    segmentation_batches,
    segmentation_tasks,
    users,
    webhooks,
)
from spheroseg.errors import NotFound
from spheroseg.tasks import UNFINISHED, TaskState

b, t = segmentation_batches, segmentation_tasks


def _batches() -> Any:
    w = webhooks
    return (
        select(
            *b.c,
            users.c.name.label("user"),
            w.c.url,
            w.c.state,
            w.c.attempts,
            w.c.next_attempt_at,
            w.c.status,
            w.c.error,
            w.c.delivered_at,
        )
        .join(users, users.c.id == b.c.user_id)
        .outerjoin(w, w.c.batch_id == b.c.id)
    )


async def read_batch(conn: AsyncConnection, user_id: UUID, batch_id: UUID) -> Any:
    """The batch, who asked for it, and its webhook. Raises NotFound, also where that user is no member."""
    wanted = _batches().where(b.c.id == batch_id, visible_to(user_id, b.c.project_id))
    row = (await conn.execute(wanted)).first()
    if row is None:
        raise NotFound("there is no such batch")
    return row


async def find_batch(conn: AsyncConnection, user_id: UUID, idempotency_key: str) -> Any:
    """Id and project of what that user has submitted under that key; None without."""
    wanted = select(b.c.id, b.c.project_id).where(b.c.user_id == user_id, b.c.idempotency_key == idempotency_key)
    return (await conn.execute(wanted)).first()


async def list_batches(
    conn: AsyncConnection, user_id: UUID, limit: int, *, project_id: UUID | None = None, before: UUID | None = None
) -> Sequence[Any]:
    """Those that the user may see, the newest first; before: only those made earlier."""
    query = _batches().where(visible_to(user_id, b.c.project_id)).order_by(b.c.id.desc()).limit(limit)
    if project_id is not None:
        query = query.where(b.c.project_id == project_id)
    if before is not None:
        query = query.where(b.c.id < before)
    return (await conn.execute(query)).all()


async def count_by_state(conn: AsyncConnection, batch_ids: Collection[UUID]) -> dict[UUID, dict[TaskState, int]]:
    """Number of tasks of each batch in each state, zeros included."""
    counts: dict[UUID, dict[TaskState, int]] = defaultdict(lambda: dict.fromkeys(TaskState, 0))
    query = (
        select(t.c.batch_id, t.c.state, func.count().label("number"))
        .where(t.c.batch_id.in_(batch_ids))
        .group_by(t.c.batch_id, t.c.state)
    )
    for row in await conn.execute(query):
        counts[row.batch_id][TaskState(row.state)] = row.number
    return counts


# Never the whole table: the columns of revision 010 may not be there.
TASK = (
    t.c.id,
    t.c.batch_id,
    t.c.image_id,
    t.c.state,
    t.c.attempt,
    RETRIES.label("retries"),
    t.c.lost_count,
    t.c.reason,
    t.c.error,
    t.c.worker,
    t.c.version,
    t.c.created_at,
    t.c.started_at,
    t.c.finished_at,
    images.c.name.label("image"),
    images.c.page,
)


def _tasks() -> Any:
    return select(*TASK).join(images, images.c.id == t.c.image_id)


async def list_tasks(
    conn: AsyncConnection, batch_id: UUID, limit: int, *, state: TaskState | None = None, after: UUID | None = None
) -> Sequence[Any]:
    """The tasks of a batch with their images, in the order of the submit."""
    query = _tasks().where(t.c.batch_id == batch_id).order_by(t.c.id).limit(limit)
    if state is not None:
        query = query.where(t.c.state == state)
    if after is not None:
        query = query.where(t.c.id > after)
    return (await conn.execute(query)).all()


async def read_task(conn: AsyncConnection, task_id: UUID, user_id: UUID | None = None) -> Any:
    """A task with its image and its batch's project.

    Raises NotFound, also where `user_id` is given and that user is no member of the project.
    """
    query = _tasks().add_columns(b.c.project_id).join(b, b.c.id == t.c.batch_id).where(t.c.id == task_id)
    if user_id is not None:
        query = query.where(visible_to(user_id, b.c.project_id))
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return row


async def read_image_ids(conn: AsyncConnection, batch_id: UUID) -> set[UUID]:
    return set((await conn.execute(select(t.c.image_id).where(t.c.batch_id == batch_id))).scalars())


async def read_unfinished(conn: AsyncConnection, batch_id: UUID) -> list[UUID]:
    return await _ids(conn, batch_id, UNFINISHED)


async def read_failed(conn: AsyncConnection, batch_id: UUID) -> list[UUID]:
    return await _ids(conn, batch_id, {TaskState.FAILED})


async def _ids(conn: AsyncConnection, batch_id: UUID, states: Collection[TaskState]) -> list[UUID]:
    query = select(t.c.id).where(t.c.batch_id == batch_id, t.c.state.in_(states)).order_by(t.c.id)
    return list((await conn.execute(query)).scalars())
