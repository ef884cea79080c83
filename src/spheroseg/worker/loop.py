"""The worker: take a message, let the child do the work under a deadline, report, then settle.

It decides nothing: what an outcome means is for collect. It knows no database.
"""

import asyncio
import json
import os
import random
import signal
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import structlog

from spheroseg.broker import Broker, Consumer, Delivery
from spheroseg.errors import BadMessage, BrokerAway, ModelUnusable
from spheroseg.messages import Message, Queue, TaskCompleted, TaskFailed, TaskNew, TaskStarted, decode_task
from spheroseg.worker.status import Status

log = structlog.get_logger()

_LENGTH = struct.Struct(">I")
FIRST_STARTS = 10
STATUS_SECONDS = 2.0


class ChildDied(Exception):
    """The child ended in the middle of a task. `reason` is a code, the message a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Child:
    """One killable process that does one task at a time; see `worker/child.py` for what it speaks."""

    def __init__(
        self, command: Sequence[str], *, start_timeout: float = 120.0, stderr: IO[str] | int | None = None
    ) -> None:
        self._command = command
        self._start_timeout = start_timeout
        self._stderr = stderr
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it if it is not running.

        Raises ModelUnusable where it says that it cannot load what it needs, ChildDied where it says nothing.
        """
        if self._process and self._process.returncode is None:
            return
        await self.kill()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            # A process group of its own: it is killed whole, and a terminal's Ctrl-C does not reach it.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                answer = await self._receive()
        except ChildDied as death:
            await self.kill()
            raise ChildDied(death.reason, f"{death}, before it was ready") from None
        except TimeoutError:
            await self.kill()
            raise ChildDied("not_started", f"no process was ready within {self._start_timeout:g} s") from None
        if "unusable" in answer:
            await self.kill()
            raise ModelUnusable(answer["unusable"])

    async def perform(self, task: TaskNew) -> dict[str, Any]:
        """The child's answer to `task`, started if need be. Raises ChildDied. When cancelled, kill the child."""
        await self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        body = task.model_dump_json().encode()
        # A broken pipe is told better by what the process ended with.
        with suppress(ConnectionError):
            self._process.stdin.write(_LENGTH.pack(len(body)) + body)
            await self._process.stdin.drain()
        return await self._receive()

    async def kill(self) -> None:
        """End the child and everything it started, now, even in native code."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._process = None

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(_LENGTH.size)
            body = await self._process.stdout.readexactly(*_LENGTH.unpack(head))
        except asyncio.IncompleteReadError:
            raise _death(await self._process.wait()) from None
        answer: dict[str, Any] = json.loads(body)
        return answer


def _death(code: int) -> ChildDied:
    if code < 0:
        name = signal.Signals(-code).name
        cause = "; the usual cause is that the machine ran out of memory" if code == -signal.SIGKILL else ""
        return ChildDied("killed", f"the process that did the work was killed by {name}{cause}")
    return ChildDied("crashed", f"the process that did the work ended with exit code {code}")


@dataclass(frozen=True)
class WorkerOptions:
    """name: how reports and failures call this worker. deadline, grace: seconds.

    deadline: hard limit for one task. grace: how long a stopping worker lets a running task go on before it hands
    it back.
    """

    name: str
    command: Sequence[str]
    slots: int = 1
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
    """One child and the one message that it works on."""

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

    async def run(self) -> None:
        try:
            await self._first_start()
            async with self.broker.consume(Queue.TASKS, prefetch=1) as consumer:
                while not self.stopping.is_set():
                    for delivery in await self._take(consumer):
                        await self._handle(consumer, delivery)
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
            self._says("busy" if deliveries else "idle")
            return deliveries
        except BrokerAway as error:
            self._says("away")
            log.warning("worker waits for the queue", worker=self.name, error=str(error))
            await _until(self.stopping, 1.0 + random.random())  # noqa: S311 (jitter)
            return []

    async def _handle(self, consumer: Consumer, delivery: Delivery) -> None:
        if delivery.revoked.is_set():
            # Cancelled while it waited.
            await self._settle(consumer.ack, delivery)
            return
        try:
            task = decode_task(delivery.message)
        except BadMessage as error:
            self._about_message(delivery.message).error("unreadable task rejected", error=str(error))
            await self._settle(consumer.reject, delivery)
            return
        bound = log.bind(worker=self.name, task_id=str(task.task_id), attempt=task.attempt)
        if delivery.redelivered:
            # Somebody had it and vanished. Whether it is tried again is for collect, which can count.
            report: TaskCompleted | TaskFailed = self._failed(
                task, None, "worker_lost", "the worker vanished in the middle of it", cause="lost"
            )
        else:
            started = datetime.now(UTC)
            await self._report(TaskStarted(**self._about(task), at=started).message())
            bound.info("started")
            outcome = await self._perform(task, started, delivery)
            if outcome is None:
                bound.info("stopped: the task is no longer ours")
                await self._settle(consumer.ack, delivery)
                return
            report = outcome
        await self._report(report.message())
        self.status.finished[getattr(report, "reason", "completed")] += 1
        bound.info("finished", kind=report.kind, reason=getattr(report, "reason", None))
        failed = isinstance(report, TaskFailed) and report.cause != "handed_back"
        await self._settle(consumer.reject if failed else consumer.ack, delivery)

    async def _perform(
        self, task: TaskNew, started: datetime, delivery: Delivery
    ) -> TaskCompleted | TaskFailed | None:
        """The outcome of `task`; None where the message was revoked meanwhile."""
        performing = asyncio.create_task(self.child.perform(task))
        revoked = asyncio.create_task(delivery.revoked.wait())
        patience = asyncio.create_task(self._patience())
        try:
            await asyncio.wait(
                {performing, revoked, patience},
                timeout=self.options.deadline,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if performing.done():
                return self._answered(task, started, performing.result())
            await self.child.kill()
            if revoked.done():
                return None
            if patience.done():
                return self._failed(task, started, "handed_back", "the worker was stopped", cause="handed_back")
            return self._failed(
                task, started, "timeout", f"not finished within {self.options.deadline:g} s, and stopped"
            )
        except ChildDied as death:
            await self.child.kill()
            return self._failed(task, started, death.reason, str(death))
        except asyncio.CancelledError:
            await self.child.kill()
            raise
        finally:
            for waiting in (performing, revoked, patience):
                waiting.cancel()
            await asyncio.gather(performing, revoked, patience, return_exceptions=True)

    async def _patience(self) -> None:
        await self.stopping.wait()
        await asyncio.sleep(self.options.grace)

    def _about_message(self, message: Message) -> Any:
        return log.bind(worker=self.name, message_id=message.id, **message.about())

    def _about(self, task: TaskNew) -> dict[str, Any]:
        return {"task_id": task.task_id, "attempt": task.attempt, "worker": self.name}

    def _answered(self, task: TaskNew, started: datetime, answer: dict[str, Any]) -> TaskCompleted | TaskFailed:
        if "result" in answer:
            return TaskCompleted(
                **self._about(task), at=datetime.now(UTC), started_at=started, result=answer["result"]
            )
        failure = answer["failed"]
        return self._failed(task, started, failure["reason"], failure["error"], retryable=failure["retryable"])

    def _failed(self, task: TaskNew, started: datetime | None, reason: str, error: str, **facts: Any) -> TaskFailed:
        return TaskFailed(
            **self._about(task), at=datetime.now(UTC), started_at=started, reason=reason, error=error, **facts
        )

    async def _report(self, message: Message) -> None:
        """Publish, however long the queue is away: an outcome that is not reported is lost work."""
        pause = 0.2
        while True:
            try:
                await self.broker.publish([message])
                return
            except BrokerAway as error:
                self._about_message(message).warning("report waits for the queue", error=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            pause = min(10.0, pause * 2)

    async def _settle(self, settle: Any, delivery: Delivery) -> None:
        # Left unsettled it comes again, and its report is recognised as a duplicate.
        try:
            await settle([delivery])
        except BrokerAway as error:
            self._about_message(delivery.message).warning("not settled", error=str(error))


async def _until(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
