"""The figures that the database knows. Counting is linear in the tables, so it is not done for every scrape."""

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.database import revisions
from spheroseg.database.components import SILENT_SECONDS
from spheroseg.database.engine import DatabaseTime, has_message_queue_tables, reading
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.schema import components
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.tasks import count_states
from spheroseg.messages import CANCELS, Queue
from spheroseg.monitoring.exporter.histories import REASONS, Histories
from spheroseg.monitoring.queue_metrics import database_queue
from spheroseg.queueing.dead_letters import count_dead_letters

KINDS = ("relay", "collect", "worker", "backend", "exporter")
PLACES = ("waiting", "in_hand", "at_rabbitmq")


class DatabaseFigures:
    """has_relay: whether tasks are meant to go through RabbitMQ."""

    def __init__(self, engine: AsyncEngine, *, has_relay: bool) -> None:
        self._engine = engine
        self._has_relay = has_relay
        self._histories = Histories()

    async def ask(self) -> list[Metric]:
        """Raises SchemaUnusable, SQLAlchemyError or OSError where the database cannot be asked."""
        # With every question: it may have been brought up or down since the last.
        await revisions.prepare(self._engine)
        async with reading(self._engine) as conn:
            await self._histories.update(conn)
            has_failures = has_message_queue_tables(conn)
            return [
                await _tasks(conn),
                await _queues(conn),
                *(await _backlog(conn) if self._has_relay else []),
                *self._histories.metrics(with_failures=has_failures),
                *([await _dead_letters(conn)] if has_failures else []),
                *await _components(conn, has_relay=self._has_relay),
            ]


async def _tasks(conn: AsyncConnection) -> Metric:
    family = GaugeMetricFamily("spheroseg_tasks", "Tasks, by their state now.", labels=["state"])
    for state, count in (await count_states(conn)).items():
        family.add_metric([state], count)
    return family


async def _queues(conn: AsyncConnection) -> Metric:
    family = GaugeMetricFamily(
        "spheroseg_database_queue_messages",
        "Rows of segmentation_queue: waiting, in somebody's hand, or at RabbitMQ with nobody at work on them yet.",
        labels=["queue", "where"],
    )
    found = await database_queue(conn)
    for queue in sorted({*Queue, *found}):
        for place in PLACES:
            family.add_metric([queue, place], found.get(queue, {}).get(place, 0))
    return family


async def _backlog(conn: AsyncConnection) -> list[Metric]:
    """What the relay could move now: not what is delayed, nor what somebody has."""
    is_due = and_(~q.c.ready, q.c.visible_at <= DatabaseTime(), q.c.holder.is_distinct_from(AT_RABBITMQ))
    row = (
        await conn.execute(
            select(func.count(), func.min(q.c.visible_at).label("oldest"), DatabaseTime().label("now")).where(
                q.c.queue.in_([Queue.TASKS, CANCELS]), or_(q.c.ready, is_due)
            )
        )
    ).one()
    age = max(0.0, (row.now - row.oldest).total_seconds()) if row.oldest else 0.0
    return [
        GaugeMetricFamily(
            "spheroseg_relay_backlog_messages", "Messages in the database that the relay could move now.", row[0]
        ),
        GaugeMetricFamily(
            "spheroseg_relay_backlog_age_seconds", "How long the oldest of them has waited; 0 without one.", age
        ),
    ]


async def _dead_letters(conn: AsyncConnection) -> Metric:
    family = GaugeMetricFamily(
        "spheroseg_dead_letters", "Dead letters that nobody has dealt with yet.", labels=["reason"]
    )
    for reason, count in sorted({**dict.fromkeys(REASONS, 0), **await count_dead_letters(conn)}.items()):
        family.add_metric([reason], count)
    return family


async def _components(conn: AsyncConnection, *, has_relay: bool) -> list[Metric]:
    up = GaugeMetricFamily(
        "spheroseg_component_up", f"Processes that were seen within {SILENT_SECONDS:g} s.", labels=["kind"]
    )
    degraded = GaugeMetricFamily(
        "spheroseg_component_degraded", "Those of them that are away or paused.", labels=["kind"]
    )
    c = components.c
    rows = await conn.execute(
        select(c.kind, c.state, func.count())
        .where(c.seen_at > DatabaseTime(-SILENT_SECONDS))
        .group_by(c.kind, c.state)
    )
    counts: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for kind, state, count in rows:
        counts.setdefault(kind, {})[state] = count
    for kind, states in sorted(counts.items()):
        up.add_metric([kind], sum(states.values()))
        degraded.add_metric([kind], sum(count for state, count in states.items() if state != "ok"))
    # As /api/health has it: one relay that works is enough.
    is_degraded = has_relay and "ok" not in counts["relay"]
    return [
        up,
        degraded,
        GaugeMetricFamily(
            "spheroseg_degraded",
            "1 while tasks are meant to go through RabbitMQ and go over the database queue.",
            float(is_degraded),
        ),
    ]
