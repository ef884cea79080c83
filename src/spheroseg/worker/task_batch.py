"""TaskBatch: the messages that a slot works on together, most often one.

The child does their tasks as one request. Each task is reported and settled on its own, whatever becomes of the
others. If the child dies, the tasks without an answer are done one at a time, so that only the task that killed it
fails.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from spheroseg.broker import Consumer, Delivery
from spheroseg.errors import BadMessage
from spheroseg.messages import TaskCompleted, TaskFailed, TaskNew, decode_task
from spheroseg.settings import SILENCE_MARGIN_SECONDS
from spheroseg.worker.child import Child, ChildDied
from spheroseg.worker.pipe import Answer
from spheroseg.worker.reports import Reporter
from spheroseg.worker.request import Assignment, Interruption, Limits, Request
from spheroseg.worker.settlement import Settlement
from spheroseg.worker.status import WorkerStatus

log = structlog.get_logger()

# After a crash, hand the remaining tasks back once the batch has used this many deadlines: another slot may be free.
MAX_DEADLINES_PER_BATCH = 3
# Well before collect gives up on a worker that it knows through RabbitMQ alone.
RENEW_SECONDS = SILENCE_MARGIN_SECONDS / 2

NO_TIME_LEFT = Interruption("handed_back", "the worker had no time left for it", "handed_back")

# An assignment that has ended, with its report, or None if its task was revoked.
ReportedAssignment = tuple[Assignment, TaskCompleted | TaskFailed | None]


@dataclass(eq=False)
class TaskBatch:
    """deliveries: the messages, at least one. limits: of each request to the child."""

    consumer: Consumer
    deliveries: Sequence[Delivery]
    child: Child
    reporter: Reporter
    status: WorkerStatus
    limits: Limits
    _settlement: Settlement = field(init=False)
    # None ends the queue.
    _outcomes: asyncio.Queue[ReportedAssignment | None] = field(default_factory=asyncio.Queue, init=False)

    def __post_init__(self) -> None:
        self._settlement = Settlement(self.consumer, self.deliveries, self.reporter)

    async def work(self) -> None:
        """Do the tasks, report each and settle its message. If cancelled, kill the child."""
        assignments = await self._accept_deliveries()
        if assignments:
            await self._report_started(assignments)
            await self._perform_and_report(assignments)
        await self._settlement.settle_last()

    async def _accept_deliveries(self) -> list[Assignment]:
        """Return the tasks to do, by descending priority. Settle the messages that leave nothing to do."""
        by_priority = sorted(self.deliveries, key=lambda delivery: -delivery.message.priority)
        accepted = [(delivery, task) for delivery in by_priority if (task := await self._accept(delivery))]
        started = datetime.now(UTC)
        return [Assignment(delivery, task, started) for delivery, task in accepted]

    async def _accept(self, delivery: Delivery) -> TaskNew | None:
        if delivery.revoked.is_set():
            # Cancelled while it waited.
            await self._settlement.settle(delivery, reject=False)
            return None
        try:
            task = decode_task(delivery.message)
        except BadMessage as error:
            self.reporter.log_for(delivery.message).error("unreadable task rejected", error=str(error))
            await self._settlement.settle(delivery, reject=True)
            return None
        if delivery.redelivered:
            # An earlier worker vanished while it had the task. Collect counts that and decides what happens next.
            report = self.reporter.failed(
                task, None, "worker_lost", "the worker vanished in the middle of it", cause="lost"
            )
            await self._report_outcome(Assignment(delivery, task, datetime.now(UTC)), report)
            return None
        return task

    async def _report_started(self, assignments: Sequence[Assignment]) -> None:
        await self._publish_started(assignments)
        for assignment in assignments:
            self._log_for(assignment).info("started", together=len(assignments))

    async def _publish_started(self, assignments: Sequence[Assignment]) -> None:
        await self.reporter.publish(
            [self.reporter.started(assignment.task, assignment.started).message() for assignment in assignments]
        )

    async def _perform_and_report(self, assignments: Sequence[Assignment]) -> None:
        # Report concurrently: while the queue is unreachable, the child goes on and its deadline stays its own.
        reporting = asyncio.create_task(self._report_outcomes())
        try:
            await self._perform(assignments)
            self._outcomes.put_nowait(None)
            await reporting
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _perform(self, assignments: Sequence[Assignment]) -> None:
        """Do all tasks as one request. After an interruption, do the unanswered ones one at a time."""
        began = _now()
        unanswered, interruption = await self._request(assignments)
        if interruption and (len(assignments) == 1 or interruption.cause == "handed_back"):
            self._fail(unanswered, interruption)
            return
        if interruption and unanswered:
            log.warning(
                "a request of several tasks was interrupted: the unanswered tasks are done one at a time",
                worker=self.reporter.worker,
                unanswered=len(unanswered),
                error=interruption.sentence,
            )
        await self._perform_one_by_one(unanswered, began)

    async def _perform_one_by_one(self, remaining: list[Assignment], began: float) -> None:
        """Do each of the tasks as a request of its own. began: when the batch began to work (loop time)."""
        renewed, seconds_spent = began, _now() - began
        while remaining:
            if self.limits.stopping.is_set() or seconds_spent > MAX_DEADLINES_PER_BATCH * self.limits.deadline:
                self._fail(remaining, NO_TIME_LEFT)
                return
            if _now() - renewed > RENEW_SECONDS:
                renewed = _now()
                await self._publish_started(remaining)
            with suppress(ChildDied):
                # Not counted against the deadline: this task is not to blame that the child must be started again.
                await self.child.start()
            assignment = replace(remaining.pop(0), started=datetime.now(UTC))
            request_began = _now()
            unanswered, interruption = await self._request([assignment])
            if interruption:
                self._fail(unanswered, interruption)
            seconds_spent += _now() - request_began

    async def _request(self, assignments: Sequence[Assignment]) -> tuple[list[Assignment], Interruption | None]:
        """Have the child do the tasks together. Return those without an answer, and why the request ended early."""
        request = Request(self.child, assignments, self.limits, self._on_answer)
        interruption = await request.perform()
        return request.unanswered, interruption

    def _on_answer(self, assignment: Assignment, answer: Answer | None) -> None:
        report = None if answer is None else self.reporter.answered(assignment.task, assignment.started, answer)
        self._outcomes.put_nowait((assignment, report))

    def _fail(self, assignments: Sequence[Assignment], interruption: Interruption) -> None:
        for assignment in assignments:
            report = None
            if not assignment.delivery.revoked.is_set():
                report = self.reporter.failed(
                    assignment.task,
                    assignment.started,
                    interruption.reason,
                    interruption.sentence,
                    cause=interruption.cause,
                )
            self._outcomes.put_nowait((assignment, report))

    async def _report_outcomes(self) -> None:
        while outcome := await self._outcomes.get():
            await self._report_outcome(*outcome)

    async def _report_outcome(self, assignment: Assignment, report: TaskCompleted | TaskFailed | None) -> None:
        """Publish the report and settle the message. Without a report, only acknowledge the message."""
        if report is None:
            self._log_for(assignment).info("stopped: the task is no longer ours")
            await self._settlement.settle(assignment.delivery, reject=False)
            return
        reason = report.reason if isinstance(report, TaskFailed) else None
        reject = isinstance(report, TaskFailed) and report.cause != "handed_back"
        await self._settlement.settle(assignment.delivery, reject=reject, report=report.message())
        self.status.finished[reason or "completed"] += 1
        self._log_for(assignment).info("finished", kind=report.kind, reason=reason)

    def _log_for(self, assignment: Assignment) -> structlog.typing.FilteringBoundLogger:
        task = assignment.task
        bound: structlog.typing.FilteringBoundLogger = log.bind(
            worker=self.reporter.worker, task_id=str(task.task_id), attempt=task.attempt
        )
        return bound


def _now() -> float:
    return asyncio.get_running_loop().time()
