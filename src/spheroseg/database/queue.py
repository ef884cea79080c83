"""`segmentation_queue`: the outbox of the relay and the queue of the workers, in one table.

Messages are claimed in the order (priority, turn, id). An index has this order and a claim reads only its start, so
its cost does not grow with the backlog. `turn` makes the order fair: it is a virtual clock as in start-time fair
queueing (Goyal, Vin, Cheng, 1996). The messages of a user take consecutive turns from the turn that is served now. So
5 messages that arrive behind the 50,000 of another user are served in the next 5 rounds, not after them.

A row is ready, delayed, claimed by a holder for as long as a lease, or held by RabbitMQ, which has confirmed its
message. Only ready rows are in that index. The others are found by `visible_at` when their delay or lease ends.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, false, func, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.messages import ROUTES, Message, Queue, task_message_id

# Holder of the rows whose messages RabbitMQ has confirmed.
AT_RABBITMQ = "rabbitmq"
# Seconds. RabbitMQ drops a message of segmentation.tasks after an hour. Then its row becomes ready again.
RELAY_LEASE = 3900.0


class QueueRow(NamedTuple):
    """A row of `segmentation_queue`. deliveries: how often it was claimed for work, this time included."""

    id: int
    queue: str
    message_id: str
    routing_key: str
    body: bytes
    content_encoding: str | None
    headers: dict[str, Any]
    task_id: UUID | None
    user_id: UUID | None
    priority: int
    turn: int
    ready: bool
    visible_at: datetime
    deliveries: int
    holder: str | None
    enqueued_at: datetime


_ROW = [q.c[name] for name in QueueRow._fields]
# The order in which messages are claimed.
_CLAIM_ORDER = (q.c.priority.desc(), q.c.turn, q.c.id)


async def enqueue(conn: AsyncConnection, messages: Sequence[Message]) -> None:
    """Insert `messages` in the caller's transaction."""
    groups: dict[tuple[str, int, UUID | None, float], list[Message]] = defaultdict(list)
    for message in messages:
        groups[ROUTES[message.routing_key], message.priority, message.user_id, message.delay].append(message)
    for (queue, priority, user_id, delay), group in groups.items():
        turn = 0 if user_id is None else await _next_turn(conn, queue, priority, user_id)
        await conn.execute(
            insert(q).values(enqueued_at=DatabaseTime(), visible_at=DatabaseTime(delay)),
            [
                {
                    "queue": queue,
                    "message_id": message.id,
                    "routing_key": message.routing_key,
                    "body": message.body,
                    "content_encoding": message.content_encoding,
                    "headers": dict(message.headers),
                    "task_id": message.task_id,
                    "user_id": user_id,
                    "priority": priority,
                    "turn": turn + offset if user_id is not None else 0,
                    "ready": delay <= 0,
                    "deliveries": 0,
                }
                for offset, message in enumerate(group)
            ],
        )


async def _next_turn(conn: AsyncConnection, queue: str, priority: int, user_id: UUID) -> int:
    served = (
        select(q.c.turn)
        .where(q.c.queue == queue, q.c.priority == priority, q.c.ready)
        .order_by(q.c.turn)
        .limit(1)
        .scalar_subquery()
    )
    own = (
        select(q.c.turn)
        .where(q.c.user_id == user_id, q.c.priority == priority, q.c.queue == queue)
        .order_by(q.c.turn.desc())
        .limit(1)
        .scalar_subquery()
    )
    now_served, last_own = (await conn.execute(select(served, own))).one()
    return max(now_served or 0, 0 if last_own is None else last_own + 1)


async def claim(
    conn: AsyncConnection,
    queue: str,
    limit: int,
    holder: str,
    lease: float,
    *,
    lowest_first: bool = False,
    above: int = -1,
    is_delivery: bool = True,
) -> list[QueueRow]:
    """Claim up to `limit` ready messages for `lease` seconds. Skip rows that another transaction is claiming.

    lowest_first: claim from the lowest waiting priority instead of the highest. above: only with a higher priority.
    is_delivery: False if the messages are only being moved, so that they do not count as redelivered later.
    """
    ready = select(q.c.id).where(q.c.queue == queue, q.c.ready)
    if above >= 0:
        ready = ready.where(q.c.priority > above)
    if lowest_first:
        lowest = (
            select(q.c.priority)
            .where(q.c.queue == queue, q.c.ready)
            .order_by(q.c.priority)
            .limit(1)
            .scalar_subquery()
        )
        ready = ready.where(q.c.priority == lowest)
    picked = ready.order_by(*_CLAIM_ORDER).limit(limit).with_for_update(skip_locked=True).cte("picked")
    rows = await conn.execute(
        update(q)
        .where(q.c.id.in_(select(picked.c.id)))
        .values(
            ready=false(),
            visible_at=DatabaseTime(lease),
            deliveries=q.c.deliveries + int(is_delivery),
            holder=holder,
        )
        .returning(*_ROW)
    )
    return sorted((QueueRow(*row) for row in rows), key=lambda row: (-row.priority, row.turn, row.id))


