"""The long-running processes: worker, relay, collect. Each is built from the settings and runs until told to stop."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Broker
from spheroseg.broker.fallback import FallbackBroker
from spheroseg.broker.rabbit import RabbitBroker
from spheroseg.broker.table import TableBroker
from spheroseg.collect import collect, hand_back_leased
from spheroseg.database import queue, revisions
from spheroseg.database.engine import has_message_queue_tables, open_engine
from spheroseg.errors import BadSettings
from spheroseg.relay import Relay, RelayOptions
from spheroseg.run import child_command
from spheroseg.segmentation.model import MODELS, load_model
from spheroseg.settings import Settings
from spheroseg.worker.loop import WorkerOptions, work

log = structlog.get_logger()


def rabbit_broker(settings: Settings) -> RabbitBroker:
    return RabbitBroker(
        settings.rabbitmq_url, queue_type=settings.rabbitmq_queue_type, ssl_context=settings.ssl_context()
    )


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(settings.resolved_database_url())
    try:
        await revisions.prepare(engine, needs_message_queue=settings.enable_message_queue)
        yield engine
    finally:
        await engine.dispose()


async def serve_worker(settings: Settings, stopping: asyncio.Event, command: list[str] | None = None) -> None:
    """Work on tasks. With the message queue enabled and no DATABASE_URL, RabbitMQ is all that the worker knows."""
    model = settings.model or MODELS[0]
    if command is None:
        load_model(model)
    options = WorkerOptions(
        name=f"{os.uname().nodename}-{os.getpid()}",
        command=command or child_command(settings.resolved_storage_url(), model),
        slots=settings.worker_concurrency,
        deadline=settings.task_timeout_seconds,
        grace=settings.shutdown_grace_seconds,
        status_file=settings.worker_status_file(),
    )
    log.info("worker starts", worker=options.name, slots=options.slots, model=model)
    if not settings.enable_message_queue:
        async with open_database(settings) as engine:
            await work(TableBroker(engine, lease=settings.lease_seconds), options, stopping)
        return
    rabbit = rabbit_broker(settings)
    try:
        if settings.database_url:
            async with open_database(settings) as engine:
                table = TableBroker(engine, lease=settings.lease_seconds)
                await work(FallbackBroker(rabbit, table), options, stopping)
        else:
            await work(rabbit, options, stopping)
    finally:
        await rabbit.close()


async def serve_relay(settings: Settings, stopping: asyncio.Event) -> None:
    if not settings.enable_message_queue:
        raise BadSettings(
            "the relay needs ENABLE_MESSAGE_QUEUE=true: without it workers take tasks from the database"
        )
    rabbit = rabbit_broker(settings)
    away = settings.broker_away_seconds
    options = RelayOptions(window=settings.relay_window, away=away, missing=max(5.0, away / 2))
    try:
        async with open_database(settings) as engine:
            await _until(stopping, Relay(engine, rabbit, options).run())
    finally:
        await rabbit.close()


async def serve_collect(settings: Settings, stopping: asyncio.Event) -> None:
    async with open_database(settings) as engine:
        brokers: list[Broker] = [TableBroker(engine, lease=settings.lease_seconds)]
        async with engine.begin() as conn:
            if has_message_queue_tables(conn):
                await queue.restore_aside(conn)
        if not settings.enable_message_queue:
            async with engine.begin() as conn:
                found = await queue.take_back(conn, older_than=0.0)
            found += await hand_back_leased(engine, settings.retry_policy)
            if found:
                log.info("the message queue is switched off: what RabbitMQ had is queued again", messages=found)
            await _until(stopping, collect(engine, brokers, settings.retry_policy))
            return
        rabbit = rabbit_broker(settings)
        try:
            await _until(stopping, collect(engine, [*brokers, rabbit], settings.retry_policy))
        finally:
            await rabbit.close()


async def _until(stopping: asyncio.Event, service: Coroutine[Any, Any, None]) -> None:
    serving = asyncio.create_task(service)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        for task in (serving, waiting):
            task.cancel()
        await asyncio.gather(serving, waiting, return_exceptions=True)
