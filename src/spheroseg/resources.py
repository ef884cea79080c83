"""Opens what a process needs according to its settings: the database, RabbitMQ and its management API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.management import Management
from spheroseg.database import revisions
from spheroseg.database.engine import open_engine, raise_if_unreachable
from spheroseg.errors import DatabaseAway
from spheroseg.settings import Settings

if TYPE_CHECKING:
    from spheroseg.broker.rabbit import RabbitBroker


def rabbit_broker(settings: Settings) -> "RabbitBroker":
    """Return a broker for the RabbitMQ server of the settings. It connects when it is first used."""
    # aio-pika belongs to an extra: a process that uses the database queue does not need it.
    from spheroseg.broker.rabbit import RabbitBroker

    return RabbitBroker(
        settings.rabbitmq_url, queue_type=settings.rabbitmq_queue_type, ssl_context=settings.ssl_context()
    )


@asynccontextmanager
async def open_rabbit(settings: Settings) -> AsyncIterator["RabbitBroker | None"]:
    """Yield the broker of `rabbit_broker` and close it at the end; None if the message queue is switched off."""
    rabbit = rabbit_broker(settings) if settings.enable_message_queue else None
    try:
        yield rabbit
    finally:
        if rabbit:
            await rabbit.close()


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Yield the database of the settings once its tables can be used. Only SQLite is created and upgraded first.

    Raises DatabaseAway if it is unreachable or its folder cannot be created, SchemaUnusable if it must be migrated.
    """
    try:
        engine = open_engine(settings.resolved_database_url())
    except OSError as error:
        raise DatabaseAway(
            f"the folder of the database cannot be made ({error}): check SPHEROSEG_DATA_DIR"
        ) from error
    try:
        with raise_if_unreachable():
            await revisions.prepare(engine, needs_message_queue=settings.enable_message_queue)
        yield engine
    finally:
        await engine.dispose()


@dataclass(frozen=True)
class Resources:
    """What a process has opened.

    rabbit: None if the message queue is switched off. management: None also if its URL is not set.
    """

    settings: Settings
    engine: AsyncEngine
    rabbit: "RabbitBroker | None"
    management: Management | None


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Yield the resources and close them at the end. Raises what `open_database` raises."""
    async with (
        open_rabbit(settings) as rabbit,
        _open_management(settings) as management,
        open_database(settings) as engine,
    ):
        yield Resources(settings, engine, rabbit, management)


@asynccontextmanager
async def _open_management(settings: Settings) -> AsyncIterator[Management | None]:
    management = None
    if settings.enable_message_queue and settings.rabbitmq_management_url:
        management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
    try:
        yield management
    finally:
        if management:
            await management.close()
