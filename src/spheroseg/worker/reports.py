"""What a slot says of its tasks, and that it is heard."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from spheroseg.broker import Broker, Consumer, Delivery
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, TaskCompleted, TaskFailed, TaskNew, TaskStarted

log = structlog.get_logger()


class Reporter:
    def __init__(self, broker: Broker, worker: str) -> None:
        self.broker = broker
        self.worker = worker

    def started(self, task: TaskNew, at: datetime) -> TaskStarted:
        return TaskStarted(**self._about(task), at=at)

    def answered(self, task: TaskNew, started: datetime, answer: dict[str, Any]) -> TaskCompleted | TaskFailed:
        """What the child's answer to `task` means."""
        if "result" in answer:
            return TaskCompleted(
                **self._about(task), at=datetime.now(UTC), started_at=started, result=answer["result"]
            )
        failure = answer["failed"]
        return self.failed(task, started, failure["reason"], failure["error"], retryable=failure["retryable"])

    def failed(self, task: TaskNew, started: datetime | None, reason: str, error: str, **facts: Any) -> TaskFailed:
        return TaskFailed(
            **self._about(task), at=datetime.now(UTC), started_at=started, reason=reason, error=error, **facts
        )

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish, however long the queue is away: an outcome that is not reported is lost work."""
        await self._insist(lambda: self.broker.publish(messages), messages)

    async def report_and_settle(
        self, consumer: Consumer, delivery: Delivery, report: Message, *, reject: bool
    ) -> None:
        """Publish `report` as `publish` does, and settle what it is about."""
        await self._insist(lambda: consumer.report_and_settle(delivery, report, reject=reject), [report])

    async def _insist(self, publish: Callable[[], Awaitable[None]], messages: Sequence[Message]) -> None:
        pause = 0.2
        while True:
            try:
                await publish()
                return
            except BrokerAway as error:
                for message in messages:
                    self.about(message).warning("report waits for the queue", error=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            pause = min(10.0, pause * 2)

    def about(self, message: Message) -> Any:
        """The log, bound to whose message it is."""
        return log.bind(worker=self.worker, message_id=message.id, **message.about())

    def _about(self, task: TaskNew) -> dict[str, Any]:
        return {"task_id": task.task_id, "attempt": task.attempt, "worker": self.worker}
