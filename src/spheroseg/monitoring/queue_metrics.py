"""The metrics of the queues in one dictionary, for the HTTP API and the command line."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.broker.management import Management
from spheroseg.database.engine import reading
from spheroseg.database.figures import (
    count_failures,
    read_alive_processes,
    read_queue_figures,
    read_recent_times,
)
from spheroseg.database.tasks import count_states
from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker

PERCENTILES = (50, 90, 99)


async def queue_metrics(
    engine: AsyncEngine, rabbit: "RabbitBroker | None" = None, management: Management | None = None
) -> dict[str, Any]:
    """Return all metrics, ready for JSON. Times are in seconds.

    rabbit: None if the message queue is disabled. management: None if the management API is not configured; then the
    only figure of RabbitMQ's queues is the number of ready messages.
    """
    # RabbitMQ may take long to answer, so it is queried before a database connection is held.
    connection, queues = await _connection(rabbit), await _rabbitmq_queues(rabbit, management)
    async with reading(engine) as conn:
        return {
            "queue": connection,
            "queues": queues,
            "messages": await _message_counts(conn, rabbit) if rabbit else None,
            "database_queue": await _database_queue(conn),
            "tasks": {str(state): count for state, count in (await count_states(conn)).items()},
            "failures": await count_failures(conn),
            **await _recent_times(conn),
        }


async def _connection(rabbit: "RabbitBroker | None") -> dict[str, str | None]:
    if rabbit is None:
        return {
            "status": "disabled",
            "reason": "ENABLE_MESSAGE_QUEUE is false: workers take tasks from the database queue",
        }
    try:
        await rabbit.depth(Queue.TASKS)
    except BrokerAway as error:
        return {"status": "disconnected", "since": _to_iso_time(rabbit.unreachable_since), "reason": str(error)}
    return {"status": "connected", "since": _to_iso_time(rabbit.connected_since)}


def _to_iso_time(monotonic: float | None) -> str | None:
    """Convert a reading of the monotonic clock to a time of day in UTC."""
    if monotonic is None:
        return None
    return (datetime.now(UTC) - timedelta(seconds=time.monotonic() - monotonic)).isoformat()


async def _message_counts(conn: AsyncConnection, rabbit: "RabbitBroker") -> dict[str, int]:
    """Sum the message counts in the heartbeats of all alive processes, and count those processes."""
    processes = [process for process in await read_alive_processes(conn) if "messages" in process.detail]
    sums = {
        name: sum(process.detail["messages"].get(name, 0) for process in processes) for name in asdict(rabbit.counts)
    }
    return {**sums, "processes": len(processes)}


async def _rabbitmq_queues(
    rabbit: "RabbitBroker | None", management: Management | None
) -> dict[str, dict[str, int | None]]:
    figures: dict[str, dict[str, int | None]] = {}
    if rabbit is None:
        return figures
    for queue in Queue:
        try:
            figures[queue] = await _rabbitmq_queue(queue, rabbit, management)
        except BrokerAway:
            continue
    return figures


async def _rabbitmq_queue(
    queue: Queue, rabbit: "RabbitBroker", management: Management | None
) -> dict[str, int | None]:
    if management is None:
        return {"ready": await rabbit.depth(queue), "unacked": None, "consumers": None}
    state = await management.queue(queue) or {}
    stats = state.get("message_stats", {})
    return {
        "ready": state.get("messages_ready", 0),
        "unacked": state.get("messages_unacknowledged", 0),
        "consumers": state.get("consumers", 0),
        "published": stats.get("publish", 0),
        "delivered": stats.get("deliver_get", 0),
        "acked": stats.get("ack", 0),
        "redelivered": stats.get("redeliver", 0),
    }


async def _database_queue(conn: AsyncConnection) -> dict[str, dict[str, int | float | None]]:
    return {
        queue: {
            "waiting": figures.waiting,
            "in_hand": figures.claimed,
            "at_rabbitmq": figures.at_rabbitmq,
            "oldest_seconds": None if figures.oldest_seconds is None else round(figures.oldest_seconds, 3),
        }
        for queue, figures in (await read_queue_figures(conn)).items()
    }


async def _recent_times(conn: AsyncConnection) -> dict[str, dict[str, float | None]]:
    recent = await read_recent_times(conn)
    return {
        "waiting_seconds": _percentiles([times.waiting_seconds for times in recent]),
        "processing_seconds": _percentiles([times.processing_seconds for times in recent]),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return the percentiles by the nearest-rank method; None if there are no values."""
    ranked = sorted(values)
    return {
        f"p{percent}": round(ranked[max(0, -(-len(ranked) * percent // 100) - 1)], 4) if ranked else None
        for percent in PERCENTILES
    }
