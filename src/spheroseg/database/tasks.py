"""The state of tasks. Every change of it is one UPDATE in this module; `submissions.py` inserts the first state.

The UPDATE is guarded by `tasks.STEPS`: a step is taken only if the task is in a state from which the step may start.
Only `requeue_processing` takes a step that has no cause in STEPS.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, func, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.queue import holds
from spheroseg.database.revision_010 import keeps_message_ids, writable_task_values
from spheroseg.database.schema import RETRIES, images
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.tasks import STEPS, UNFINISHED, Attempt, Cause, Decision, TaskState


class TaskStatus(NamedTuple):
    """The state of a task and its current attempt."""

    state: TaskState
    attempt: Attempt


class TaskAttempt(NamedTuple):
    """An attempt of a task. number: counts from 1."""

    task_id: UUID
    number: int


class Orphan(NamedTuple):
    """An unfinished task that no queue holds."""

    task_id: UUID
    number: int
    state: TaskState


class MessageFacts(NamedTuple):
    """What the message of a task's current attempt must say. pixel_size_um: µm per pixel, if the user gave it."""

    task_id: UUID
    attempt: int
    image_key: str
    image_sha256: str
    page: int
    user_id: UUID
    priority: int
    model: str
    model_sha256: str | None
    parameters: Mapping[str, Any]
    pixel_size_um: float | None


async def transition(
    conn: AsyncConnection,
    task_id: UUID,
    number: int,
    cause: Cause,
    decision: Decision,
    **values: Any,
) -> bool:
    """Take a step if the task is at attempt `number`, in a state from which `cause` may lead.

    Return False if it is not; then nothing was changed. Raises ValueError if `cause` may not lead to that state.
    """
    step = STEPS[cause]
    if decision.state not in step.targets:
        raise ValueError(f"{cause} may not lead to {decision.state}")
    result = await conn.execute(
        update(t)
        .where(t.c.id == task_id, t.c.attempt == number, t.c.state.in_(step.sources))
        .values(
            version=t.c.version + 1,
            **writable_task_values(
                conn,
                state=decision.state,
                attempt=decision.attempt.number,
                lost_count=decision.attempt.losses,
                retry_count=decision.attempt.retries,
                lease_until=None,
                **values,
            ),
        )
    )
    return result.rowcount == 1


async def transition_all(
    conn: AsyncConnection, task_ids: Collection[UUID], cause: Cause, state: TaskState, **values: Any
) -> list[UUID]:
    """Take a person's step for each of `task_ids` in a state from which `cause` may lead. Return their ids, sorted.

    A person's request is about the task, whatever its attempt. A retry begins the next attempt with a fresh set of
    tries. Raises ValueError if `cause` may not lead to `state`.
    """
    step = STEPS[cause]
    if state not in step.targets:
        raise ValueError(f"{cause} may not lead to {state}")
    if cause == Cause.RETRY:
        values |= {"attempt": t.c.attempt + 1, "first_attempt": t.c.attempt + 1, "lost_count": 0, "retry_count": 0}
    values = writable_task_values(conn, **values)
    changed: list[UUID] = []
    for chunk in chunks(sorted(task_ids)):
        # Lock in the order of the ids, as collect does, so that two transactions cannot deadlock.
        locked = (
            select(t.c.id)
            .where(t.c.id.in_(chunk), t.c.state.in_(step.sources))
            .order_by(t.c.id)
            .with_for_update()
            .cte("locked")
        )
        rows = await conn.execute(
            update(t)
            .where(t.c.id.in_(select(locked.c.id)))
            .values(state=state, version=t.c.version + 1, lease_until=None, **values)
            .returning(t.c.id)
        )
        changed.extend(rows.scalars())
    return sorted(changed)


async def requeue_processing(conn: AsyncConnection) -> int:
    """Set every `processing` task to `queued`. Return their number. Call it only if every worker is surely gone."""
    result = await conn.execute(
        update(t)
        .where(t.c.state == TaskState.PROCESSING)
        .values(state=TaskState.QUEUED, version=t.c.version + 1, worker=None, started_at=None)
    )
    return result.rowcount


async def record_message_ids(conn: AsyncConnection, ids: Mapping[UUID, str]) -> None:
    """Record the ids of the tasks' new messages. Does nothing at revision 009, which has no column for them."""
    if ids and keeps_message_ids(conn):
        await conn.execute(
            update(t).where(t.c.id == bindparam("task")).values(message_queue_id=bindparam("message")),
            [{"task": task_id, "message": message_id} for task_id, message_id in ids.items()],
        )


