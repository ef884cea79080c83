"""The sweep: queues unfinished tasks again that no queue and no worker holds."""

import asyncio

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import reading
from spheroseg.database.failures import NewFailure
from spheroseg.database.revisions import describe
from spheroseg.database.tasks import Orphan, read_orphans, read_statuses
from spheroseg.queueing.outcomes import record_unfinished
from spheroseg.tasks import Cause, RetryPolicy, TaskState

log = structlog.get_logger()

SWEEP_SECONDS = 15.0
MAX_TASKS = 1000


async def sweep_forever(engine: AsyncEngine, policy: RetryPolicy, seconds: float = SWEEP_SECONDS) -> None:
    """Sweep every `seconds` until cancelled. Each time, sweep again until fewer than `MAX_TASKS` were found."""
    while True:
        await asyncio.sleep(seconds)
        try:
            while await sweep(engine, policy) == MAX_TASKS:
                pass
        except (SQLAlchemyError, OSError) as error:
            log.warning("sweep waits for the database", error=describe(error))


async def sweep(engine: AsyncEngine, policy: RetryPolicy) -> int:
    """Queue unfinished tasks again that no queue and no worker holds. Return their number, at most `MAX_TASKS`.

    Their message was purged or lost, or the worker that took it from RabbitMQ has fallen silent.
    """
    async with reading(engine) as conn:
        orphans = await read_orphans(conn, MAX_TASKS)
    if not orphans:
        return 0
    async with engine.begin() as conn:
        # Read again in the transaction that changes them: a message may have arrived meanwhile.
        orphans = await read_orphans(conn, MAX_TASKS)
        statuses = await read_statuses(conn, [orphan.task_id for orphan in orphans])
        for orphan in orphans:
            await record_unfinished(conn, _failure(orphan), statuses[orphan.task_id].attempt, policy)
    return len(orphans)


def _failure(orphan: Orphan) -> NewFailure:
    if orphan.state == TaskState.QUEUED:
        cause, reason, error = Cause.UNDELIVERED, "message_missing", "its message was in no queue any more"
    else:
        cause, reason = Cause.LOST, "worker_lost"
        error = "its worker fell silent and its message was in no queue any more"
    return NewFailure(orphan.task_id, orphan.number, cause, reason, error)
