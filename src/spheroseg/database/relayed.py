"""Rows of `segmentation_queue` whose messages the relay has moved to RabbitMQ.

Such a row stays as the record of its message until a worker begins. If RabbitMQ loses the message, the row is made
ready again.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.queue import AT_RABBITMQ, RELAY_LEASE
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.tasks import TaskState


async def confirm_relayed(conn: AsyncConnection, holder: str, ids: Sequence[int], lease: float = RELAY_LEASE) -> None:
    """Keep rows of `holder` as the record of messages that RabbitMQ has confirmed, for at most `lease` seconds."""
    await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder)
        .values(holder=AT_RABBITMQ, visible_at=DatabaseTime(lease))
    )


async def postpone(conn: AsyncConnection, holder: str, ids: Sequence[int], delay: float) -> None:
    """Make rows of `holder` that RabbitMQ did not take ready again after `delay` seconds.

    Without a delay, `visible_at` becomes the time of enqueueing, so that a worker sees how long they have waited.
    """
    await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder)
        .values(holder=None, ready=delay <= 0, visible_at=DatabaseTime(delay) if delay > 0 else q.c.enqueued_at)
    )


async def take_back(conn: AsyncConnection, older_than: float) -> int:
    """Make rows ready again that RabbitMQ confirmed more than `older_than` seconds ago and no worker has begun.

    Return the number of rows.
    """
    result = await conn.execute(
        update(q)
        .where(
            ~q.c.ready,
            q.c.holder == AT_RABBITMQ,
            # visible_at is the moment of the confirm plus RELAY_LEASE.
            q.c.visible_at <= DatabaseTime(RELAY_LEASE - older_than),
            q.c.task_id.in_(select(t.c.id).where(t.c.state == TaskState.QUEUED)),
        )
        .values(holder=None, ready=true(), visible_at=DatabaseTime())
    )
    return result.rowcount


async def withdraw_relayed(conn: AsyncConnection, task_ids: Sequence[UUID]) -> set[UUID]:
    """Delete the tasks' rows whose messages RabbitMQ has. Return the tasks that had one."""
    withdrawn: set[UUID] = set()
    for chunk in chunks(task_ids):
        rows = await conn.execute(
            delete(q).where(q.c.task_id.in_(chunk), q.c.holder == AT_RABBITMQ).returning(q.c.task_id)
        )
        withdrawn.update(rows.scalars())
    return withdrawn
