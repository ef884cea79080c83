"""Counts the messages before a task or a batch in the queue, and measures how fast the queue moves."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Subquery, case, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import Queue

# Messages further back are not counted.
MAX_COUNTED = 10_000
PACE_SECONDS = 300.0
PACE_MAX_TASKS = 1000


@dataclass(frozen=True)
class QueuePosition:
    """ahead: number of messages that are delivered before. is_capped: there may be more, which were not counted."""

    ahead: int
    is_capped: bool = False


class BatchPosition(NamedTuple):
    """first: the position of the batch's next message.

    messages_to_last: number of messages up to its last one; a lower bound if the position is capped.
    """

    first: QueuePosition
    messages_to_last: int


def _numbered_messages() -> Subquery:
    """Select the first waiting messages in their order, each with the number of messages before it.

    A message at RabbitMQ still waits: its row is deleted when a worker begins. Within a priority such messages come
    first, in the order in which RabbitMQ confirmed them, then the others in the order in which they are claimed.
    """
    columns = (q.c.task_id, q.c.priority, q.c.visible_at, q.c.turn, q.c.id)
    in_table = (
        select(*columns, literal(1).label("is_in_table"))
        .where(q.c.queue == Queue.TASKS, q.c.ready)
        .order_by(q.c.priority.desc(), q.c.turn, q.c.id)
        .limit(MAX_COUNTED)
        .subquery()
    )
    at_rabbitmq = (
        select(*columns, literal(0).label("is_in_table"))
        .where(~q.c.ready, q.c.holder == AT_RABBITMQ, q.c.queue == Queue.TASKS)
        .order_by(q.c.priority.desc(), q.c.visible_at, q.c.turn, q.c.id)
        .limit(MAX_COUNTED)
        .subquery()
    )
    both = union_all(select(at_rabbitmq), select(in_table)).subquery()
    confirmed_at = case((both.c.is_in_table == 0, both.c.visible_at))
    order = (both.c.priority.desc(), both.c.is_in_table, confirmed_at, both.c.turn, both.c.id)
    number = func.row_number().over(order_by=order) - 1
    return select(both.c.task_id, number.label("ahead")).subquery("numbered")


async def read_positions(conn: AsyncConnection, task_ids: Collection[UUID]) -> dict[UUID, QueuePosition]:
    """Return the positions of those of `task_ids` that wait. Delayed and claimed ones are missing."""
    positions: dict[UUID, QueuePosition] = {}
    numbered = _numbered_messages()
    for chunk in chunks(list(task_ids)):
        rows = await conn.execute(select(numbered.c.task_id, numbered.c.ahead).where(numbered.c.task_id.in_(chunk)))
        positions.update({row.task_id: _position(row.ahead) for row in rows})
        waiting = select(q.c.task_id).where(q.c.task_id.in_(chunk), q.c.queue == Queue.TASKS, q.c.ready)
        for task_id in (await conn.execute(waiting)).scalars():
            positions.setdefault(task_id, _position(MAX_COUNTED))
    return positions


async def read_first_positions(conn: AsyncConnection, batch_ids: Collection[UUID]) -> dict[UUID, QueuePosition]:
    """Return the position of the next message of each batch. Batches without a waiting message are missing."""
    numbered = _numbered_messages()
    firsts = (
        select(t.c.batch_id, func.min(numbered.c.ahead).label("ahead"))
        .join(t, t.c.id == numbered.c.task_id)
        .where(t.c.batch_id.in_(list(batch_ids)))
        .group_by(t.c.batch_id)
    )
    return {row.batch_id: _position(row.ahead) for row in await conn.execute(firsts)}


async def read_batch_position(conn: AsyncConnection, batch_id: UUID, queued: int) -> BatchPosition | None:
    """Return the position of a batch, or None if none of its messages waits.

    queued: number of tasks of the batch that are queued.
    """
    if not queued:
        return None
    numbered = _numbered_messages()
    own = t.c.batch_id == batch_id
    ends = select(func.min(numbered.c.ahead).filter(own), func.max(numbered.c.ahead).filter(own), func.count()).join(
        t, t.c.id == numbered.c.task_id
    )
    first, last, counted = (await conn.execute(ends)).one()
    if first is None:
        return BatchPosition(_position(MAX_COUNTED), MAX_COUNTED + queued) if counted >= MAX_COUNTED else None
    return BatchPosition(_position(first), max(last + 1, first + queued))


def _position(ahead: int) -> QueuePosition:
    return QueuePosition(min(ahead, MAX_COUNTED), ahead >= MAX_COUNTED)


async def read_tasks_per_second(conn: AsyncConnection) -> float | None:
    """Return how many tasks per second have finished lately, or None if none has.

    Measured over the time in which those tasks were worked on, so that an idle time before them does not count.
    """
    recent = (
        select(t.c.started_at, t.c.finished_at)
        .where(t.c.finished_at > DatabaseTime(-PACE_SECONDS), t.c.started_at.is_not(None))
        .order_by(t.c.finished_at.desc())
        .limit(PACE_MAX_TASKS)
        .subquery()
    )
    query = select(func.count(), func.min(recent.c.started_at), func.max(recent.c.finished_at))
    count, began, ended = (await conn.execute(query)).one()
    if not count:
        return None
    return float(count / max((ended - began).total_seconds(), 0.001))
