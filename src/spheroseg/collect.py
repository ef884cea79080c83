"""collect: reports and dead letters become state, each in one guarded step.

The rules are in `tasks.py`; here they meet the database. Also the sweep, the last net under the queues.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.broker import Broker, Consumer
from spheroseg.database import queue
from spheroseg.database.engine import DatabaseTime, has_message_queue_tables, message_queue_columns, reading
from spheroseg.database.revisions import words
from spheroseg.database.schema import segmentation_failures, segmentation_results
from spheroseg.database.tasks import (
    add_failure,
    add_result,
    has_record,
    lease_task,
    read_all_leased,
    read_attempts,
    read_message_facts,
    read_orphans,
    transition,
)
from spheroseg.errors import BadMessage, BrokerAway
from spheroseg.messages import (
    Message,
    Queue,
    Report,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
    decode_report,
    decode_task,
)
from spheroseg.submit import task_message
from spheroseg.tasks import UNFINISHED, Attempt, Cause, Outcome, RetryPolicy, TaskState, after

log = structlog.get_logger()

BATCH = 100
SWEEP_SECONDS = 15.0
SWEEP_LIMIT = 1000

PAUSE_SECONDS = 1.0
GATHER_SECONDS = 0.05
AWAY = (BrokerAway, SQLAlchemyError, OSError)

Draw = Callable[[float, float], float]
Apply = Callable[[AsyncConnection, Sequence[Message], RetryPolicy], Awaitable[None]]


async def collect(
    engine: AsyncEngine, brokers: Sequence[Broker], policy: RetryPolicy, *, sweep_seconds: float = SWEEP_SECONDS
) -> None:
    """Run until cancelled: reports and dead letters from all `brokers`, and the sweep, side by side."""
    async with asyncio.TaskGroup() as group:
        for broker in brokers:
            group.create_task(_consume(engine, broker, Queue.RESULTS, policy, _apply_reports))
            group.create_task(_consume(engine, broker, Queue.DEAD_LETTERS, policy, _apply_dead_letters))
        group.create_task(_sweep_forever(engine, policy, sweep_seconds))


async def _consume(engine: AsyncEngine, broker: Broker, name: Queue, policy: RetryPolicy, apply: Apply) -> None:
    while True:
        try:
            # What is in hand when something goes wrong is given back, to come again.
            async with broker.consume(name, prefetch=BATCH) as consumer:
                while True:
                    if await collect_once(engine, consumer, policy, apply) < BATCH:
                        # A transaction for each report would cost more than the reports: let some gather.
                        await asyncio.sleep(GATHER_SECONDS)
        except AWAY as error:
            log.warning("collect tries again in a moment", queue=name, error=str(error))
            await asyncio.sleep(PAUSE_SECONDS)


async def collect_once(
    engine: AsyncEngine, consumer: Consumer, policy: RetryPolicy, apply: Apply, wait: float = 5.0
) -> int:
    """Apply what is waiting in one transaction, then settle it; how many messages."""
    deliveries = await consumer.take(BATCH, wait)
    if deliveries:
        messages = [delivery.message for delivery in deliveries]
        while True:
            try:
                await _apply_all(engine, messages, policy, apply)
                break
            except (SQLAlchemyError, OSError) as error:
                # Kept in hand: some queues give up on what is given back too often.
                log.warning("collect waits for the database", messages=len(messages), error=words(error))
                await asyncio.sleep(PAUSE_SECONDS)
        # Only now: a crash before this line brings them again, and the guard recognises them.
        await consumer.ack(deliveries)
    return len(deliveries)


async def _apply_all(engine: AsyncEngine, messages: Sequence[Message], policy: RetryPolicy, apply: Apply) -> None:
    try:
        async with engine.begin() as conn:
            await apply(conn, messages, policy)
    except DBAPIError as error:
        if not _is_about_content(error):
            raise
        await _apply_one_by_one(engine, messages, policy, apply)


def _is_about_content(error: DBAPIError) -> bool:
    """Whether the database refuses what it is given, and not the work as such."""
    # asyncpg's own classes are not all mapped; SQLSTATE classes 22 and 23 are data and constraints.
    state = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, (DataError, IntegrityError)) or state[:2] in ("22", "23")


async def _apply_one_by_one(
    engine: AsyncEngine, messages: Sequence[Message], policy: RetryPolicy, apply: Apply
) -> None:
    """One that the database cannot store must not hold up the others: it is kept as unreadable."""
    for message in messages:
        try:
            async with engine.begin() as conn:
                await apply(conn, [message], policy)
        except DBAPIError as error:
            if not _is_about_content(error):
                raise
            async with engine.begin() as conn:
                await _keep_unreadable(conn, message, f"the database cannot store it: {error}")


async def _apply_reports(conn: AsyncConnection, messages: Sequence[Message], policy: RetryPolicy) -> None:
    reports: list[Report] = []
    for message in messages:
        try:
            reports.append(decode_report(message))
        except BadMessage as error:
            await _keep_unreadable(conn, message, str(error))
    await apply_reports(conn, reports, policy)


async def _apply_dead_letters(conn: AsyncConnection, messages: Sequence[Message], policy: RetryPolicy) -> None:
    for message in sorted(messages, key=lambda message: str(message.task_id)):
        await apply_dead_letter(conn, message, policy)


async def apply_reports(
    conn: AsyncConnection, reports: Sequence[Report], policy: RetryPolicy, draw: Draw = random.uniform
) -> None:
    """Apply `reports` in the caller's transaction; late, duplicate and unknown ones change no state."""
    # Always in the order of the ids: two collects that meet the same tasks wait for each other, not for ever.
    # The sort is stable, so a task's reports stay in their own order.
    ended = {(report.task_id, report.attempt) for report in reports if isinstance(report, TaskCompleted)}
    standings = await read_attempts(conn, {report.task_id for report in reports})
    stepped: set[UUID] = set()
    for report in sorted(reports, key=lambda report: report.task_id):
        if isinstance(report, TaskStarted) and (report.task_id, report.attempt) in ended:
            # Nobody would see it processing: it is completed in this very transaction.
            continue
        if report.task_id in stepped:
            standings |= await read_attempts(conn, [report.task_id])
        stepped.add(report.task_id)
        standing = standings.get(report.task_id)
        bound = log.bind(task_id=str(report.task_id), attempt=report.attempt, worker=report.worker)
        if standing is None:
            bound.warning("report of an unknown task ignored", kind=report.kind)
            continue
        attempt = standing[1]
        match report:
            case TaskStarted():
                await _started(conn, report, attempt, policy)
            case TaskCompleted():
                await _completed(conn, report, attempt, policy, bound)
            case TaskFailed():
                outcome = Outcome(Cause(report.cause), report.reason, report.error, report.retryable)
                applied = await _unfinished(
                    conn,
                    report.task_id,
                    report.attempt,
                    attempt,
                    outcome,
                    policy,
                    draw,
                    worker=report.worker,
                    started_at=report.started_at,
                    failed_at=report.at,
                )
                if not applied and not await has_record(conn, segmentation_failures, report.task_id, report.attempt):
                    await add_failure(
                        conn,
                        report.task_id,
                        report.attempt,
                        outcome.cause,
                        report.reason,
                        report.error,
                        worker=report.worker,
                        started_at=report.started_at,
                        failed_at=report.at,
                        superseded=True,
                    )