async def wake_due(conn: AsyncConnection) -> int:
    """Make messages ready whose delay or lease has ended. Return the number of messages."""
    # Several processes may do this at the same moment: each skips the rows that another has locked.
    due = (
        select(q.c.id)
        .where(~q.c.ready, q.c.visible_at <= DatabaseTime())
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    result = await conn.execute(update(q).where(q.c.id.in_(select(due.c.id))).values(ready=true(), holder=None))
    return result.rowcount


async def renew(conn: AsyncConnection, holder: str, ids: Sequence[int], lease: float) -> set[int]:
    """Extend the leases of the rows that `holder` still holds. Return the ids of those rows."""
    rows = await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder, ~q.c.ready)
        .values(visible_at=DatabaseTime(lease))
        .returning(q.c.id)
    )
    return set(rows.scalars())


async def remove(conn: AsyncConnection, holder: str, ids: Sequence[int]) -> None:
    """Delete the rows that `holder` still holds."""
    await conn.execute(delete(q).where(q.c.id.in_(ids), q.c.holder == holder))


async def dead_letter(conn: AsyncConnection, holder: str, headers: Mapping[int, Mapping[str, Any]]) -> None:
    """Move messages that `holder` rejects to the dead letter queue, each with its new headers."""
    for id_, new_headers in headers.items():
        await conn.execute(
            update(q)
            .where(q.c.id == id_, q.c.holder == holder)
            .values(
                queue=Queue.DEAD_LETTERS,
                headers=dict(new_headers),
                ready=true(),
                holder=None,
                deliveries=0,
                user_id=None,
                turn=0,
                visible_at=DatabaseTime(),
            )
        )


async def release(conn: AsyncConnection, holder: str, ids: Sequence[int]) -> None:
    """Make the rows that `holder` holds ready at once. They will be delivered as redelivered."""
    await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder)
        .values(ready=true(), holder=None, visible_at=DatabaseTime())
    )


async def withdraw(conn: AsyncConnection, task_ids: Sequence[UUID]) -> int:
    """Delete the tasks' messages from `segmentation.tasks`, claimed ones too. Return the number of messages."""
    count = 0
    for chunk in chunks(task_ids):
        result = await conn.execute(delete(q).where(q.c.task_id.in_(chunk), q.c.queue == Queue.TASKS))
        count += result.rowcount
    return count


async def remove_attempts(conn: AsyncConnection, attempts: Collection[tuple[UUID, int]]) -> None:
    """Delete the task messages of attempts that have ended, whoever holds them."""
    await conn.execute(
        delete(q).where(
            q.c.task_id.in_([task_id for task_id, _ in attempts]),
            q.c.queue == Queue.TASKS,
            q.c.message_id.in_([task_message_id(task_id, attempt) for task_id, attempt in attempts]),
        )
    )


async def purge(conn: AsyncConnection, queue: Queue) -> int:
    """Delete all messages of a queue, claimed ones too. Return the number of messages."""
    return (await conn.execute(delete(q).where(q.c.queue == queue))).rowcount


async def depth(conn: AsyncConnection, queue: Queue, *, with_claimed: bool) -> int:
    """Return the number of waiting and delayed messages in `queue`, with the claimed ones or without."""
    query = select(func.count()).where(q.c.queue == queue)
    if not with_claimed:
        query = query.where(q.c.holder.is_(None))
    return (await conn.execute(query)).scalar_one()


async def peek(conn: AsyncConnection, queue: Queue, limit: int) -> list[QueueRow]:
    """Return the first `limit` messages of a queue without claiming them: the ready ones first."""
    query = select(*_ROW).where(q.c.queue == queue).order_by(q.c.ready.desc(), *_CLAIM_ORDER).limit(limit)
    return [QueueRow(*row) for row in await conn.execute(query)]


async def seconds_at_head(conn: AsyncConnection, queue: Queue) -> float | None:
    """Return how many seconds the next message has been ready, or None if there is none."""
    row = (
        await conn.execute(
            select(q.c.visible_at, DatabaseTime().label("now"))
            .where(q.c.queue == queue, q.c.ready)
            .order_by(*_CLAIM_ORDER)
            .limit(1)
        )
    ).first()
    return None if row is None else (row.now - row.visible_at).total_seconds()


def holds(task_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the SQL condition that some queue has a message of that task."""
    return exists().where(q.c.task_id == task_id)
