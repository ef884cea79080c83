"""Applies reports to their tasks: each is one guarded step, in the caller's transaction.

The rules are in `tasks.py`. This module applies them to the database.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.backoff import Draw, full_jitter
from spheroseg.database import queue
from spheroseg.database.engine import DatabaseTime
from spheroseg.database.failures import NewFailure, add_failure, has_failure
from spheroseg.database.relayed import withdraw_relayed
from spheroseg.database.results import NewResult, add_results, has_result
from spheroseg.database.tasks import (
    TaskStatus,
    lease_task,
    read_message_facts,
    read_statuses,
    renew_task_lease,
    transition,
)
from spheroseg.messages import Report, TaskCompleted, TaskFailed, TaskStarted, task_message_id
from spheroseg.queueing.task_messages import task_message
from spheroseg.tasks import Attempt, Cause, Outcome, RetryPolicy, after

log = structlog.get_logger()


async def apply_reports(
    conn: AsyncConnection, reports: Sequence[Report], policy: RetryPolicy, draw: Draw = random.uniform
) -> None:
    """Apply `reports` in the caller's transaction. Late, duplicate and unknown ones change no state."""
    statuses = _Statuses(await read_statuses(conn, {report.task_id for report in reports}))
    results: dict[str, NewResult] = {}
    for report in _in_order(_without_superfluous_starts(reports)):
        status = await statuses.read(conn, report.task_id)
        if status is None:
            _bound_log(report).warning("report of an unknown task ignored", kind=report.kind)
            continue
        match report:
            case TaskStarted():
                await _apply_start(conn, report, status.attempt, policy)
            case TaskCompleted():
                if report.message_id not in results:
                    result = await _apply_completion(conn, report, status.attempt, policy)
                    if result is not None:
                        results[report.message_id] = result
            case TaskFailed():
                await _apply_failure(conn, report, status.attempt, policy, draw)
    if results:
        await _store_results(conn, list(results.values()))


def _without_superfluous_starts(reports: Sequence[Report]) -> list[Report]:
    """Leave out the starts of attempts that `reports` complete: nobody could see those tasks as `processing`."""
    completed = {(report.task_id, report.attempt) for report in reports if isinstance(report, TaskCompleted)}
    return [
        report
        for report in reports
        if not (isinstance(report, TaskStarted) and (report.task_id, report.attempt) in completed)
    ]


def _in_order(reports: Sequence[Report]) -> list[Report]:
    """Sort by task id: two processes that lock the same tasks in one order cannot deadlock.

    The sort is stable, so that the reports of a task stay in their own order.
    """
    return sorted(reports, key=lambda report: report.task_id)


@dataclass
class _Statuses:
    """Task statuses that are read at once for all tasks, and again for a task that a report may have changed."""

    known: dict[UUID, TaskStatus]
    _used: set[UUID] = field(default_factory=set)

    async def read(self, conn: AsyncConnection, task_id: UUID) -> TaskStatus | None:
        if task_id in self._used:
            self.known |= await read_statuses(conn, [task_id])
        self._used.add(task_id)
        return self.known.get(task_id)


async def _apply_start(conn: AsyncConnection, report: TaskStarted, attempt: Attempt, policy: RetryPolicy) -> None:
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
    elif await withdraw_relayed(conn, [report.task_id]):
        # RabbitMQ does not say whether the worker still has the message, so that the task needs a lease of its own.
        await lease_task(conn, report.task_id, policy.silence)


async def _apply_completion(
    conn: AsyncConnection, report: TaskCompleted, attempt: Attempt, policy: RetryPolicy
) -> NewResult | None:
    """Complete the task. Return the result to store, or None if that attempt has one already."""
    if await transition(
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
        processing_time_ms=report.processing_time_ms,
    ):
        _bound_log(report).info("completed")
        return NewResult(report, superseded=False)
    if await has_result(conn, report.task_id, report.attempt):
        return None
    _bound_log(report).info("late result kept as superseded")
    return NewResult(report, superseded=True)


async def _apply_failure(
    conn: AsyncConnection, report: TaskFailed, attempt: Attempt, policy: RetryPolicy, draw: Draw
) -> None:
    failure = NewFailure(
        report.task_id,
        report.attempt,
        Cause(report.cause),
        report.reason,
        report.error,
        worker=report.worker,
        started_at=report.started_at,
        failed_at=report.at,
    )
    applied = await record_unfinished(conn, failure, attempt, policy, retryable=report.retryable, draw=draw)
    if not applied and not await has_failure(conn, report.task_id, report.attempt):
        await add_failure(conn, replace(failure, superseded=True))


async def _store_results(conn: AsyncConnection, results: Sequence[NewResult]) -> None:
    ended = [(result.report.task_id, result.report.attempt) for result in results if not result.superseded]
    await queue.remove_attempts(conn, ended)
    await add_results(conn, results)


async def record_unfinished(
    conn: AsyncConnection,
    failure: NewFailure,
    current: Attempt,
    policy: RetryPolicy,
    *,
    retryable: bool = True,
    draw: Draw = random.uniform,
) -> bool:
    """Record an attempt that did not finish and, if the rules say so, queue the next one.

    current: the attempt that the task is at. Return False if the task is past the attempt of `failure`; then nothing
    was changed. Raises ValueError for a failure without a task or an attempt.
    """
    task_id, number = failure.task_id, failure.attempt
    if task_id is None or number is None:
        raise ValueError("the failure names no attempt of a task")
    outcome = Outcome(failure.cause, failure.reason, failure.error, retryable)
    decision = after(outcome, current, policy)
    delay, next_attempt = 0.0, None
    values: dict[str, Any] = {"reason": failure.reason, "error": failure.error}
    if decision.delay_ceiling is None:
        values |= {"finished_at": failure.failed_at or DatabaseTime(), "worker": failure.worker}
    else:
        next_attempt = decision.attempt.number
        values |= {"worker": None, "started_at": None, "message_queue_id": task_message_id(task_id, next_attempt)}
    if not await transition(conn, task_id, number, failure.cause, decision, **values):
        return False
    if decision.delay_ceiling:
        delay = full_jitter(decision.delay_ceiling, draw)
    await queue.remove_attempts(conn, [(task_id, number)])
    await add_failure(conn, replace(failure, next_attempt=next_attempt, delay=delay))
    if next_attempt is not None:
        facts = await read_message_facts(conn, [task_id])
        await queue.enqueue(conn, [task_message(each, delay) for each in facts])
    _log_unfinished(failure, next_attempt, delay)
    return True


def _log_unfinished(failure: NewFailure, next_attempt: int | None, delay: float) -> None:
    log.info(
        "attempt did not finish",
        task_id=str(failure.task_id),
        attempt=failure.attempt,
        worker=failure.worker,
        cause=failure.cause,
        reason=failure.reason,
        error=failure.error,
        next_attempt=next_attempt,
        delay_s=round(delay, 3),
    )


def _bound_log(report: Report) -> Any:
    return log.bind(task_id=str(report.task_id), attempt=report.attempt, worker=report.worker)
