"""Puts the long-running processes (worker, relay, collect) together from the settings and runs them.

Each function returns once `stopping` is set and its work has ended in order.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Broker
from spheroseg.broker.fallback import FallbackBroker
from spheroseg.broker.table import TableBroker
from spheroseg.database.quarantine import release_quarantine
from spheroseg.errors import BadSettings
from spheroseg.monitoring.heartbeat import ProcessStatus, heartbeat
from spheroseg.queueing.collect import collect
from spheroseg.queueing.relay import Relay, RelayOptions
from spheroseg.queueing.switch_off import take_back_from_rabbitmq
from spheroseg.queueing.webhooks import Notifier
from spheroseg.resources import open_database, open_rabbit
from spheroseg.settings import Settings
from spheroseg.worker.child import child_command
from spheroseg.worker.loop import WorkerOptions, work
from spheroseg.worker.status import WorkerStatus
from spheroseg.worker.stopping import run_until

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker

log = structlog.get_logger()


async def serve_worker(settings: Settings, stopping: asyncio.Event, command: Sequence[str] | None = None) -> None:
    """Run a worker. command: starts the child of a slot, by default the one that segments.

    If the message queue is enabled and DATABASE_URL is not set, the worker uses RabbitMQ alone. Raises ModelUnusable
    if the model of the settings is unknown.
    """
    options = _worker_options(settings, command)
    status = WorkerStatus(options.name)
    async with open_rabbit(settings) as rabbit:
        if rabbit and not settings.database_url:
            await work(rabbit, options, stopping, status)
            return
        async with (
            open_database(settings) as engine,
            heartbeat(engine, "worker", lambda: _worker_status(status, rabbit)),
        ):
            table = TableBroker(engine, lease=settings.lease_seconds)
            broker: Broker = FallbackBroker(rabbit, table) if rabbit else table
            await work(broker, options, stopping, status)


def _worker_options(settings: Settings, command: Sequence[str] | None) -> WorkerOptions:
    # Imported here, because nothing else that imports this module needs NumPy and OpenCV.
    from spheroseg.segmentation.model import DEFAULT_MODEL, find_model

    model = settings.model or DEFAULT_MODEL
    if command is None:
        # Only looks for the model. The child loads it, and says so if it cannot.
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
    log.info("worker starts", worker=options.name, slots=options.slots, model=model)
    return options


def _worker_status(status: WorkerStatus, rabbit: "RabbitBroker | None") -> ProcessStatus:
    detail = {
        "name": status.worker,
        "slots": dict(status.slots),
        "finished": dict(status.finished),
        **_message_counts(rabbit),
    }
    if "away" in status.slots.values():
        return ProcessStatus("away", "its queue does not answer", detail)
    return ProcessStatus(detail=detail)


async def serve_relay(settings: Settings, stopping: asyncio.Event) -> None:
    """Move messages from the database to RabbitMQ. Raises BadSettings if the message queue is switched off."""
    async with open_rabbit(settings) as rabbit:
        if rabbit is None:
            raise BadSettings(
                "the relay needs ENABLE_MESSAGE_QUEUE=true: without it workers take tasks from the database"
            )
        away = settings.broker_away_seconds
        options = RelayOptions(window=settings.relay_window, give_up_after=away, lost_after=max(5.0, away / 2))
        async with open_database(settings) as engine:
            relay = Relay(engine, rabbit, options)
            async with heartbeat(engine, "relay", lambda: _relay_status(relay)):
                await run_until(stopping, relay.run())


def _relay_status(relay: Relay) -> ProcessStatus:
    detail = _message_counts(relay.rabbit)
    if relay.unreachable_reason:
        return ProcessStatus("away", relay.unreachable_reason, detail)
    if relay.is_paused:
        return ProcessStatus("paused", "an administrator has paused it", detail)
    return ProcessStatus(detail=detail)


async def serve_collect(settings: Settings, stopping: asyncio.Event) -> None:
    """Apply the reports of the workers, and call the webhooks of finished batches.

    Raises BadSettings if a secret is too weak.
    """
    settings.refuse_weak_secrets()
    async with (
        open_rabbit(settings) as rabbit,
        open_database(settings) as engine,
        heartbeat(engine, "collect", lambda: ProcessStatus(detail=_message_counts(rabbit))),
    ):
        async with engine.begin() as conn:
            await release_quarantine(conn)
        if rabbit is None:
            await take_back_from_rabbitmq(engine, settings.retry_policy)
        brokers: list[Broker] = [TableBroker(engine, lease=settings.lease_seconds)]
        if rabbit:
            brokers.append(rabbit)
        await run_until(stopping, _collect_and_notify(engine, brokers, settings))


async def _collect_and_notify(engine: AsyncEngine, brokers: Sequence[Broker], settings: Settings) -> None:
    notifier = Notifier(engine, settings.secret_key, settings.allows_private_webhooks)
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(engine, brokers, settings.retry_policy))
        group.create_task(notifier.run())


def _message_counts(rabbit: "RabbitBroker | None") -> Mapping[str, Mapping[str, int]]:
    """Return the detail of a heartbeat with the messages that this process has exchanged with RabbitMQ."""
    return {"messages": asdict(rabbit.counts)} if rabbit else {}