async def lease_task(conn: AsyncConnection, task_id: UUID, seconds: float) -> None:
    """Let the task's worker report within `seconds` from now although no queue holds the task."""
    await conn.execute(update(t).where(t.c.id == task_id).values(lease_until=DatabaseTime(seconds)))


async def renew_task_lease(conn: AsyncConnection, task_id: UUID, number: int, seconds: float) -> None:
    """Extend the lease of attempt `number`, whose worker still works on it. Does nothing if it has no lease."""
    await conn.execute(
        update(t)
        .where(
            t.c.id == task_id,
            t.c.attempt == number,
            t.c.state == TaskState.PROCESSING,
            t.c.lease_until.is_not(None),
        )
        .values(lease_until=DatabaseTime(seconds))
    )


async def lock_and_find_leased(conn: AsyncConnection, task_ids: Collection[UUID]) -> set[UUID]:
    """Lock `task_ids` until the end of the transaction. Return those that a worker has taken from RabbitMQ."""
    leased: set[UUID] = set()
    for chunk in chunks(sorted(task_ids)):
        # Lock all of them: a report of a start that is being applied may set a lease.
        rows = await conn.execute(
            select(t.c.id, t.c.lease_until).where(t.c.id.in_(chunk)).order_by(t.c.id).with_for_update()
        )
        leased.update(row.id for row in rows if row.lease_until is not None)
    return leased


async def lock_all_leased(conn: AsyncConnection, limit: int) -> list[TaskAttempt]:
    """Lock and return up to `limit` tasks that workers have taken from RabbitMQ."""
    rows = await conn.execute(
        select(t.c.id, t.c.attempt)
        .where(t.c.state == literal_column(f"'{TaskState.PROCESSING}'"), t.c.lease_until.is_not(None))
        .order_by(t.c.id)
        .limit(limit)
        .with_for_update()
    )
    return [TaskAttempt(*row) for row in rows]


async def read_statuses(conn: AsyncConnection, task_ids: Collection[UUID]) -> dict[UUID, TaskStatus]:
    """Return the states and attempts of `task_ids`. Tasks that do not exist are missing."""
    rows = await conn.execute(
        select(t.c.id, t.c.state, t.c.attempt, RETRIES.label("retries"), t.c.lost_count).where(t.c.id.in_(task_ids))
    )
    return {row.id: TaskStatus(row.state, Attempt(row.attempt, row.retries, row.lost_count)) for row in rows}


async def read_message_facts(conn: AsyncConnection, task_ids: Collection[UUID]) -> list[MessageFacts]:
    """Return what the messages of these tasks must say, sorted by task id."""
    query = (
        select(
            t.c.id,
            t.c.attempt,
            images.c.storage_key,
            images.c.sha256,
            images.c.page,
            b.c.user_id,
            b.c.priority,
            b.c.model,
            b.c.model_sha256,
            b.c.parameters,
            b.c.pixel_size_um,
        )
        .join(images, images.c.id == t.c.image_id)
        .join(b, b.c.id == t.c.batch_id)
        .order_by(t.c.id)
    )
    facts: list[MessageFacts] = []
    for chunk in chunks(sorted(task_ids)):
        facts += [MessageFacts(*row) for row in await conn.execute(query.where(t.c.id.in_(chunk)))]
    return facts


async def read_orphans(conn: AsyncConnection, limit: int) -> list[Orphan]:
    """Return up to `limit` unfinished tasks that no queue holds, and no worker whose lease still runs."""
    rows = await conn.execute(
        select(t.c.id, t.c.attempt, t.c.state)
        .where(
            # Literal, so that SQLite uses the partial index of unfinished tasks.
            t.c.state.in_([literal_column(f"'{state}'") for state in sorted(UNFINISHED)]),
            or_(t.c.lease_until.is_(None), t.c.lease_until < DatabaseTime()),
            ~holds(t.c.id),
        )
        .order_by(t.c.id)
        .limit(limit)
    )
    return [Orphan(*row) for row in rows]


async def count_states(conn: AsyncConnection, batch_id: UUID | None = None) -> dict[TaskState, int]:
    """Return the number of tasks in each state, zeros included: of one batch, or of all."""
    query = select(t.c.state, func.count()).group_by(t.c.state)
    if batch_id is not None:
        query = query.where(t.c.batch_id == batch_id)
    counts = dict.fromkeys(TaskState, 0)
    counts.update({state: count for state, count in await conn.execute(query)})
    return counts