async def _started(conn: AsyncConnection, report: TaskStarted, attempt: Attempt, policy: RetryPolicy) -> None:
    decision = after(Outcome(Cause.STARTED), attempt, policy)
    if await transition(
        conn,
        report.task_id,
        report.attempt,
        Cause.STARTED,
        decision,
        worker=report.worker,
        started_at=report.at,
    ) and await queue.withdraw_relayed(conn, [report.task_id]):
        # RabbitMQ does not tell us whether the worker still has it.
        await lease_task(conn, report.task_id, policy.silence)


async def _completed(
    conn: AsyncConnection, report: TaskCompleted, attempt: Attempt, policy: RetryPolicy, bound: Any
) -> None:
    applied = await transition(
        conn,
        report.task_id,
        report.attempt,
        Cause.SUCCEEDED,
        after(Outcome(Cause.SUCCEEDED), attempt, policy),
        worker=report.worker,
        started_at=report.started_at,
        finished_at=report.at,
        reason=None,
        error=None,
        **message_queue_columns(conn, processing_time_ms=report.processing_time_ms),
    )
    if applied:
        await queue.remove_attempt(conn, report.task_id, report.attempt)
        bound.info("completed")
    else:
        if await has_record(conn, segmentation_results, report.task_id, report.attempt):
            return
        bound.info("late result kept as superseded")
    await add_result(conn, report.task_id, report.attempt, report.worker, report.result, superseded=not applied)


async def _unfinished(
    conn: AsyncConnection,
    task_id: UUID,
    number: int,
    attempt: Attempt,
    outcome: Outcome,
    policy: RetryPolicy,
    draw: Draw = random.uniform,
    **seen: Any,
) -> bool:
    """Record an attempt that did not finish and, where the rules say so, queue the next one."""
    decision = after(outcome, attempt, policy)
    again = decision.delay_ceiling is not None
    values: dict[str, Any] = {"reason": outcome.reason, "error": outcome.error}
    if again:
        values |= {
            "worker": None,
            "started_at": None,
            **message_queue_columns(conn, message_queue_id=f"{task_id}:{decision.attempt.number}:task.new"),
        }
    else:
        values |= {"finished_at": seen.get("failed_at") or DatabaseTime(), "worker": seen.get("worker")}
    if not await transition(conn, task_id, number, outcome.cause, decision, **values):
        return False
    await queue.remove_attempt(conn, task_id, number)
    delay = draw(0.0, decision.delay_ceiling) if decision.delay_ceiling else 0.0
    await add_failure(
        conn,
        task_id,
        number,
        outcome.cause,
        outcome.reason,
        outcome.error,
        next_attempt=decision.attempt.number if again else None,
        delay=delay,
        **seen,
    )
    if again:
        rows = await read_message_facts(conn, [task_id])
        await queue.enqueue(conn, [task_message(row, delay) for row in rows])
    log.info(
        "attempt did not finish",
        task_id=str(task_id),
        attempt=number,
        worker=seen.get("worker"),
        cause=outcome.cause,
        reason=outcome.reason,
        error=outcome.error,
        next_attempt=decision.attempt.number if again else None,
        delay_s=round(delay, 3),
    )
    return True


