"""Batches, tasks, results and failures. The only writer of a task's state."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, func, insert, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks, has_message_queue_tables, message_queue_columns
from spheroseg.database.queue import holds
from spheroseg.database.schema import (
    MESSAGE_QUEUE_COLUMNS,
    images,
    segmentation_batches,
    segmentation_failures,
    segmentation_results,
    segmentation_tasks,
)
from spheroseg.messages import TaskCompleted
from spheroseg.tasks import STEPS, UNFINISHED, Attempt, Cause, Decision, TaskState

t = segmentation_tasks

# Retries used up in the present set of tries.
RETRIES = t.c.attempt - t.c.first_attempt - t.c.lost_count


async def transition(
    conn: AsyncConnection,
    task_id: UUID,
    number: int,
    cause: Cause,
    decision: Decision,
    **values: Any,
) -> bool:
    """Take the step, if the task still stands at attempt `number` in a state that `cause` may find.

    False means that it does not, and that nothing was changed.
    """
    step = STEPS[cause]
    if decision.state not in step.targets:
        raise ValueError(f"{cause} may not lead to {decision.state}")
    result = await conn.execute(
        update(t)
        .where(t.c.id == task_id, t.c.attempt == number, t.c.state.in_(step.sources))
        .values(
            state=decision.state,
            attempt=decision.attempt.number,
            lost_count=decision.attempt.losses,
            version=t.c.version + 1,
            lease_until=None,
            **values,
            **message_queue_columns(conn, retry_count=decision.attempt.retries),
        )
    )
    return result.rowcount == 1


async def transition_all(
    conn: AsyncConnection, task_ids: Collection[UUID], cause: Cause, state: TaskState, **values: Any
) -> list[UUID]:
    """Take a person's step for all of `task_ids` that stand in a state that `cause` may find; their ids, in order.

    A person means the task, whatever its attempt; a retry begins the next attempt with fresh tries.
    """
    step = STEPS[cause]
    if state not in step.targets:
        raise ValueError(f"{cause} may not lead to {state}")
    if cause == Cause.RETRY:
        values |= {"attempt": t.c.attempt + 1, "first_attempt": t.c.attempt + 1, "lost_count": 0}
        values |= message_queue_columns(conn, retry_count=0)
    changed: list[UUID] = []
    for chunk in chunks(sorted(task_ids)):
        # Locked in the order of the ids, as collect does.
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


async def name_messages(conn: AsyncConnection, ids: Mapping[UUID, str]) -> None:
    """Write down the ids of the tasks' new messages, where there is a column for them."""
    if ids and has_message_queue_tables(conn):
        await conn.execute(
            update(t).where(t.c.id == bindparam("task")).values(message_queue_id=bindparam("message")),
            [{"task": task_id, "message": message_id} for task_id, message_id in ids.items()],
        )


async def lease_task(conn: AsyncConnection, task_id: UUID, seconds: float) -> None:
    """For `seconds` from now the task's worker may report without any queue holding the task."""
    await conn.execute(update(t).where(t.c.id == task_id).values(lease_until=DatabaseTime(seconds)))


async def renew_task_lease(conn: AsyncConnection, task_id: UUID, number: int, seconds: float) -> None:
    """The worker that has attempt `number` of the task says that it still does; nothing where it has no lease."""
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


async def read_leased(conn: AsyncConnection, task_ids: Collection[UUID]) -> set[UUID]:
    """Those of `task_ids` whose worker is known only through RabbitMQ; all of `task_ids` stay locked."""
    found: set[UUID] = set()
    for chunk in chunks(sorted(task_ids)):
        # Each is locked: a report of a start that is being applied may bring a lease.
        rows = await conn.execute(
            select(t.c.id, t.c.lease_until).where(t.c.id.in_(chunk)).order_by(t.c.id).with_for_update()
        )
        found.update(row.id for row in rows if row.lease_until is not None)
    return found


async def read_all_leased(conn: AsyncConnection, limit: int) -> Sequence[Any]:
    """Up to `limit` tasks in the hands of workers that are known only through RabbitMQ."""
    rows = await conn.execute(
        select(t.c.id, t.c.attempt)
        .where(t.c.state == literal_column(f"'{TaskState.PROCESSING}'"), t.c.lease_until.is_not(None))
        .order_by(t.c.id)
        .limit(limit)
        .with_for_update()
    )
    return rows.all()


def task_columns(conn: AsyncConnection) -> list[Any]:
    """What can be read of a task at the database's revision. `retry_count` always can: other columns tell it too."""
    if has_message_queue_tables(conn):
        return [*t.c]
    return [*(column for column in t.c if column.name not in MESSAGE_QUEUE_COLUMNS), RETRIES.label("retry_count")]


