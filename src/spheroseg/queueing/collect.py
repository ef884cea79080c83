"""collect: takes reports and dead letters from the queues and applies them, many in one transaction.

`outcomes.py` applies the reports, `undelivered.py` the dead letters. The sweep runs beside them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.broker import Broker, Consumer
from spheroseg.database.revisions import describe
from spheroseg.errors import BadMessage, BrokerAway
from spheroseg.messages import Message, Queue, Report, decode_report
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.sweep import SWEEP_SECONDS, sweep_forever
from spheroseg.queueing.undelivered import apply_dead_letter, keep_unreadable
from spheroseg.tasks import RetryPolicy

log = structlog.get_logger()

MAX_MESSAGES = 100
RETRY_SECONDS = 1.0
# One transaction per report would be slow, so collect lets some reports gather first. It waits longer if more reports
# arrive than BUSY_MESSAGES_PER_SECOND, because then nobody can watch each of them.
GATHER_SECONDS = 0.05
BUSY_GATHER_SECONDS = 0.3
BUSY_MESSAGES_PER_SECOND = 8.0

Apply = Callable[[AsyncConnection, Sequence[Message], RetryPolicy], Awaitable[None]]


async def collect(
    engine: AsyncEngine, brokers: Sequence[Broker], policy: RetryPolicy, *, sweep_seconds: float = SWEEP_SECONDS
) -> None:
    """Apply reports and dead letters from all `brokers`, and sweep, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for broker in brokers:
            group.create_task(_consume(engine, broker, Queue.RESULTS, policy, _apply_reports))
            group.create_task(_consume(engine, broker, Queue.DEAD_LETTERS, policy, _apply_dead_letters))
        group.create_task(sweep_forever(engine, policy, sweep_seconds))


async def _consume(engine: AsyncEngine, broker: Broker, queue: Queue, policy: RetryPolicy, apply: Apply) -> None:
    while True:
        try:
            # After an error, the unacknowledged messages go back to the queue and are delivered again.
            async with broker.consume(queue, prefetch=MAX_MESSAGES) as consumer:
                applied_at = time.monotonic()
                while True:
                    count = await collect_once(engine, consumer, policy, apply)
                    previous, applied_at = applied_at, time.monotonic()
                    if count < MAX_MESSAGES:
                        is_busy = count > BUSY_MESSAGES_PER_SECOND * (applied_at - previous)
                        await asyncio.sleep(BUSY_GATHER_SECONDS if is_busy else GATHER_SECONDS)
        except (BrokerAway, SQLAlchemyError, OSError) as error:
            log.warning("collect tries again in a moment", queue=queue, error=str(error))
            await asyncio.sleep(RETRY_SECONDS)


async def collect_once(
    engine: AsyncEngine, consumer: Consumer, policy: RetryPolicy, apply: Apply, wait: float = 5.0
) -> int:
    """Apply the waiting messages in one transaction, then acknowledge them. Return the number of messages.

    wait: seconds to wait for the first message.
    """
    deliveries = await consumer.take(MAX_MESSAGES, wait)
    if deliveries:
        await _apply_all(engine, [delivery.message for delivery in deliveries], policy, apply)
        # Only now: after a crash before this line they are delivered again, and the guards recognise them.
        await consumer.ack(deliveries)
    return len(deliveries)


async def _apply_all(engine: AsyncEngine, messages: Sequence[Message], policy: RetryPolicy, apply: Apply) -> None:
    """Apply `messages`, however long the database is unreachable."""
    while True:
        try:
            await _apply_together_or_singly(engine, messages, policy, apply)
            return
        except (SQLAlchemyError, OSError) as error:
            # The messages stay unacknowledged: some queues give up on a message that is handed back too often.
            log.warning("collect waits for the database", messages=len(messages), error=describe(error))
            await asyncio.sleep(RETRY_SECONDS)


async def _apply_together_or_singly(
    engine: AsyncEngine, messages: Sequence[Message], policy: RetryPolicy, apply: Apply
) -> None:
    try:
        async with engine.begin() as conn:
            await apply(conn, messages, policy)
    except DBAPIError as error:
        if not _is_about_content(error):
            raise
        await _apply_singly(engine, messages, policy, apply)


def _is_about_content(error: DBAPIError) -> bool:
    """Return whether the database refuses the data, so that other messages may still be applied."""
    # SQLAlchemy does not map all classes of asyncpg. SQLSTATE classes 22 and 23 are data and constraints.
    state = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, (DataError, IntegrityError)) or state[:2] in ("22", "23")


async def _apply_singly(engine: AsyncEngine, messages: Sequence[Message], policy: RetryPolicy, apply: Apply) -> None:
    """Apply each message in its own transaction. One that the database cannot store is kept as unreadable."""
    for message in messages:
        try:
            async with engine.begin() as conn:
                await apply(conn, [message], policy)
        except DBAPIError as error:
            if not _is_about_content(error):
                raise
            async with engine.begin() as conn:
                await keep_unreadable(conn, message, f"the database cannot store it: {error}")


async def _apply_reports(conn: AsyncConnection, messages: Sequence[Message], policy: RetryPolicy) -> None:
    reports: list[Report] = []
    for message in messages:
        try:
            reports.append(decode_report(message))
        except BadMessage as error:
            await keep_unreadable(conn, message, str(error))
    await apply_reports(conn, reports, policy)


async def _apply_dead_letters(conn: AsyncConnection, messages: Sequence[Message], policy: RetryPolicy) -> None:
    for message in sorted(messages, key=lambda message: str(message.task_id)):
        await apply_dead_letter(conn, message, policy)
