"""The worker: slots that take messages and work on them, and a file that says how they are."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from spheroseg.broker import Broker, Consumer, Delivery
from spheroseg.errors import BrokerAway, ModelUnusable
from spheroseg.messages import Queue
from spheroseg.worker.child import Child, ChildDied
from spheroseg.worker.reports import Reporter
from spheroseg.worker.status import Status
from spheroseg.worker.task_batch import Limits, Lot

log = structlog.get_logger()

FIRST_STARTS = 10
STATUS_SECONDS = 2.0
# How long a slot that may take several tasks waits for more.
GATHER_SECONDS = 0.01


@dataclass(frozen=True)
class WorkerOptions:
    """name: how reports and failures call this worker. deadline, grace: seconds.

    batch_size: tasks that a slot may take together and do as one inference. deadline: hard limit for one request to
    the child, of one task or several. grace: how long a stopping worker lets a running task go on before it hands it
    back.
    """

    name: str
    command: Sequence[str]
    slots: int = 1
    batch_size: int = 1
    deadline: float = 300.0
    grace: float = 30.0
    child_stderr: IO[str] | int | None = None
    status_file: Path | None = None


async def work(broker: Broker, options: WorkerOptions, stopping: asyncio.Event, status: Status | None = None) -> None:
    """Run all slots until `stopping` is set and every running task is finished or handed back.

    status: where the slots say what they do, for who wants to look.
    """
    status = status or Status(options.name)
    async with asyncio.TaskGroup() as group:
        for number in range(options.slots):
            name = f"{options.name}/{number}"
            group.create_task(Slot(broker, options, name, stopping, status).run())
        if options.status_file:
            group.create_task(_keep_status(status, options.status_file, stopping))


async def _keep_status(status: Status, path: Path, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            status.write(path)
        except OSError as error:
            log.warning("the status file cannot be written", path=str(path), error=str(error))
        await _until(stopping, STATUS_SECONDS)


class Slot:
    """One child, and the messages that it works on: one, or as many as it may do together."""

    def __init__(
        self, broker: Broker, options: WorkerOptions, name: str, stopping: asyncio.Event, status: Status
    ) -> None:
        self.status = status
        self._says("starting", name)
        self.broker = broker
        self.options = options
        self.name = name
        self.stopping = stopping
        self.child = Child(options.command, stderr=options.child_stderr)
        self.reporter = Reporter(broker, name)
        self.limits = Limits(options.deadline, options.grace, stopping)

    async def run(self) -> None:
        try:
            await self._first_start()
            async with self.broker.consume(Queue.TASKS, prefetch=1) as consumer:
                while not self.stopping.is_set():
                    if deliveries := await self._take(consumer):
                        await Lot(consumer, deliveries, self.child, self.reporter, self.status, self.limits).work()
        finally:
            await self.child.kill()

    def _says(self, state: str, name: str | None = None) -> None:
        self.status.slots[name or self.name] = state

    async def _first_start(self) -> None:
        """Before the first message: what cannot work must not take work."""
        for attempt in range(1, FIRST_STARTS + 1):
            try:
                await self.child.start()
                return
            except ChildDied as death:
                log.warning("child did not start", worker=self.name, error=str(death))
                # What is killed from outside may live the next time; what ends by itself will do so again.
                if attempt == FIRST_STARTS or death.reason == "crashed":
                    raise ModelUnusable(f"the worker's child process does not start: {death}") from death
            await _until(self.stopping, min(5.0, 0.2 * 2.0**attempt))
            if self.stopping.is_set():
                return

    async def _take(self, consumer: Consumer) -> list[Delivery]:
        try:
            deliveries = await consumer.take(1, wait=0.5)
            if deliveries and self.options.batch_size > 1:
                deliveries += await consumer.take_more(self.options.batch_size - 1, GATHER_SECONDS)
            self._says("busy" if deliveries else "idle")
            return deliveries
        except BrokerAway as error:
            self._says("away")
            log.warning("worker waits for the queue", worker=self.name, error=str(error))
            await _until(self.stopping, 1.0 + random.random())  # noqa: S311 (jitter)
            return []


async def _until(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
