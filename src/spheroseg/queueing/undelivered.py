"""Applies dead letters: messages that a queue gave up on, and messages that nobody could read."""

from dataclasses import replace

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.failures import NewFailure, add_failure
from spheroseg.database.quarantine import quarantine
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.tasks import read_statuses
from spheroseg.errors import BadMessage
from spheroseg.messages import Message, decode_task
from spheroseg.queueing.outcomes import record_unfinished
from spheroseg.tasks import UNFINISHED, Cause, RetryPolicy

log = structlog.get_logger()

# The reasons for which a queue drops a message that no worker has seen, with the error text of each.
_DROPPED = {
    "expired": "no worker took the message before its time was over",
    "maxlen": "the queue was full and pushed the message out",
}


async def apply_dead_letter(conn: AsyncConnection, message: Message, policy: RetryPolicy) -> None:
    """Apply a message that a queue gave up on to its task, in the caller's transaction.

    A message whose body cannot be decoded is kept as unreadable, and the task that its envelope names fails.
    Otherwise the reason decides.
    `rejected`: the worker reported the failure before it rejected the message, so nothing is left to do.
    `expired`, `maxlen`: nobody ever worked on it, so the attempt is queued again with a delay.
    """
    deaths = message.headers.get("x-death") or [{}]
    reason = deaths[0].get("reason", "unknown")
    try:
        task = decode_task(message)
    except BadMessage as error:
        await keep_unreadable(conn, message, str(error))
        return
    if reason not in _DROPPED:
        return
    status = (await read_statuses(conn, [task.task_id])).get(task.task_id)
    if status is not None:
        failure = NewFailure(task.task_id, task.attempt, Cause.UNDELIVERED, reason, _DROPPED[reason])
        await record_unfinished(conn, failure, status.attempt, policy)


async def keep_unreadable(conn: AsyncConnection, message: Message, error: str) -> None:
    """Keep a message that nobody can read, and fail its task if the envelope names one that is not finished."""
    log.error("unreadable message kept", message_id=message.id, error=error, **message.log_fields())
    if not keeps_failures(conn):
        await quarantine(conn, message)
    statuses = await read_statuses(conn, [message.task_id]) if message.task_id else {}
    status = statuses.get(message.task_id) if message.task_id else None
    failure = NewFailure(
        None,
        None,
        Cause.FAILED,
        BadMessage.code,
        error,
        body=message.body,
        content_encoding=message.content_encoding,
        headers=message.headers,
    )
    if status is None:
        await add_failure(conn, failure)
        return
    failure = replace(failure, task_id=message.task_id, attempt=message.attempt or status.attempt.number)
    if status.state in UNFINISHED:
        await record_unfinished(conn, failure, status.attempt, RetryPolicy(), retryable=False)
    else:
        await add_failure(conn, replace(failure, superseded=True))
