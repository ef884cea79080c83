"""Figures about the site: which processes are alive, what waits in the queues, and what has failed.

The health check, the queue metrics, the exporter and the doctor all read these functions.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.components import SILENT_SECONDS
from spheroseg.database.engine import DatabaseTime
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.schema import components as c
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import CANCELS, Queue
from spheroseg.tasks import TaskState

MAX_RECENT_TASKS = 10_000


class Process(NamedTuple):
    """The last heartbeat of a process. state: `ok`, `away` (a service that it needs does not answer) or `paused`."""

    name: str
    kind: str
    state: str
    reason: str | None
    detail: Mapping[str, Any]
    since: datetime
    seen_at: datetime


async def read_processes(conn: AsyncConnection) -> list[Process]:
    """Return the last heartbeat of each process that is on record, silent ones included, by kind and name."""
    query = select(*(c.c[name] for name in Process._fields)).order_by(c.c.kind, c.c.name)
    return [Process(*row) for row in await conn.execute(query)]


async def read_alive_processes(conn: AsyncConnection) -> list[Process]:
    """Return the processes whose last heartbeat is at most `SILENT_SECONDS` old, by kind and name."""
    query = (
        select(*(c.c[name] for name in Process._fields))
        .where(c.c.seen_at > DatabaseTime(-SILENT_SECONDS))
        .order_by(c.c.kind, c.c.name)
    )
    return [Process(*row) for row in await conn.execute(query)]


class QueueFigures(NamedTuple):
    """The rows of one queue in `segmentation_queue`.

    waiting: held by nobody. overdue: waiting for `overdue_after` seconds although anybody may take them.
    claimed: held by a worker, collect or relay. at_rabbitmq: confirmed by RabbitMQ, and no worker has begun yet.
    oldest_seconds: age of the oldest waiting one.
    """

    waiting: int = 0
    overdue: int = 0
    claimed: int = 0
    at_rabbitmq: int = 0
    oldest_seconds: float | None = None


async def read_queue_figures(conn: AsyncConnection, *, overdue_after: float = 0.0) -> dict[str, QueueFigures]:
    """Return the figures of each queue that has rows."""
    waiting = q.c.holder.is_(None)
    rows = await conn.execute(
        select(
            q.c.queue,
            func.count().filter(waiting).label("waiting"),
            func.count().filter(waiting, q.c.visible_at < DatabaseTime(-overdue_after)).label("overdue"),
            func.count().filter(~waiting, q.c.holder != AT_RABBITMQ).label("claimed"),
            func.count().filter(q.c.holder == AT_RABBITMQ).label("at_rabbitmq"),
            func.min(q.c.enqueued_at).filter(waiting).label("oldest"),
            DatabaseTime().label("now"),
        ).group_by(q.c.queue)
    )
    return {
        row.queue: QueueFigures(
            row.waiting, row.overdue, row.claimed, row.at_rabbitmq, _seconds_between(row.oldest, row.now)
        )
        for row in rows
    }


class RelayBacklog(NamedTuple):
    """Messages that the relay could move now, and how long the oldest of them has been ready."""

    messages: int
    oldest_seconds: float | None


async def read_relay_backlog(conn: AsyncConnection) -> RelayBacklog:
    """Count what the relay could move to RabbitMQ now: neither delayed messages, nor claimed ones."""
    is_due = and_(~q.c.ready, q.c.visible_at <= DatabaseTime(), q.c.holder.is_distinct_from(AT_RABBITMQ))
    query = select(
        func.count().label("messages"), func.min(q.c.visible_at).label("oldest"), DatabaseTime().label("now")
    ).where(q.c.queue.in_([Queue.TASKS, CANCELS]), or_(q.c.ready, is_due))
    row = (await conn.execute(query)).one()
    return RelayBacklog(row.messages, _seconds_between(row.oldest, row.now))


class TaskTimes(NamedTuple):
    """How long a completed task has waited for the attempt that completed it, and how long that attempt took."""

    waiting_seconds: float
    processing_seconds: float


async def read_recent_times(conn: AsyncConnection) -> list[TaskTimes]:
    """Return the times of the last `MAX_RECENT_TASKS` completed tasks, the newest first."""
    rows = await conn.execute(
        select(t.c.created_at, t.c.started_at, t.c.finished_at)
        .where(t.c.state == TaskState.COMPLETED, t.c.started_at.is_not(None))
        .order_by(t.c.finished_at.desc())
        .limit(MAX_RECENT_TASKS)
    )
    return [
        TaskTimes((started - created).total_seconds(), (finished - started).total_seconds())
        for created, started, finished in rows
    ]


class OverdueAttempts(NamedTuple):
    """Attempts that run for too long, and the worker of one of them."""

    attempts: int
    worker: str | None


async def read_overdue_attempts(conn: AsyncConnection, seconds: float) -> OverdueAttempts:
    """Count the attempts that began more than `seconds` ago and have not ended."""
    query = select(func.count(), func.min(t.c.worker)).where(
        t.c.state == TaskState.PROCESSING, t.c.started_at < DatabaseTime(-seconds)
    )
    attempts, worker = (await conn.execute(query)).one()
    return OverdueAttempts(attempts, worker)


async def count_failures(conn: AsyncConnection) -> dict[str, int]:
    """Return the number of attempts that did not finish, by reason. Empty at revision 009, which records none."""
    if not keeps_failures(conn):
        return {}
    rows = await conn.execute(
        select(f.c.reason, func.count()).where(~f.c.superseded).group_by(f.c.reason).order_by(f.c.reason)
    )
    return {reason: count for reason, count in rows}


class FailureFigures(NamedTuple):
    """The attempts that failed for one reason, with the error text of the newest of them."""

    reason: str
    attempts: int
    newest_error: str


async def read_recent_failures(conn: AsyncConnection, seconds: float) -> list[FailureFigures]:
    """Return what failed within the last `seconds`, the most frequent reason first. Empty at revision 009."""
    if not keeps_failures(conn):
        return []
    by_reason = (
        select(f.c.reason, func.count().label("attempts"), func.max(f.c.id).label("newest_id"))
        .where(f.c.failed_at > DatabaseTime(-seconds), ~f.c.superseded)
        .group_by(f.c.reason)
        .subquery()
    )
    query = (
        select(by_reason.c.reason, by_reason.c.attempts, f.c.error)
        .join(f, f.c.id == by_reason.c.newest_id)
        .order_by(by_reason.c.attempts.desc(), by_reason.c.reason)
    )
    return [FailureFigures(*row) for row in await conn.execute(query)]


def _seconds_between(earlier: datetime | None, later: datetime) -> float | None:
    return None if earlier is None else (later - earlier).total_seconds()
