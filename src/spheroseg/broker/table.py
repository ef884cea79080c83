"""TableBroker: the queues in the database, on SQLite and PostgreSQL."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Delivery
from spheroseg.database import queue as table
from spheroseg.database.engine import reading
from spheroseg.errors import BrokerAway
from spheroseg.messages import ROUTES, Message, Queue

log = structlog.get_logger()


class TableBroker:
    """A broker whose queues are rows of `segmentation_queue`.

    lease: seconds that a taken message stays with a consumer that has fallen silent.
    poll: seconds between two looks at the table while nothing wakes us; publishing from this process does.
    low_share: share of the claims that go to the lowest waiting priority first, so that nobody starves.
    """

    def __init__(
        self, engine: AsyncEngine, *, lease: float = 30.0, poll: float = 0.25, low_share: float = 0.1
    ) -> None:
        self.engine = engine
        self.lease = lease
        self.poll = poll
        self.low_share = low_share
        self._wakeups: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._looked_for_due = -float("inf")

    async def publish(self, messages: Sequence[Message]) -> None:
        with _broker_errors():
            async with self.engine.begin() as conn:
                await table.enqueue(conn, messages)
        self.wake(*{ROUTES[message.routing_key] for message in messages})

    def wake(self, *queues: str) -> None:
        """Somebody has put messages into these queues: do not wait for the next poll."""
        for queue in queues:
            self._wakeups[queue].set()

    async def depth(self, queue: Queue) -> int:
        with _broker_errors():
            async with reading(self.engine) as conn:
                return await table.depth(conn, queue, in_hand=False)

    async def seconds_at_head(self, queue: Queue) -> float | None:
        """How long the next message of `queue` has been ready; None without one."""
        with _broker_errors():
            async with reading(self.engine) as conn:
                return await table.seconds_at_head(conn, queue)

    @asynccontextmanager
    async def consume(self, queue: Queue, prefetch: int) -> AsyncIterator["TableConsumer"]:
        consumer = TableConsumer(self, queue, prefetch)
        renewal = asyncio.create_task(consumer.keep_leases())
        try:
            yield consumer
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            await consumer.give_back()

    async def wake_due(self) -> None:
        """Look for due messages, as every claim does, but not more often than `poll`."""
        if self._looks_for_due():
            async with self.engine.begin() as conn:
                woken = await table.wake_due(conn)
            # Not before the end of the transaction: until then the others do not see them.
            if woken:
                self.wake(*Queue)

    def _looks_for_due(self) -> bool:
        now = time.monotonic()
        is_time = now - self._looked_for_due >= self.poll
        if is_time:
            self._looked_for_due = now
        return is_time


class TableConsumer:
    def __init__(self, broker: TableBroker, queue: Queue, prefetch: int) -> None:
        self.broker = broker
        self.queue = queue
        self.prefetch = prefetch
        self.holder = str(uuid.uuid7())
        # Nobody waits for a dead letter: the report of the same attempt says it all, and is there sooner.
        self._poll = broker.poll * (4 if queue == Queue.DEAD_LETTERS else 1)
        self.held: dict[int, Delivery] = {}
        self._held_until: dict[int, float] = {}

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        wakeup = self.broker._wakeups[self.queue]
        while True:
            # Cleared before looking: what is published from here on sets it again and is not missed.
            wakeup.clear()
            room = min(limit, self.prefetch - len(self.held))
            with _broker_errors():
                if room > 0 and (deliveries := await self._claim(room)):
                    return deliveries
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._poll)):
                    await wakeup.wait()

    async def gather(self, limit: int, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        wakeup = self.broker._wakeups[self.queue]
        deliveries: list[Delivery] = []
        while True:
            wakeup.clear()
            try:
                with _broker_errors():
                    deliveries += await self._claim(limit - len(deliveries))
            except BrokerAway as error:
                log.warning("no more messages gathered", queue=self.queue, error=str(error))
                return deliveries
            left = deadline - time.monotonic()
            if len(deliveries) == limit or left <= 0:
                return deliveries
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await wakeup.wait()

    async def _claim(self, room: int) -> list[Delivery]:
        lowest_first = random.random() < self.broker.low_share  # noqa: S311 (a share, not a secret)
        until = time.monotonic() + self.broker.lease
        woken = 0
        async with self.broker.engine.begin() as conn:
            if self.broker._looks_for_due():
                woken = await table.wake_due(conn)
            rows = await table.claim(
                conn, self.queue, room, self.holder, self.broker.lease, lowest_first=lowest_first
            )
        if woken:
            self.broker.wake(*Queue)
        deliveries = [Delivery(to_message(row), redelivered=row.deliveries > 1, tag=row.id) for row in rows]
        for delivery in deliveries:
            self.held[delivery.tag] = delivery
            self._held_until[delivery.tag] = until
        if len(rows) == room:
            # There may be more, and a rival of this process may have slept through the one wakeup.
            self.broker.wake(self.queue)
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self._settling(deliveries):
            async with self.broker.engine.begin() as conn:
                await table.remove(conn, self.holder, [delivery.tag for delivery in deliveries])

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        headers = {delivery.tag: _with_death(delivery.message, self.queue) for delivery in deliveries}
        with self._settling(deliveries):
            async with self.broker.engine.begin() as conn:
                await table.dead_letter(conn, self.holder, headers)
        self.broker.wake(Queue.DEAD_LETTERS)

    async def conclude(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        with _broker_errors():
            async with self.broker.engine.begin() as conn:
                await table.enqueue(conn, [report])
                if reject:
                    headers = _with_death(delivery.message, self.queue)
                    await table.dead_letter(conn, self.holder, {delivery.tag: headers})
                else:
                    await table.remove(conn, self.holder, [delivery.tag])
        self.held.pop(delivery.tag, None)
        self._held_until.pop(delivery.tag, None)
        self.broker.wake(ROUTES[report.routing_key], *([Queue.DEAD_LETTERS] if reject else []))

    @contextmanager
    def _settling(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        # Out of our hand even if the database does not answer: then the lease runs out and they come again.
        for delivery in deliveries:
            self.held.pop(delivery.tag, None)
            self._held_until.pop(delivery.tag, None)
        with _broker_errors():
            yield

    async def keep_leases(self) -> None:
        """Renew what we hold; revoke what is no longer ours: withdrawn, or expired while we were cut off."""
        while True:
            await asyncio.sleep(self.broker.lease / 15)
            held = dict(self.held)
            if not held:
                continue
            until = time.monotonic() + self.broker.lease
            try:
                with _broker_errors():
                    async with self.broker.engine.begin() as conn:
                        ours = await table.renew(conn, self.holder, list(held), self.broker.lease)
            except BrokerAway as error:
                log.warning("lease renewal failed", queue=self.queue, error=str(error))
                ours = {tag for tag in held if self._held_until.get(tag, 0) > time.monotonic()}
            else:
                for tag in ours & self.held.keys():
                    self._held_until[tag] = until
            for tag in held.keys() - ours:
                if tag in self.held:
                    held[tag].revoked.set()

    async def give_back(self) -> None:
        if not self.held:
            return
        # Without the database the leases run out by themselves.
        with suppress(BrokerAway), _broker_errors():
            async with self.broker.engine.begin() as conn:
                await table.release(conn, self.holder, list(self.held))
        self.held.clear()
        self.broker.wake(self.queue)


@contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise BrokerAway(f"the database queue does not answer: {error}") from error


def to_message(row: Row[Any]) -> Message:
    """The message that a row of `segmentation_queue` holds."""
    return Message(
        id=row.message_id,
        routing_key=row.routing_key,
        body=bytes(row.body),
        content_encoding=row.content_encoding,
        priority=row.priority,
        task_id=row.task_id,
        user_id=row.user_id,
        headers=row.headers,
    )


def _with_death(message: Message, queue: Queue) -> dict[str, Any]:
    """The headers with a newest `x-death` entry, in the form that RabbitMQ gives them."""
    death = {"reason": "rejected", "queue": str(queue), "routing-keys": [message.routing_key], "count": 1}
    return {**message.headers, "x-death": [death, *message.headers.get("x-death", [])]}