async def apply_dead_letter(conn: AsyncConnection, message: Message, policy: RetryPolicy) -> None:
    """What a message that the queue gave up on means for its task.

    `rejected`: the worker has reported why before it rejected, so there is nothing to decide.
    `expired`, `maxlen`: nobody ever worked on it, and it goes back with a delay.
    """
    deaths = message.headers.get("x-death") or [{}]
    death = deaths[0].get("reason", "unknown")
    try:
        task = decode_task(message)
    except BadMessage as error:
        await _keep_unreadable(conn, message, str(error))
        return
    if death not in ("expired", "maxlen"):
        return
    standing = (await read_attempts(conn, [task.task_id])).get(task.task_id)
    if standing is not None:
        outcome = Outcome(Cause.UNDELIVERED, death, _UNDELIVERED[death])
        await _unfinished(conn, task.task_id, task.attempt, standing[1], outcome, policy)


_UNDELIVERED = {
    "expired": "no worker took the message before its time was over",
    "maxlen": "the queue was full and pushed the message out",
}


async def _keep_unreadable(conn: AsyncConnection, message: Message, error: str) -> None:
    """Keep a message that nobody can decode, and fail its task if the envelope tells whose it is."""
    log.error("unreadable message kept", message_id=message.id, error=error, **message.about())
    standing = await read_attempts(conn, [message.task_id]) if message.task_id else {}
    task_id = message.task_id if message.task_id in standing else None
    number = None
    kept: dict[str, Any] = {
        "body": message.body,
        "content_encoding": message.content_encoding,
        "headers": message.headers,
    }
    if not has_message_queue_tables(conn):
        await queue.keep_aside(conn, message)
    if task_id:
        state, attempt = standing[task_id]
        number = message.attempt or attempt.number
        if state in UNFINISHED:
            outcome = Outcome(Cause.FAILED, BadMessage.code, error, retryable=False)
            await _unfinished(
                conn,
                task_id,
                number,
                attempt,
                outcome,
                RetryPolicy(),
                body=message.body,
                headers=message.headers,
            )
            return
    await add_failure(
        conn,
        task_id,
        number,
        Cause.FAILED,
        BadMessage.code,
        error,
        superseded=task_id is not None,
        **kept,
    )


async def _sweep_forever(engine: AsyncEngine, policy: RetryPolicy, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            while await sweep(engine, policy) == SWEEP_LIMIT:
                pass
        except AWAY as error:
            log.warning("sweep waits for the database", error=words(error))


async def hand_back_leased(engine: AsyncEngine, policy: RetryPolicy) -> int:
    """Queue again what workers reported to have begun over RabbitMQ, when nobody listens there any more; how many.

    That uses up nothing: they may well have finished, and only their report was not read.
    """
    outcome = Outcome(
        Cause.HANDED_BACK, "switched_off", "the message queue was switched off before its report was read"
    )
    count = 0
    while True:
        async with engine.begin() as conn:
            leased = await read_all_leased(conn, SWEEP_LIMIT)
            standing = await read_attempts(conn, [task.id for task in leased])
            for task in leased:
                await _unfinished(conn, task.id, task.attempt, standing[task.id][1], outcome, policy)
        count += len(leased)
        if len(leased) < SWEEP_LIMIT:
            return count


async def sweep(engine: AsyncEngine, policy: RetryPolicy) -> int:
    """Put back tasks that the database calls unfinished but that no queue holds; how many.

    Such a task is one whose message was purged, or whose worker rejected it without a report.
    """
    async with reading(engine) as conn:
        orphans = await read_orphans(conn, SWEEP_LIMIT)
    if not orphans:
        return 0
    async with engine.begin() as conn:
        # Once more, now that nobody changes what we see: a message may have come meanwhile.
        orphans = await read_orphans(conn, SWEEP_LIMIT)
        standing = await read_attempts(conn, [orphan.id for orphan in orphans])
        for orphan in orphans:
            if orphan.state == TaskState.QUEUED:
                outcome = Outcome(Cause.UNDELIVERED, "message_missing", "its message was in no queue any more")
            else:
                outcome = Outcome(
                    Cause.LOST,
                    "worker_lost",
                    "its worker fell silent and its message was in no queue any more",
                )
            await _unfinished(conn, orphan.id, orphan.attempt, standing[orphan.id][1], outcome, policy)
    return len(orphans)