async def read_attempts(conn: AsyncConnection, task_ids: Collection[UUID]) -> dict[UUID, tuple[TaskState, Attempt]]:
    """Where the tasks stand; those that do not exist are missing."""
    rows = await conn.execute(
        select(t.c.id, t.c.state, t.c.attempt, RETRIES.label("retries"), t.c.lost_count).where(t.c.id.in_(task_ids))
    )
    return {row.id: (TaskState(row.state), Attempt(row.attempt, row.retries, row.lost_count)) for row in rows}


async def read_message_facts(conn: AsyncConnection, task_ids: Collection[UUID]) -> Sequence[Any]:
    """What the messages of these tasks must say: task, image and batch in one row each, in the order of the ids."""
    found: list[Any] = []
    for chunk in chunks(sorted(task_ids)):
        found += await conn.execute(_message_facts().where(t.c.id.in_(chunk)).order_by(t.c.id))
    return found


def _message_facts() -> Any:
    return (
        select(
            t.c.id.label("task_id"),
            t.c.attempt,
            images.c.storage_key,
            images.c.sha256,
            images.c.page,
            segmentation_batches.c.user_id,
            segmentation_batches.c.priority,
            segmentation_batches.c.model,
            segmentation_batches.c.model_sha256,
            segmentation_batches.c.parameters,
            segmentation_batches.c.pixel_size_um,
        )
        .join(images, images.c.id == t.c.image_id)
        .join(segmentation_batches, segmentation_batches.c.id == t.c.batch_id)
    )


async def read_orphans(conn: AsyncConnection, limit: int) -> Sequence[Any]:
    """Unfinished tasks that no queue holds, and no worker who may still report."""
    rows = await conn.execute(
        select(t.c.id, t.c.state, t.c.attempt)
        .where(
            # Literal, so that SQLite sees that the partial index of the unfinished will do.
            t.c.state.in_([literal_column(f"'{state}'") for state in sorted(UNFINISHED)]),
            or_(t.c.lease_until.is_(None), t.c.lease_until < DatabaseTime()),
            ~holds(t.c.id),
        )
        .order_by(t.c.id)
        .limit(limit)
    )
    return rows.all()


async def add_results(conn: AsyncConnection, results: Collection[tuple[TaskCompleted, bool]]) -> None:
    """Record results, each with whether it came too late to be that of its task."""
    await conn.execute(
        insert(segmentation_results).values(created_at=DatabaseTime()),
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


async def has_record(conn: AsyncConnection, table: Any, task_id: UUID, attempt: int) -> bool:
    """Whether that attempt already has a row in `segmentation_results` or `segmentation_failures`.

    Where there is no `segmentation_failures`, every attempt counts as recorded: nothing can be added.
    """
    if table is segmentation_failures and not has_message_queue_tables(conn):
        return True
    found = await conn.execute(
        select(table.c.id).where(table.c.task_id == task_id, table.c.attempt == attempt).limit(1)
    )
    return found.first() is not None


async def add_failure(
    conn: AsyncConnection,
    task_id: UUID | None,
    attempt: int | None,
    cause: Cause,
    reason: str,
    error: str,
    *,
    worker: str | None = None,
    started_at: datetime | None = None,
    failed_at: datetime | None = None,
    next_attempt: int | None = None,
    delay: float = 0.0,
    superseded: bool = False,
    body: bytes | None = None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
) -> None:
    """Record an attempt that did not finish; `delay` in seconds from now tells when the next one may begin.

    Before revision 010 there is no such record: the task itself keeps the last reason.
    """
    if not has_message_queue_tables(conn):
        return
    await conn.execute(
        insert(segmentation_failures).values(
            task_id=task_id,
            attempt=attempt,
            cause=cause,
            reason=reason,
            error=error,
            worker=worker,
            started_at=started_at,
            failed_at=failed_at or DatabaseTime(),
            next_attempt=next_attempt,
            next_attempt_at=DatabaseTime(delay) if next_attempt else None,
            superseded=superseded,
            body=body,
            content_encoding=content_encoding,
            headers=None if headers is None else dict(headers),
        )
    )


async def hand_back_processing(conn: AsyncConnection) -> int:
    """Call `queued` what is `processing`; how many. Only where every worker is known to be gone."""
    result = await conn.execute(
        update(t)
        .where(t.c.state == TaskState.PROCESSING)
        .values(state=TaskState.QUEUED, version=t.c.version + 1, worker=None, started_at=None)
    )
    return result.rowcount


async def count_states(conn: AsyncConnection, batch_id: UUID | None = None) -> dict[TaskState, int]:
    """Number of tasks in each state, zeros included: of one batch, or of all."""
    query = select(t.c.state, func.count()).group_by(t.c.state)
    if batch_id is not None:
        query = query.where(t.c.batch_id == batch_id)
    counts = dict.fromkeys(TaskState, 0)
    counts.update({TaskState(state): count for state, count in await conn.execute(query)})
    return counts
