"""The metrics that come from the database. Counting reads whole tables, so it is not done for every scrape."""

from collections import Counter

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.database import revisions
from spheroseg.database.components import SILENT_SECONDS
from spheroseg.database.dead_letters import count_dead_letters
from spheroseg.database.engine import reading
from spheroseg.database.figures import (
    QueueFigures,
    read_alive_processes,
    read_queue_figures,
    read_relay_backlog,
)
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.tasks import count_states
from spheroseg.messages import Queue
from spheroseg.monitoring.exporter.counters import KNOWN_REASONS, TaskCounters

PROCESS_KINDS = ("relay", "collect", "worker", "backend", "exporter")


class DatabaseMetrics:
    def __init__(self, engine: AsyncEngine, *, has_relay: bool) -> None:
        """has_relay: whether tasks are meant to go through RabbitMQ."""
        self._engine = engine
        self._has_relay = has_relay
        self._counters = TaskCounters()

    async def read(self) -> list[Metric]:
        """Query the database. Raise SchemaUnusable, SQLAlchemyError or OSError if that is not possible."""
        # Each time, because somebody may have upgraded or downgraded the database meanwhile.
        await revisions.prepare(self._engine)
        async with reading(self._engine) as conn:
            await self._counters.update(conn)
            has_failures = keeps_failures(conn)
            return [
                await _task_states(conn),
                await _queues(conn),
                *(await _relay_backlog(conn) if self._has_relay else []),
                *self._counters.metrics(with_failures=has_failures),
                *([await _dead_letters(conn)] if has_failures else []),
                *await _processes(conn, has_relay=self._has_relay),
            ]


async def _task_states(conn: AsyncConnection) -> Metric:
    family = GaugeMetricFamily("spheroseg_tasks", "Tasks by their current state.", labels=["state"])
    for state, count in (await count_states(conn)).items():
        family.add_metric([state], count)
    return family


async def _queues(conn: AsyncConnection) -> Metric:
    family = GaugeMetricFamily(
        "spheroseg_database_queue_messages",
        "Rows of segmentation_queue: waiting, claimed by a process (in_hand), "
        "or at RabbitMQ where no worker has begun them yet.",
        labels=["queue", "where"],
    )
    figures = await read_queue_figures(conn)
    for queue in sorted({*Queue, *figures}):
        row = figures.get(queue, QueueFigures())
        family.add_metric([queue, "waiting"], row.waiting)
        family.add_metric([queue, "in_hand"], row.claimed)
        family.add_metric([queue, "at_rabbitmq"], row.at_rabbitmq)
    return family


async def _relay_backlog(conn: AsyncConnection) -> list[Metric]:
    backlog = await read_relay_backlog(conn)
    return [
        GaugeMetricFamily(
            "spheroseg_relay_backlog_messages",
            "Messages in the database that the relay could move now.",
            backlog.messages,
        ),
        GaugeMetricFamily(
            "spheroseg_relay_backlog_age_seconds",
            "Time for which the oldest of them has waited; 0 if there is none.",
            max(0.0, backlog.oldest_seconds or 0.0),
        ),
    ]


async def _dead_letters(conn: AsyncConnection) -> Metric:
    family = GaugeMetricFamily(
        "spheroseg_dead_letters", "Dead letters that nobody has retried or discarded yet.", labels=["reason"]
    )
    for reason, count in sorted({**dict.fromkeys(KNOWN_REASONS, 0), **await count_dead_letters(conn)}.items()):
        family.add_metric([reason], count)
    return family


async def _processes(conn: AsyncConnection, *, has_relay: bool) -> list[Metric]:
    up = GaugeMetricFamily(
        "spheroseg_component_up",
        f"Processes whose last heartbeat is at most {SILENT_SECONDS:g} s old.",
        labels=["kind"],
    )
    degraded = GaugeMetricFamily(
        "spheroseg_component_degraded", "Those of them that are away or paused.", labels=["kind"]
    )
    processes = await read_alive_processes(conn)
    alive = Counter(process.kind for process in processes)
    working = Counter(process.kind for process in processes if process.state == "ok")
    for kind in sorted({*PROCESS_KINDS, *alive}):
        up.add_metric([kind], alive[kind])
        degraded.add_metric([kind], alive[kind] - working[kind])
    return [
        up,
        degraded,
        # One working relay is enough, as in /api/health.
        GaugeMetricFamily(
            "spheroseg_degraded",
            "1 while tasks are meant to go through RabbitMQ but go through the database queue.",
            float(has_relay and not working["relay"]),
        ),
    ]
