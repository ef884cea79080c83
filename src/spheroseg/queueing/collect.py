"""collect: takes reports and dead letters from the queues and applies them, a transaction for many.

What each means is in `outcomes.py`. Also the sweep, the last net under the queues.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.broker import Broker, Consumer
from spheroseg.database.engine import reading
from spheroseg.database.revisions import words
from spheroseg.database.tasks import read_all_leased, read_attempts, read_orphans
from spheroseg.errors import BadMessage, BrokerAway
from spheroseg.messages import Message, Queue, Report, decode_report
from spheroseg.queueing.outcomes import apply_dead_letter, apply_reports, keep_unreadable, record_unfinished
from spheroseg.tasks import Cause, Outcome, RetryPolicy, TaskState

log = structlog.get_logger()

BATCH = 100
SWEEP_SECONDS = 15.0
SWEEP_LIMIT = 1000

PAUSE_SECONDS = 1.0
# A transaction for each report would cost more than the reports, so some are let gather: for longer where they come
# by the dozen, as nobody can follow each of those with their eyes.
GATHER_SECONDS = 0.05
GATHER_MANY_SECONDS = 0.3
MANY = 8.0  # a second
AWAY = (BrokerAway, SQLAlchemyError, OSError)

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
                since = time.monotonic()
                while True:
                    count = await collect_once(engine, consumer, policy, apply)
                    before, since = since, time.monotonic()
                    if count < BATCH:
                        many = count > MANY * (since - before)
                        await asyncio.sleep(GATHER_MANY_SECONDS if many else GATHER_SECONDS)
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
                await record_unfinished(conn, task.id, task.attempt, standing[task.id][1], outcome, policy)
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
            await record_unfinished(conn, orphan.id, orphan.attempt, standing[orphan.id][1], outcome, policy)
    return len(orphans)
