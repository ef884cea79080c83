"""A lot: the messages that a slot has in hand together, most often one.

The child does them as one request. Each is reported and settled alone, whatever becomes of the others; who is left
without an answer because the child died is done again alone, so that only who is to blame fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from spheroseg.broker import Consumer, Delivery
from spheroseg.errors import BadMessage, BrokerAway
from spheroseg.messages import TaskCompleted, TaskFailed, TaskNew, decode_task
from spheroseg.settings import SILENCE_MARGIN_SECONDS
from spheroseg.worker.child import Child, ChildDied
from spheroseg.worker.reports import Reporter
from spheroseg.worker.status import Status

log = structlog.get_logger()

# What the death of a child has left over is handed back when it has cost so many deadlines: others may have a slot.
MOST_DEADLINES = 3
# Well before collect gives up a worker of which it knows through RabbitMQ alone.
RENEW_SECONDS = SILENCE_MARGIN_SECONDS / 2

Settle = Callable[[Sequence[Delivery]], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """deadline: seconds for one request to the child. grace: seconds that a request may go on after `stopping`."""

    deadline: float
    grace: float
    stopping: asyncio.Event


@dataclass(frozen=True, eq=False)
class Job:
    delivery: Delivery
    task: TaskNew
    started: datetime


@dataclass(frozen=True)
class Ending:
    """Why a request ended without an answer for each of its tasks."""

    reason: str
    sentence: str
    cause: Literal["failed", "handed_back"] = "failed"


@dataclass(eq=False)
class Lot:
    consumer: Consumer
    deliveries: Sequence[Delivery]
    child: Child
    reporter: Reporter
    status: Status
    limits: Limits
    _outcomes: asyncio.Queue[tuple[Job, TaskCompleted | TaskFailed | None] | None] = field(
        default_factory=asyncio.Queue, init=False
    )
    _settle_first: Settle | None = field(default=None, init=False)

    async def work(self) -> None:
        """Until each message is reported and settled. When cancelled, kill the child."""
        tasks = [
            (delivery, task)
            for delivery in sorted(self.deliveries, key=lambda delivery: -delivery.message.priority)
            if (task := await self._accept(delivery))
        ]
        started = datetime.now(UTC)
        if jobs := [Job(delivery, task, started) for delivery, task in tasks]:
            await self._do(jobs)
        if self._settle_first:
            await self._settle_now(self._settle_first, self.deliveries[0])

    async def _accept(self, delivery: Delivery) -> TaskNew | None:
        """The task of a message, if there is something to do for it; otherwise it is settled."""
        if delivery.revoked.is_set():
            # Cancelled while it waited.
            await self._settle(self.consumer.ack, delivery)
            return None
        try:
            task = decode_task(delivery.message)
        except BadMessage as error:
            self.reporter.about(delivery.message).error("unreadable task rejected", error=str(error))
            await self._settle(self.consumer.reject, delivery)
            return None
        if delivery.redelivered:
            # Somebody had it and vanished. Whether it is tried again is for collect, which can count.
            lost = "the worker vanished in the middle of it"
            report = self.reporter.failed(task, None, "worker_lost", lost, cause="lost")
            await self._report_and_settle(Job(delivery, task, datetime.now(UTC)), report)
            return None
        return task

    async def _do(self, jobs: Sequence[Job]) -> None:
        await self._say_started(jobs)
        for job in jobs:
            self._about(job).info("started", together=len(jobs))
        # Beside the work: while the queue is away, the child goes on and its deadline is its own.
        concluding = asyncio.create_task(self._conclude_all())
        try:
            await self._perform(jobs)
            self._outcomes.put_nowait(None)
            await concluding
        finally:
            concluding.cancel()
            await asyncio.gather(concluding, return_exceptions=True)

    async def _perform(self, jobs: Sequence[Job]) -> None:
        now = asyncio.get_running_loop().time
        began = renewed = now()
        left = list(jobs)
        ending = await self._request(left)
        spent = now() - began
        if ending and (len(jobs) == 1 or ending.cause == "handed_back"):
            self._end(left, ending)
            return
        if ending and left:
            log.warning(
                "a request of several tasks has ended early: those left are done one at a time",
                worker=self.reporter.worker,
                left=len(left),
                error=ending.sentence,
            )
        while left:
            if self.limits.stopping.is_set() or spent > MOST_DEADLINES * self.limits.deadline:
                self._end(left, Ending("handed_back", "the worker had no time left for it", "handed_back"))
                return
            if now() - renewed > RENEW_SECONDS:
                renewed = now()
                await self._say_started(left)
            with suppress(ChildDied):
                # Whose child died for others has all of the deadline for itself.
                await self.child.start()
            alone = [replace(left.pop(0), started=datetime.now(UTC))]
            began = now()
            if ending := await self._request(alone):
                self._end(alone, ending)
            spent += now() - began

    async def _request(self, left: list[Job]) -> Ending | None:
        """Have the child do `left` as one request; taken off the list is who has an answer or is no longer ours."""
        jobs = tuple(left)
        enough = asyncio.Event()

        def hear(number: int, answer: dict[str, Any]) -> None:
            job = jobs[number]
            if job in left:
                left.remove(job)
                self._outcomes.put_nowait((job, self.reporter.answered(job.task, job.started, answer)))
            if not left:
                enough.set()

        until = asyncio.get_running_loop().time() + self.limits.deadline
        performing = asyncio.create_task(self.child.perform_all([job.task for job in jobs], hear))
        patience = asyncio.create_task(self._patience())
        # Without an answer the child may still be busy with what was revoked.
        heard = asyncio.create_task(enough.wait())
        revoked: dict[asyncio.Task[Any], Job] = {
            asyncio.create_task(job.delivery.revoked.wait()): job for job in jobs
        }
        try:
            while True:
                await asyncio.wait(
                    {performing, patience, heard, *revoked},
                    timeout=until - asyncio.get_running_loop().time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if performing.done():
                    performing.result()
                    return None
                for waiting in [waiting for waiting in revoked if waiting.done()]:
                    if (job := revoked.pop(waiting)) in left:
                        left.remove(job)
                        self._outcomes.put_nowait((job, None))
                if left and not patience.done() and asyncio.get_running_loop().time() < until:
                    # The others are in the middle of it: what the child says of the revoked is not heard.
                    continue
                await self.child.kill()
                if not left:
                    return None
                if patience.done():
                    return Ending("handed_back", "the worker was stopped", "handed_back")
                return Ending("timeout", f"not finished within {self.limits.deadline:g} s, and stopped")
        except ChildDied as death:
            await self.child.kill()
            return Ending(death.reason, str(death))
        except asyncio.CancelledError:
            await self.child.kill()
            raise
        finally:
            for waiting in (performing, patience, heard, *revoked):
                waiting.cancel()
            await asyncio.gather(performing, patience, heard, *revoked, return_exceptions=True)

    async def _patience(self) -> None:
        await self.limits.stopping.wait()
        await asyncio.sleep(self.limits.grace)

    def _end(self, jobs: Sequence[Job], ending: Ending) -> None:
        for job in jobs:
            report = None
            if not job.delivery.revoked.is_set():
                report = self.reporter.failed(
                    job.task, job.started, ending.reason, ending.sentence, cause=ending.cause
                )
            self._outcomes.put_nowait((job, report))

    async def _say_started(self, jobs: Sequence[Job]) -> None:
        await self.reporter.publish([self.reporter.started(job.task, job.started).message() for job in jobs])

    async def _conclude_all(self) -> None:
        while outcome := await self._outcomes.get():
            await self._report_and_settle(*outcome)

    async def _report_and_settle(self, job: Job, report: TaskCompleted | TaskFailed | None) -> None:
        """Report and settle. Without a report: the message was revoked."""
        if report is None:
            self._about(job).info("stopped: the task is no longer ours")
            await self._settle(self.consumer.ack, job.delivery)
            return
        failed = isinstance(report, TaskFailed) and report.cause != "handed_back"
        if self._comes_last(job.delivery):
            await self.reporter.publish([report.message()])
            self._settle_first = self.consumer.reject if failed else self.consumer.ack
        else:
            await self.reporter.report_and_settle(self.consumer, job.delivery, report.message(), reject=failed)
        reason = getattr(report, "reason", None)
        self.status.finished[reason or "completed"] += 1
        self._about(job).info("finished", kind=report.kind, reason=reason)

    async def _settle(self, settle: Settle, delivery: Delivery) -> None:
        if self._comes_last(delivery):
            self._settle_first = settle
        else:
            await self._settle_now(settle, delivery)

    def _comes_last(self, delivery: Delivery) -> bool:
        # RabbitMQ sends the next message as soon as the first is settled; it would wait here for all the others.
        return len(self.deliveries) > 1 and delivery is self.deliveries[0]

    async def _settle_now(self, settle: Settle, delivery: Delivery) -> None:
        # Left unsettled it comes again, and its report is recognised as a duplicate.
        try:
            await settle([delivery])
        except BrokerAway as error:
            self.reporter.about(delivery.message).warning("not settled", error=str(error))

    def _about(self, job: Job) -> Any:
        return log.bind(worker=self.reporter.worker, task_id=str(job.task.task_id), attempt=job.task.attempt)
