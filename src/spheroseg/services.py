"""The long-running processes: worker, relay, collect. Each is built from the settings and runs until told to stop."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Broker
from spheroseg.broker.fallback import FallbackBroker
from spheroseg.broker.table import TableBroker
from spheroseg.database import queue
from spheroseg.database.engine import has_message_queue_tables
from spheroseg.errors import BadSettings
from spheroseg.monitoring.heartbeat import ProcessStatus, heartbeat
from spheroseg.queueing.collect import collect, hand_back_leased
from spheroseg.queueing.relay import Relay, RelayOptions
from spheroseg.queueing.webhooks import Notifier
from spheroseg.resources import open_database, rabbit_broker
from spheroseg.settings import Settings
from spheroseg.worker.child import child_command
from spheroseg.worker.loop import WorkerOptions, work
from spheroseg.worker.status import Status

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker

log = structlog.get_logger()


async def serve_worker(settings: Settings, stopping: asyncio.Event, command: list[str] | None = None) -> None:
    """Work on tasks. With the message queue enabled and no DATABASE_URL, RabbitMQ is all that the worker knows."""
    # Here, as nothing else that imports this module needs NumPy and OpenCV.
    from spheroseg.segmentation.model import DEFAULT_MODEL, find_model

    model = settings.model or DEFAULT_MODEL
    if command is None:
        # The network itself is loaded by the child, which says so where it cannot be.
        find_model(model, settings.model_folders)
    options = WorkerOptions(
        name=f"{os.uname().nodename}-{os.getpid()}",
        command=command or child_command(settings.resolved_storage_url(), model, settings.model_folders),
        slots=settings.worker_concurrency,
        batch_size=settings.worker_batch_size,
        deadline=settings.task_timeout_seconds,
        grace=settings.shutdown_grace_seconds,
        status_file=settings.worker_status_file(),
    )
    status = Status(options.name)
    log.info("worker starts", worker=options.name, slots=options.slots, model=model)
    if not settings.enable_message_queue:
        async with open_database(settings) as engine, heartbeat(engine, "worker", _worker_status(status)):
            await work(TableBroker(engine, lease=settings.lease_seconds), options, stopping, status)
        return
    rabbit = rabbit_broker(settings)
    try:
        if settings.database_url:
            async with (
                open_database(settings) as engine,
                heartbeat(engine, "worker", _worker_status(status, rabbit)),
            ):
                table = TableBroker(engine, lease=settings.lease_seconds)
                await work(FallbackBroker(rabbit, table), options, stopping, status)
        else:
            await work(rabbit, options, stopping, status)
    finally:
        await rabbit.close()


def _worker_status(status: Status, rabbit: "RabbitBroker | None" = None) -> Callable[[], ProcessStatus]:
    def read_status() -> ProcessStatus:
        is_away = "away" in status.slots.values()
        reason = "its queue does not answer" if is_away else None
        detail = {
            "name": status.worker,
            "slots": dict(status.slots),
            "finished": dict(status.finished),
            **_message_counts(rabbit),
        }
        return ProcessStatus("away" if is_away else "ok", reason, detail)

    return read_status


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
            relay = Relay(engine, rabbit, options)
            async with heartbeat(engine, "relay", lambda: _relay_status(relay)):
                await _until(stopping, relay.run())
    finally:
        await rabbit.close()


def _relay_status(relay: Relay) -> ProcessStatus:
    detail = _message_counts(relay.rabbit)
    if relay.away_reason:
        return ProcessStatus("away", relay.away_reason, detail)
    if relay.is_paused:
        return ProcessStatus("paused", "an administrator has paused it", detail)
    return ProcessStatus(detail=detail)


def _message_counts(rabbit: "RabbitBroker | None") -> dict[str, Any]:
    """What this process has seen of RabbitMQ, for whoever asks about all processes."""
    return {"messages": asdict(rabbit.counts)} if rabbit else {}


async def serve_collect(settings: Settings, stopping: asyncio.Event) -> None:
    """Apply what workers report, and tell whoever asked to be told when a batch has finished."""
    settings.refuse_weak_secrets()
    rabbit = rabbit_broker(settings) if settings.enable_message_queue else None

    def read_status() -> ProcessStatus:
        return ProcessStatus(detail=_message_counts(rabbit))

    async with open_database(settings) as engine, heartbeat(engine, "collect", read_status):
        async with engine.begin() as conn:
            if has_message_queue_tables(conn):
                await queue.restore_aside(conn)
            found = 0 if settings.enable_message_queue else await queue.take_back(conn, older_than=0.0)
        if not settings.enable_message_queue:
            found += await hand_back_leased(engine, settings.retry_policy)
        if found:
            log.info("the message queue is switched off: what RabbitMQ had is queued again", messages=found)
        brokers: list[Broker] = [TableBroker(engine, lease=settings.lease_seconds)]
        if rabbit:
            brokers.append(rabbit)
        try:
            await _until(stopping, _collect_and_notify(engine, brokers, settings))
        finally:
            if rabbit:
                await rabbit.close()


async def _collect_and_notify(engine: AsyncEngine, brokers: list[Broker], settings: Settings) -> None:
    notifier = Notifier(engine, settings.secret_key, settings.allows_private_webhooks)
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(engine, brokers, settings.retry_policy))
        group.create_task(notifier.run())


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
