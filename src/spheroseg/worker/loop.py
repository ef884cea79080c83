"""The worker: slots that take messages and do their tasks, and a file with the status of the slots."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from spheroseg.backoff import Backoff
from spheroseg.broker import Broker, Consumer, Delivery
from spheroseg.errors import BrokerAway, ModelUnusable
from spheroseg.messages import Queue
from spheroseg.worker.child import Child, ChildDied
from spheroseg.worker.reports import Reporter
from spheroseg.worker.request import Limits
from spheroseg.worker.status import SlotState, WorkerStatus
from spheroseg.worker.stopping import run_until
from spheroseg.worker.task_batch import TaskBatch

log = structlog.get_logger()

MAX_FIRST_STARTS = 10
START_AGAIN = Backoff(first=0.4, maximum=5.0)
STATUS_SECONDS = 2.0
# How long a slot without a message waits for one before it checks whether to stop.
TAKE_SECONDS = 0.5
# How long a slot with a message waits for more, if it may take several.
TAKE_MORE_SECONDS = 0.01


@dataclass(frozen=True)
class WorkerOptions:
    """name: the name of this worker in reports and failures. command: starts the child of a slot.

    slots: how many tasks or batches are done at the same time. batch_size: the largest number of tasks that a slot
    takes and does together. deadline: the hard limit in seconds for one request to the child, of one task or several.
    grace: how many seconds a stopping worker lets its running tasks go on before it hands them back.
    """

    name: str
    command: Sequence[str]
    slots: int = 1
    batch_size: int = 1
    deadline: float = 300.0
    grace: float = 30.0
    child_stderr: IO[str] | int | None = None
    status_file: Path | None = None


async def work(
    broker: Broker, options: WorkerOptions, stopping: asyncio.Event, status: WorkerStatus | None = None
) -> None:
    """Run all slots until `stopping` is set and every running task is finished or handed back.

    status: kept up to date by the slots. Raises an ExceptionGroup with ModelUnusable if a child cannot be started.
    """
    status = status or WorkerStatus(options.name)
    async with asyncio.TaskGroup() as group:
        for number in range(options.slots):
            name = f"{options.name}/{number}"
            group.create_task(Slot(broker, options, name, stopping, status).run())
        if options.status_file:
            group.create_task(_write_status(status, options.status_file, stopping))


async def _write_status(status: WorkerStatus, path: Path, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            status.write(path)
        except OSError as error:
            log.warning("the status file cannot be written", path=str(path), error=str(error))
        await run_until(stopping, asyncio.sleep(STATUS_SECONDS))


class Slot:
    """A child process, and the loop that takes messages and has the child do their tasks."""

    def __init__(
        self, broker: Broker, options: WorkerOptions, name: str, stopping: asyncio.Event, status: WorkerStatus
    ) -> None:
        self.name = name
        self.status = status
        self.broker = broker
        self.options = options
        self.stopping = stopping
        self.child = Child(options.command, stderr=options.child_stderr)
        self.reporter = Reporter(broker, name)
        self.limits = Limits(options.deadline, options.grace, stopping)
        self._set_state("starting")

    async def run(self) -> None:
        try:
            await self._start_child()
            async with self.broker.consume(Queue.TASKS, prefetch=1) as consumer:
                while not self.stopping.is_set():
                    if deliveries := await self._take(consumer):
                        await self._batch(consumer, deliveries).work()
        finally:
            await self.child.kill()

    def _batch(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> TaskBatch:
        return TaskBatch(consumer, deliveries, self.child, self.reporter, self.status, self.limits)

    def _set_state(self, state: SlotState) -> None:
        self.status.slots[self.name] = state

    async def _start_child(self) -> None:
        """Start the child before the first message is taken, so that a slot that cannot work takes none."""
        for attempt in range(1, MAX_FIRST_STARTS + 1):
            try:
                await self.child.start()
                return
            except ChildDied as death:
                log.warning("child did not start", worker=self.name, error=str(death))
                # A child that was killed from outside may live the next time. One that ends by itself will not.
                if attempt == MAX_FIRST_STARTS or death.reason == "crashed":
                    raise ModelUnusable(f"the worker's child process does not start: {death}") from death
            await run_until(self.stopping, asyncio.sleep(START_AGAIN.ceiling(attempt)))
            if self.stopping.is_set():
                return

    async def _take(self, consumer: Consumer) -> list[Delivery]:
        try:
            deliveries = await consumer.take(1, wait=TAKE_SECONDS)
            if deliveries and self.options.batch_size > 1:
                deliveries += await consumer.take_more(self.options.batch_size - 1, TAKE_MORE_SECONDS)
            self._set_state("busy" if deliveries else "idle")
            return deliveries
        except BrokerAway as error:
            self._set_state("away")
            log.warning("worker waits for the queue", worker=self.name, error=str(error))
            seconds = random.uniform(1.0, 2.0)  # noqa: S311 (jitter)
            await run_until(self.stopping, asyncio.sleep(seconds))
            return []
