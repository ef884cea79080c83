"""Reporter: makes a slot's reports about its tasks, and publishes them until they are safe."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import structlog

from spheroseg.backoff import Backoff
from spheroseg.broker import Broker, Consumer, Delivery
from spheroseg.errors import BrokerAway
from spheroseg.messages import FailureCause, Message, TaskCompleted, TaskFailed, TaskNew, TaskStarted
from spheroseg.worker.pipe import Answer

log = structlog.get_logger()

REPORT_BACKOFF = Backoff(first=0.2, maximum=10.0)


class Reporter:
    """worker: the name under which this slot reports."""

    def __init__(self, broker: Broker, worker: str) -> None:
        self.broker = broker
        self.worker = worker

    def started(self, task: TaskNew, at: datetime) -> TaskStarted:
        return TaskStarted(task_id=task.task_id, attempt=task.attempt, worker=self.worker, at=at)

    def answered(self, task: TaskNew, started: datetime, answer: Answer) -> TaskCompleted | TaskFailed:
        """Return the report about the child's answer to `task`."""
        if "result" in answer:
            return TaskCompleted(
                task_id=task.task_id,
                attempt=task.attempt,
                worker=self.worker,
                at=datetime.now(UTC),
                started_at=started,
                result=answer["result"],
            )
        failure = answer["failed"]
        return self.failed(task, started, failure["reason"], failure["error"], retryable=failure["retryable"])

    def failed(
        self,
        task: TaskNew,
        started: datetime | None,
        reason: str,
        error: str,
        *,
        cause: FailureCause = "failed",
        retryable: bool = True,
    ) -> TaskFailed:
        return TaskFailed(
            task_id=task.task_id,
            attempt=task.attempt,
            worker=self.worker,
            at=datetime.now(UTC),
            started_at=started,
            reason=reason,
            error=error,
            cause=cause,
            retryable=retryable,
        )

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish the messages, and try again as long as the queue is unreachable: a lost report is lost work."""
        await self._retry(lambda: self.broker.publish(messages), messages)

    async def report_and_settle(
        self, consumer: Consumer, delivery: Delivery, report: Message, *, reject: bool
    ) -> None:
        """Publish `report` and settle `delivery`, and try again as long as the queue is unreachable."""
        await self._retry(lambda: consumer.report_and_settle(delivery, report, reject=reject), [report])

    async def _retry(self, publish: Callable[[], Awaitable[None]], messages: Sequence[Message]) -> None:
        tries = 0
        while True:
            try:
                await publish()
                return
            except BrokerAway as error:
                for message in messages:
                    self.log_for(message).warning("a report waits for the queue", error=str(error))
            tries += 1
            await asyncio.sleep(REPORT_BACKOFF.equal_jitter(tries))

    def log_for(self, message: Message) -> structlog.typing.FilteringBoundLogger:
        """Return the log with the worker, the message and its task bound to it."""
        bound: structlog.typing.FilteringBoundLogger = log.bind(
            worker=self.worker, message_id=message.id, **message.log_fields()
        )
        return bound
