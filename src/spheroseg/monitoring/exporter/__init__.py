"""exporter: what Prometheus is told of the queues, asked from the database and from RabbitMQ's management API.

With either of them away it goes on answering with what the other says; what is not known is left out, never repeated
from before.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from spheroseg.broker.management import Management
from spheroseg.database.engine import open_engine
from spheroseg.monitoring.exporter.database import DatabaseFigures
from spheroseg.monitoring.exporter.rabbitmq import RabbitFigures
from spheroseg.monitoring.exporter.source import Source
from spheroseg.monitoring.heartbeat import ProcessStatus, heartbeat
from spheroseg.settings import Settings

DATABASE_SECONDS = 10.0
# The management API itself counts every 5 s.
RABBITMQ_SECONDS = 5.0


class Exporter:
    def __init__(self, *sources: Source) -> None:
        self.sources = sources

    async def metrics(self) -> list[Metric]:
        answers = await asyncio.gather(*(source.read() for source in self.sources))
        up = GaugeMetricFamily(
            "spheroseg_exporter_source_up", "1 where the figures of this source are fresh.", labels=["source"]
        )
        families: list[Metric] = [up]
        for source, answer in zip(self.sources, answers, strict=True):
            up.add_metric([source.name], float(answer.figures is not None))
            families += answer.figures or []
        return families

    def status(self) -> ProcessStatus:
        """Return the status that the heartbeat of the exporter records."""
        blind = [f"{source.name}: {source.last.reason}" for source in self.sources if source.last.figures is None]
        return ProcessStatus("away", "; ".join(blind)) if blind else ProcessStatus()

    async def health(self) -> dict[str, Any]:
        """`status` is ok, or blind where a source does not answer; per source why."""
        answers = await asyncio.gather(*(source.read() for source in self.sources))
        sources = {
            source.name: "ok" if answer.figures is not None else answer.reason
            for source, answer in zip(self.sources, answers, strict=True)
        }
        is_blind = any(answer.figures is None for answer in answers)
        return {"status": "blind" if is_blind else "ok", "sources": sources}


@asynccontextmanager
async def open_exporter(
    settings: Settings, *, database_seconds: float = DATABASE_SECONDS, rabbitmq_seconds: float = RABBITMQ_SECONDS
) -> AsyncIterator[Exporter]:
    """Opens nothing yet, so that it can start before what it asks. The times are how old an answer may become."""
    engine = open_engine(settings.resolved_database_url(), pool_size=2)
    has_rabbit = settings.enable_message_queue
    sources = [
        Source("database", DatabaseFigures(engine, has_relay=has_rabbit).ask, max_age=database_seconds),
    ]
    management = None
    if has_rabbit:
        if settings.rabbitmq_management_url:
            management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
        sources.append(Source("rabbitmq", RabbitFigures(management).ask, max_age=rabbitmq_seconds))
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
