"""`segmentation_queue`: the outbox of the relay and the queue of the workers, in one table.

The order of a claim is (priority, turn, id), an index read from its start, so its cost does not grow with the
backlog. `turn` is what makes it fair: a virtual clock as in start-time fair queueing (Goyal, Vin, Cheng, 1996).
A user's messages take consecutive turns from the turn now being served, so 5 messages that arrive behind another
user's 50,000 are served in the next 5 rounds, not after them.

Only `ready` rows are in that index. What is delayed or in somebody's hand is found by `visible_at` when it is due.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, exists, false, func, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks
from spheroseg.messages import ROUTES, Message, Queue
from spheroseg.tasks import TaskState

# Holder of the rows whose messages RabbitMQ has confirmed.
AT_RABBITMQ = "rabbitmq"
# Where unreadable messages wait while the database is at revision 009.
UNREADABLE = "segmentation.unreadable"
# A message lives at most an hour in segmentation.tasks; after that its row alone would wait for ever.
RELAY_LEASE = 3900.0


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
) -> list[Row[Any]]:
    """Take up to `limit` ready messages for `lease` seconds; rivals skip what is being taken.

    lowest_first: take from the lowest waiting priority instead of the highest. above: only what has a priority above
    that. is_delivery: False where the messages are only being moved, which does not make them redelivered later.
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
    picked = (
        ready.order_by(q.c.priority.desc(), q.c.turn, q.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("picked")
    )
    rows = await conn.execute(
        update(q)
        .where(q.c.id.in_(select(picked.c.id)))
        .values(
            ready=false(),
            visible_at=DatabaseTime(lease),
            deliveries=q.c.deliveries + int(is_delivery),
            holder=holder,
        )
        .returning(*q.c)
    )
    return sorted(rows, key=lambda row: (-row.priority, row.turn, row.id))


async def wake_due(conn: AsyncConnection) -> int:
    """Make ready what was delayed until now and what a silent holder has let expire; how many."""
    # Rivals do the same at the same moment: each leaves alone what another has locked.
    due = (
        select(q.c.id)
        .where(~q.c.ready, q.c.visible_at <= DatabaseTime())
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    result = await conn.execute(update(q).where(q.c.id.in_(select(due.c.id))).values(ready=true(), holder=None))
    return result.rowcount


async def renew(conn: AsyncConnection, holder: str, ids: Sequence[int], lease: float) -> set[int]:
    """Lengthen the lease of what `holder` still has; the ids that it still has."""
    rows = await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder, ~q.c.ready)
        .values(visible_at=DatabaseTime(lease))
        .returning(q.c.id)
    )
    return set(rows.scalars())


async def remove(conn: AsyncConnection, holder: str, ids: Sequence[int]) -> None:
    await conn.execute(delete(q).where(q.c.id.in_(ids), q.c.holder == holder))


async def dead_letter(conn: AsyncConnection, holder: str, headers: Mapping[int, Mapping[str, Any]]) -> None:
    """Move messages that `holder` rejects to the dead letter queue, each with its new headers."""
    for id_, its_headers in headers.items():
        await conn.execute(
            update(q)
            .where(q.c.id == id_, q.c.holder == holder)
            .values(
                queue=Queue.DEAD_LETTERS,
                headers=dict(its_headers),
                ready=true(),
                holder=None,
                deliveries=0,
                user_id=None,
                turn=0,
                visible_at=DatabaseTime(),
            )
        )


async def release(conn: AsyncConnection, holder: str, ids: Sequence[int]) -> None:
    """Give back what `holder` has, at once; it will be marked as redelivered."""
    await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder)
        .values(ready=true(), holder=None, visible_at=DatabaseTime())
    )


async def confirm_relayed(conn: AsyncConnection, holder: str, ids: Sequence[int], lease: float) -> None:
    """RabbitMQ has confirmed them: the rows stay as the record of what is there, for `lease` seconds at most."""
    await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder)
        .values(holder=AT_RABBITMQ, visible_at=DatabaseTime(lease))
    )


async def postpone(conn: AsyncConnection, holder: str, ids: Sequence[int], delay: float) -> None:
    """RabbitMQ did not take them: ready again after `delay` seconds.

    Without a delay they are as old as they were, so that a worker sees that they have been waiting.
    """
    await conn.execute(
        update(q)
        .where(q.c.id.in_(ids), q.c.holder == holder)
        .values(holder=None, ready=delay <= 0, visible_at=DatabaseTime(delay) if delay > 0 else q.c.enqueued_at)
    )


