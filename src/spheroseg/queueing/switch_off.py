"""Takes the tasks back from RabbitMQ after the message queue was switched off."""

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.failures import NewFailure
from spheroseg.database.relayed import take_back
from spheroseg.database.tasks import lock_all_leased, read_statuses
from spheroseg.queueing.outcomes import record_unfinished
from spheroseg.tasks import Cause, RetryPolicy

log = structlog.get_logger()

MAX_TASKS_AT_ONCE = 1000


async def take_back_from_rabbitmq(engine: AsyncEngine, policy: RetryPolicy) -> int:
    """Queue the tasks again that wait at RabbitMQ or were taken from there. Return the number of tasks.

    Call it when nobody relays to RabbitMQ or reads reports there any more.
    """
    async with engine.begin() as conn:
        count = await take_back(conn, older_than=0.0)
    count += await _requeue_leased(engine, policy)
    if count:
        log.info("the message queue is switched off: messages at RabbitMQ are queued again", messages=count)
    return count


async def _requeue_leased(engine: AsyncEngine, policy: RetryPolicy) -> int:
    """Queue the tasks again that workers took from RabbitMQ, now that nobody reads their reports there.

    Return the number of tasks. This uses up no retry: the workers may have finished, and only the report is lost.
    """
    reason, error = "switched_off", "the message queue was switched off before its report was read"
    count = 0
    while True:
        async with engine.begin() as conn:
            leased = await lock_all_leased(conn, MAX_TASKS_AT_ONCE)
            statuses = await read_statuses(conn, [task.task_id for task in leased])
            for task in leased:
                failure = NewFailure(task.task_id, task.number, Cause.HANDED_BACK, reason, error)
                await record_unfinished(conn, failure, statuses[task.task_id].attempt, policy)
        count += len(leased)
        if len(leased) < MAX_TASKS_AT_ONCE:
            return count
