"""The exporter: metrics of the queues for Prometheus, from the database and RabbitMQ's management API.

If one of the two is unreachable, the exporter serves the metrics of the other. Metrics that are not known are left
out; old values are not repeated.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from spheroseg.broker.management import Management
from spheroseg.database.engine import open_engine
from spheroseg.monitoring.exporter.database import DatabaseMetrics
from spheroseg.monitoring.exporter.rabbitmq import RabbitMetrics
from spheroseg.monitoring.exporter.source import Source
from spheroseg.monitoring.heartbeat import ProcessStatus, heartbeat
from spheroseg.settings import Settings

DATABASE_MAX_AGE_SECONDS = 10.0
# The management API itself updates its counts every 5 s.
RABBITMQ_MAX_AGE_SECONDS = 5.0


@dataclass(frozen=True)
class ExporterHealth:
    """status: `ok`, or `blind` if a source does not answer. sources: for each source `ok` or the reason."""

    status: str
    sources: dict[str, str]


class Exporter:
    def __init__(self, *sources: Source) -> None:
        self.sources = sources

    async def metrics(self) -> list[Metric]:
        """Return the metrics of all sources that answer, and which ones do."""
        answers = await asyncio.gather(*(source.read() for source in self.sources))
        up = GaugeMetricFamily(
            "spheroseg_exporter_source_up", "1 if the metrics of this source are fresh.", labels=["source"]
        )
        families: list[Metric] = [up]
        for source, answer in zip(self.sources, answers, strict=True):
            up.add_metric([source.name], float(answer.metrics is not None))
            families += answer.metrics or []
        return families

    def status(self) -> ProcessStatus:
        """Return the status that the heartbeat of the exporter records."""
        faults = [f"{source.name}: {source.last.reason}" for source in self.sources if source.last.metrics is None]
        return ProcessStatus("away", "; ".join(faults)) if faults else ProcessStatus()

    async def health(self) -> ExporterHealth:
        answers = await asyncio.gather(*(source.read() for source in self.sources))
        sources = {
            source.name: "ok" if answer.metrics is not None else answer.reason
            for source, answer in zip(self.sources, answers, strict=True)
        }
        is_blind = any(answer.metrics is None for answer in answers)
        return ExporterHealth("blind" if is_blind else "ok", sources)


@asynccontextmanager
async def open_exporter(
    settings: Settings,
    *,
    database_max_age: float = DATABASE_MAX_AGE_SECONDS,
    rabbitmq_max_age: float = RABBITMQ_MAX_AGE_SECONDS,
) -> AsyncIterator[Exporter]:
    """Yield an exporter whose answers are at most as old as the given seconds.

    Nothing is connected yet, so the exporter can start before the database and RabbitMQ do.
    """
    engine = open_engine(settings.resolved_database_url(), pool_size=2)
    has_rabbit = settings.enable_message_queue
    sources = [
        Source("database", DatabaseMetrics(engine, has_relay=has_rabbit).read, max_age=database_max_age),
    ]
    management = None
    if has_rabbit:
        if settings.rabbitmq_management_url:
            management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
        sources.append(Source("rabbitmq", RabbitMetrics(management).read, max_age=rabbitmq_max_age))
    exporter = Exporter(*sources)
    try:
        async with heartbeat(engine, "exporter", exporter.status):
            yield exporter
    finally:
        for source in sources:
            await source.close()
        if management:
            await management.close()
        await engine.dispose()