async def take_back(conn: AsyncConnection, older_than: float) -> int:
    """Make ready what RabbitMQ confirmed more than `older_than` seconds ago and no worker has started; how many."""
    result = await conn.execute(
        update(q)
        .where(
            ~q.c.ready,
            q.c.holder == AT_RABBITMQ,
            # visible_at is the moment of the confirm plus RELAY_LEASE.
            q.c.visible_at <= DatabaseTime(RELAY_LEASE - older_than),
            q.c.task_id.in_(select(segmentation_tasks.c.id).where(segmentation_tasks.c.state == TaskState.QUEUED)),
        )
        .values(holder=None, ready=true(), visible_at=DatabaseTime())
    )
    return result.rowcount


async def withdraw_relayed(conn: AsyncConnection, task_ids: Sequence[UUID]) -> set[UUID]:
    """Remove the rows whose messages RabbitMQ has; the tasks that had one."""
    found: set[UUID] = set()
    for chunk in chunks(task_ids):
        rows = await conn.execute(
            delete(q).where(q.c.task_id.in_(chunk), q.c.holder == AT_RABBITMQ).returning(q.c.task_id)
        )
        found.update(rows.scalars())
    return found


async def seconds_at_head(conn: AsyncConnection, queue: Queue) -> float | None:
    """How long the next message has been ready; None without one."""
    row = (
        await conn.execute(
            select(q.c.visible_at, DatabaseTime().label("now"))
            .where(q.c.queue == queue, q.c.ready)
            .order_by(q.c.priority.desc(), q.c.turn, q.c.id)
            .limit(1)
        )
    ).first()
    return None if row is None else (row.now - row.visible_at).total_seconds()


async def forget_holders(conn: AsyncConnection) -> int:
    """Give back everything that anybody has, as if never delivered; how many.

    Only for a queue whose every worker is known to be gone.
    """
    result = await conn.execute(
        update(q)
        .where(~q.c.ready, q.c.holder.is_not(None))
        .values(ready=true(), holder=None, deliveries=0, visible_at=DatabaseTime())
    )
    return result.rowcount


async def keep_aside(conn: AsyncConnection, message: Message) -> None:
    """Keep a message that nobody can read, while there is no table of failures for it."""
    await conn.execute(
        insert(q).values(
            queue=UNREADABLE,
            message_id=message.id[:100],
            routing_key=message.routing_key[:50],
            body=message.body,
            content_encoding=message.content_encoding,
            headers=dict(message.headers),
            task_id=None,
            user_id=None,
            priority=0,
            turn=0,
            ready=True,
            visible_at=DatabaseTime(),
            enqueued_at=DatabaseTime(),
        )
    )


async def restore_aside(conn: AsyncConnection) -> int:
    """Hand what was kept aside to the dead letters, now that there is a table of failures; how many."""
    result = await conn.execute(update(q).where(q.c.queue == UNREADABLE).values(queue=Queue.DEAD_LETTERS))
    return result.rowcount


async def withdraw(conn: AsyncConnection, task_ids: Sequence[UUID]) -> int:
    """Remove the tasks' waiting and running messages from `segmentation.tasks`; how many."""
    count = 0
    for chunk in chunks(task_ids):
        result = await conn.execute(delete(q).where(q.c.task_id.in_(chunk), q.c.queue == Queue.TASKS))
        count += result.rowcount
    return count


async def drop_reported(conn: AsyncConnection) -> int:
    """Remove messages whose attempt has already been reported but not settled; how many.

    Only for a queue whose every worker is known to be gone.
    """
    reported = select(q.c.task_id).where(
        q.c.queue == Queue.RESULTS, q.c.routing_key.in_(["task.completed", "task.failed"])
    )
    result = await conn.execute(delete(q).where(q.c.queue == Queue.TASKS, q.c.task_id.in_(reported)))
    return result.rowcount


async def remove_attempts(conn: AsyncConnection, attempts: Collection[tuple[UUID, int]]) -> None:
    """Remove the messages of attempts that have come to their end, wherever they are said to be."""
    await conn.execute(
        delete(q).where(
            q.c.task_id.in_([task_id for task_id, _ in attempts]),
            q.c.queue == Queue.TASKS,
            q.c.message_id.in_([f"{task_id}:{attempt}:task.new" for task_id, attempt in attempts]),
        )
    )


async def depth(conn: AsyncConnection, queue: Queue, *, in_hand: bool) -> int:
    """How many messages are in `queue`, waiting and delayed; with those in somebody's hand, or without."""
    query = select(func.count()).where(q.c.queue == queue)
    if not in_hand:
        query = query.where(q.c.holder.is_(None))
    return (await conn.execute(query)).scalar_one()


def holds(task_id: Any) -> Any:
    """SQL condition: some queue has a message of that task."""
    return exists().where(q.c.task_id == task_id)
