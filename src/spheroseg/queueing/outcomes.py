"""What a report or a dead letter means for its task: one guarded step, in the caller's transaction.

The rules are in `tasks.py`; here they meet the database.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.engine import DatabaseTime, has_message_queue_tables, message_queue_columns
from spheroseg.database.schema import segmentation_failures, segmentation_results
from spheroseg.database.tasks import (
    add_failure,
    add_results,
    has_record,
    lease_task,
    read_attempts,
    read_message_facts,
    renew_task_lease,
    transition,
)
from spheroseg.errors import BadMessage
from spheroseg.messages import Message, Report, TaskCompleted, TaskFailed, TaskStarted, decode_task
from spheroseg.queueing.submit import task_message
from spheroseg.tasks import UNFINISHED, Attempt, Cause, Outcome, RetryPolicy, after

log = structlog.get_logger()

Draw = Callable[[float, float], float]


async def apply_reports(
    conn: AsyncConnection, reports: Sequence[Report], policy: RetryPolicy, draw: Draw = random.uniform
) -> None:
    """Apply `reports` in the caller's transaction; late, duplicate and unknown ones change no state."""
    # Always in the order of the ids: two collects that meet the same tasks wait for each other, not for ever.
    # The sort is stable, so a task's reports stay in their own order.
    ended = {(report.task_id, report.attempt) for report in reports if isinstance(report, TaskCompleted)}
    standings = await read_attempts(conn, {report.task_id for report in reports})
    stepped: set[UUID] = set()
    results: dict[str, tuple[TaskCompleted, bool]] = {}
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
                if report.message_id in results:
                    continue
                if await _completed(conn, report, attempt, policy):
                    bound.info("completed")
                    results[report.message_id] = report, False
                elif not await has_record(conn, segmentation_results, report.task_id, report.attempt):
                    bound.info("late result kept as superseded")
                    results[report.message_id] = report, True
            case TaskFailed():
                outcome = Outcome(Cause(report.cause), report.reason, report.error, report.retryable)
                applied = await record_unfinished(
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
    if results:
        ended_now = [(report.task_id, report.attempt) for report, superseded in results.values() if not superseded]
        await queue.remove_attempts(conn, ended_now)
        await add_results(conn, list(results.values()))


async def _started(conn: AsyncConnection, report: TaskStarted, attempt: Attempt, policy: RetryPolicy) -> None:
    decision = after(Outcome(Cause.STARTED), attempt, policy)
    if not await transition(
        conn,
        report.task_id,
        report.attempt,
        Cause.STARTED,
        decision,
        worker=report.worker,
        started_at=report.at,
    ):
        await renew_task_lease(conn, report.task_id, report.attempt, policy.silence)
    elif await queue.withdraw_relayed(conn, [report.task_id]):
        # RabbitMQ does not tell us whether the worker still has it.
        await lease_task(conn, report.task_id, policy.silence)


async def _completed(conn: AsyncConnection, report: TaskCompleted, attempt: Attempt, policy: RetryPolicy) -> bool:
    return await transition(
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


async def record_unfinished(
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
    await queue.remove_attempts(conn, [(task_id, number)])
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
        await keep_unreadable(conn, message, str(error))
        return
    if death not in ("expired", "maxlen"):
        return
    standing = (await read_attempts(conn, [task.task_id])).get(task.task_id)
    if standing is not None:
        outcome = Outcome(Cause.UNDELIVERED, death, _UNDELIVERED[death])
        await record_unfinished(conn, task.task_id, task.attempt, standing[1], outcome, policy)


_UNDELIVERED = {
    "expired": "no worker took the message before its time was over",
    "maxlen": "the queue was full and pushed the message out",
}


async def keep_unreadable(conn: AsyncConnection, message: Message, error: str) -> None:
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
            await record_unfinished(
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
