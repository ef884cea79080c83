"""Batches: who submitted them, with what, and how far they are."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.projects import visible_to
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.database.schema import users
from spheroseg.database.schema import webhooks as w
from spheroseg.errors import NotFound
from spheroseg.tasks import UNFINISHED, TaskState


class BatchWebhook(NamedTuple):
    """The webhook of a batch. status: of the last answer. state: waiting, delivered or failed."""

    url: str
    state: str
    attempts: int
    next_attempt_at: datetime
    status: int | None
    error: str | None
    delivered_at: datetime | None


class Batch(NamedTuple):
    """A batch. user: the name of the user who submitted it. pixel_size_um: given for all images, in µm per pixel."""

    id: UUID
    user_id: UUID
    project_id: UUID
    idempotency_key: str
    priority: int
    model: str
    model_sha256: str | None
    parameters: dict[str, Any]
    pixel_size_um: float | None
    created_at: datetime
    user: str
    webhook: BatchWebhook | None


_OWN_FIELDS = [name for name in Batch._fields if name in b.c]


async def read_batch(conn: AsyncConnection, user_id: UUID, batch_id: UUID) -> Batch:
    """Return a batch. Raises NotFound, also if the user is no member of its project."""
    query = _batches().where(b.c.id == batch_id, visible_to(user_id, b.c.project_id))
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound("there is no such batch")
    return _batch(row)


async def find_batch(conn: AsyncConnection, user_id: UUID, idempotency_key: str) -> UUID | None:
    """Return the id of the batch that the user submitted under this key, or None if there is none."""
    query = select(b.c.id).where(b.c.user_id == user_id, b.c.idempotency_key == idempotency_key)
    batch_id: UUID | None = (await conn.execute(query)).scalar_one_or_none()
    return batch_id


async def list_batches(
    conn: AsyncConnection, user_id: UUID, limit: int, *, project_id: UUID | None = None, before: UUID | None = None
) -> list[Batch]:
    """Return up to `limit` batches that the user may see, the newest first. before: only those with a lower id."""
    query = _batches().where(visible_to(user_id, b.c.project_id)).order_by(b.c.id.desc()).limit(limit)
    if project_id is not None:
        query = query.where(b.c.project_id == project_id)
    if before is not None:
        query = query.where(b.c.id < before)
    return [_batch(row) for row in await conn.execute(query)]


def _batches() -> Any:
    return (
        select(
            *(b.c[name] for name in _OWN_FIELDS),
            users.c.name.label("user"),
            *(w.c[name] for name in BatchWebhook._fields),
        )
        .join(users, users.c.id == b.c.user_id)
        .outerjoin(w, w.c.batch_id == b.c.id)
    )


def _batch(row: Any) -> Batch:
    own = len(_OWN_FIELDS)
    webhook = BatchWebhook(*row[own + 1 :]) if row.url is not None else None
    return Batch._make([*row[: own + 1], webhook])


async def count_by_state(conn: AsyncConnection, batch_ids: Collection[UUID]) -> dict[UUID, dict[TaskState, int]]:
    """Return the number of tasks of each batch in each state, zeros included."""
    counts: dict[UUID, dict[TaskState, int]] = defaultdict(lambda: dict.fromkeys(TaskState, 0))
    query = (
        select(t.c.batch_id, t.c.state, func.count().label("number"))
        .where(t.c.batch_id.in_(batch_ids))
        .group_by(t.c.batch_id, t.c.state)
    )
    for row in await conn.execute(query):
        counts[row.batch_id][row.state] = row.number
    return counts


async def read_image_ids(conn: AsyncConnection, batch_id: UUID) -> set[UUID]:
    """Return the ids of the images of a batch."""
    return set((await conn.execute(select(t.c.image_id).where(t.c.batch_id == batch_id))).scalars())


async def read_unfinished(conn: AsyncConnection, batch_id: UUID) -> list[UUID]:
    """Return the ids of the tasks of a batch that are queued or processing, sorted."""
    return await _task_ids(conn, batch_id, UNFINISHED)


async def read_failed(conn: AsyncConnection, batch_id: UUID) -> list[UUID]:
    """Return the ids of the failed tasks of a batch, sorted."""
    return await _task_ids(conn, batch_id, {TaskState.FAILED})


async def _task_ids(conn: AsyncConnection, batch_id: UUID, states: Collection[TaskState]) -> list[UUID]:
    query = select(t.c.id).where(t.c.batch_id == batch_id, t.c.state.in_(states)).order_by(t.c.id)
    return list((await conn.execute(query)).scalars())
