"""The figures of the queue, for the API and the command line alike."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.broker.management import Management
from spheroseg.database.components import read_alive
from spheroseg.database.engine import DatabaseTime, has_message_queue_tables, reading
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.database.tasks import count_states
from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue
from spheroseg.tasks import TaskState

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker

PERCENTILES = (50, 90, 99)
RECENT_TASKS = 10_000


async def queue_metrics(
    engine: AsyncEngine, rabbit: "RabbitBroker | None" = None, management: Management | None = None
) -> dict[str, Any]:
    """All figures in one dictionary, ready for JSON; times in seconds.

    rabbit: None where the message queue is switched off. management: None where there is no management API; then
    RabbitMQ's queues tell only what waits in them.
    """
    # Before a connection is taken: RabbitMQ may let us wait.
    connection, queues = await _connection(rabbit), await _queues(rabbit, management)
    async with reading(engine) as conn:
        return {
            "queue": connection,
            "queues": queues,
            "messages": await _messages(conn, rabbit) if rabbit else None,
            "database_queue": await database_queue(conn),
            "tasks": {str(state): count for state, count in (await count_states(conn)).items()},
            "failures": await _failures(conn),
            **await _recent_times(conn),
        }


async def _connection(rabbit: "RabbitBroker | None") -> dict[str, Any]:
    if rabbit is None:
        return {"status": "disabled", "reason": "ENABLE_MESSAGE_QUEUE is false: tasks are worked from the database"}
    try:
        await rabbit.depth(Queue.TASKS)
    except BrokerAway as error:
        return {"status": "disconnected", "since": _moment(rabbit.unreachable_since), "reason": str(error)}
    return {"status": "connected", "since": _moment(rabbit.connected_since)}


def _moment(monotonic: float | None) -> str | None:
    if monotonic is None:
        return None
    return (datetime.now(UTC) - timedelta(seconds=time.monotonic() - monotonic)).isoformat()


async def _messages(conn: AsyncConnection, rabbit: "RabbitBroker") -> dict[str, int]:
    """What the processes that run now have published, consumed and so on since they started; how many they are."""
    told = [row.detail["messages"] for row in await read_alive(conn) if "messages" in row.detail]
    sums = {name: sum(counts.get(name, 0) for counts in told) for name in asdict(rabbit.counts)}
    return {**sums, "processes": len(told)}


async def _queues(rabbit: "RabbitBroker | None", management: Management | None) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    if rabbit is None:
        return figures
    for queue in Queue:
        try:
            figures[queue] = await _queue(queue, rabbit, management)
        except BrokerAway:
            continue
    return figures


async def _queue(queue: Queue, rabbit: "RabbitBroker", management: Management | None) -> dict[str, Any]:
    if management is None:
        return {"ready": await rabbit.depth(queue), "unacked": None, "consumers": None}
    found = await management.queue(queue) or {}
    stats = found.get("message_stats", {})
    return {
        "ready": found.get("messages_ready", 0),
        "unacked": found.get("messages_unacknowledged", 0),
        "consumers": found.get("consumers", 0),
        "published": stats.get("publish", 0),
        "delivered": stats.get("deliver_get", 0),
        "acked": stats.get("ack", 0),
        "redelivered": stats.get("redeliver", 0),
    }


async def database_queue(conn: AsyncConnection) -> dict[str, dict[str, Any]]:
    """What waits in the table, what is in a hand, what RabbitMQ has, and the age of the oldest that waits."""
    waiting = q.c.holder.is_(None)
    rows = await conn.execute(
        select(
            q.c.queue,
            func.count().filter(waiting).label("waiting"),
            func.count().filter(~waiting, q.c.holder != AT_RABBITMQ).label("in_hand"),
            func.count().filter(q.c.holder == AT_RABBITMQ).label("at_rabbitmq"),
            func.min(q.c.enqueued_at).filter(waiting).label("oldest"),
            DatabaseTime().label("now"),
        ).group_by(q.c.queue)
    )
    return {
        row.queue: {
            "waiting": row.waiting,
            "in_hand": row.in_hand,
            "at_rabbitmq": row.at_rabbitmq,
            "oldest_seconds": round((row.now - row.oldest).total_seconds(), 3) if row.oldest else None,
        }
        for row in rows
    }


async def _failures(conn: AsyncConnection) -> dict[str, int]:
    if not has_message_queue_tables(conn):
        return {}
    rows = await conn.execute(
        select(f.c.reason, func.count()).where(~f.c.superseded).group_by(f.c.reason).order_by(f.c.reason)
    )
    return {reason: count for reason, count in rows}


async def _recent_times(conn: AsyncConnection) -> dict[str, dict[str, float | None]]:
    """Of the last completed tasks: from submit to the start of the attempt that completed, and the attempt itself."""
    rows = await conn.execute(
        select(t.c.created_at, t.c.started_at, t.c.finished_at)
        .where(t.c.state == TaskState.COMPLETED, t.c.started_at.is_not(None))
        .order_by(t.c.finished_at.desc())
        .limit(RECENT_TASKS)
    )
    recent = rows.all()
    return {
        "waiting_seconds": _percentiles([(row.started_at - row.created_at).total_seconds() for row in recent]),
        "processing_seconds": _percentiles([(row.finished_at - row.started_at).total_seconds() for row in recent]),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """By nearest rank."""
    ranked = sorted(values)
    return {
        f"p{percent}": round(ranked[max(0, -(-len(ranked) * percent // 100) - 1)], 4) if ranked else None
        for percent in PERCENTILES
    }
