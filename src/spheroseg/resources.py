"""What every long-running process needs: settings, the database, RabbitMQ and its management API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.management import Management
from spheroseg.database import revisions
from spheroseg.database.engine import open_engine, telling_away
from spheroseg.errors import DatabaseAway
from spheroseg.settings import Settings

if TYPE_CHECKING:
    from spheroseg.broker.rabbit import RabbitBroker


def rabbit_broker(settings: Settings) -> "RabbitBroker":
    # aio-pika belongs to an extra: a process on the database queue does not need it.
    from spheroseg.broker.rabbit import RabbitBroker

    return RabbitBroker(
        settings.rabbitmq_url, queue_type=settings.rabbitmq_queue_type, ssl_context=settings.ssl_context()
    )


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    try:
        engine = open_engine(settings.resolved_database_url())
    except OSError as error:
        raise DatabaseAway(
            f"the folder of the database cannot be made ({error}): check SPHEROSEG_DATA_DIR"
        ) from error
    try:
        with telling_away():
            await revisions.prepare(engine, needs_message_queue=settings.enable_message_queue)
        yield engine
    finally:
        await engine.dispose()


@dataclass(frozen=True)
class Resources:
    """What a process has around it; without RabbitMQ where the message queue is switched off."""

    settings: Settings
    engine: AsyncEngine
    rabbit: "RabbitBroker | None"
    management: Management | None


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    rabbit = rabbit_broker(settings) if settings.enable_message_queue else None
    management = None
    if rabbit and settings.rabbitmq_management_url:
        management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
    try:
        async with open_database(settings) as engine:
            yield Resources(settings, engine, rabbit, management)
    finally:
        if rabbit:
            await rabbit.close()
        if management:
            await management.close()
