"""TableConsumer: takes messages from one queue in the database."""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import structlog
import uuid_utils.compat as uuid
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Delivery
from spheroseg.broker.table_messages import database_errors_as_broker_errors, dead_letter_headers, to_message
from spheroseg.broker.wakeups import Wakeups
from spheroseg.database import queue as table
from spheroseg.errors import BrokerAway
from spheroseg.messages import ROUTES, Message, Queue

log = structlog.get_logger()

RENEWALS_PER_LEASE = 15


class TableConsumer:
    """Claims rows of `segmentation_queue` for `lease` seconds. The arguments are those of TableBroker.

    held: the unsettled deliveries by the id of their row.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        queue: Queue,
        prefetch: int,
        *,
        lease: float,
        poll: float,
        low_share: float,
        wakeups: Wakeups,
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.holder = str(uuid.uuid7())
        self.held: dict[int, Delivery] = {}
        self._held_until: dict[int, float] = {}
        self._engine = engine
        self._lease = lease
        # A dead letter can wait: the report of the same attempt says the same and arrives sooner.
        self._poll = poll * (4 if queue == Queue.DEAD_LETTERS else 1)
        self._low_share = low_share
        self._wakeups = wakeups
        self._wakeup = wakeups.event(queue)

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        while True:
            # Clear the event before the claim, so that a message published after the claim sets it again.
            self._wakeup.clear()
            room = min(limit, self.prefetch - len(self.held))
            with database_errors_as_broker_errors():
                if room > 0 and (deliveries := await self._claim(room)):
                    return deliveries
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                return []
            await self._wait_for_wakeup(min(seconds_left, self._poll))

    async def take_more(self, limit: int, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        deliveries: list[Delivery] = []
        while True:
            self._wakeup.clear()
            try:
                with database_errors_as_broker_errors():
                    deliveries += await self._claim(limit - len(deliveries))
            except BrokerAway as error:
                log.warning("cannot take more messages", queue=self.queue, error=str(error))
                return deliveries
            seconds_left = deadline - time.monotonic()
            if len(deliveries) == limit or seconds_left <= 0:
                return deliveries
            await self._wait_for_wakeup(seconds_left)

    def holds(self, delivery: Delivery) -> bool:
        """Return whether this consumer took `delivery` and has not settled it."""
        return delivery.tag in self.held

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self._settling(deliveries):
            async with self._engine.begin() as conn:
                await table.remove(conn, self.holder, [delivery.tag for delivery in deliveries])

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        headers = {delivery.tag: dead_letter_headers(delivery.message, self.queue) for delivery in deliveries}
        with self._settling(deliveries):
            async with self._engine.begin() as conn:
                await table.dead_letter(conn, self.holder, headers)
        self._wakeups.wake(Queue.DEAD_LETTERS)

    async def report_and_settle(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        with database_errors_as_broker_errors():
            async with self._engine.begin() as conn:
                await table.enqueue(conn, [report])
                if reject:
                    headers = dead_letter_headers(delivery.message, self.queue)
                    await table.dead_letter(conn, self.holder, {delivery.tag: headers})
                else:
                    await table.remove(conn, self.holder, [delivery.tag])
        self._forget([delivery])
        self._wakeups.wake(ROUTES[report.routing_key], *([Queue.DEAD_LETTERS] if reject else []))

    async def keep_leases(self) -> None:
        """Renew the leases of the held messages until cancelled.

        Revokes a delivery that is no longer ours: its task was cancelled, or its lease ended while the database was
        unreachable.
        """
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            if self.held:
                await self._renew(dict(self.held))

    async def release_all(self) -> None:
        """Put all held messages back into the queue."""
        if not self.held:
            return
        # If the database is unreachable, the leases end by themselves.
        with suppress(BrokerAway), database_errors_as_broker_errors():
            async with self._engine.begin() as conn:
                await table.release(conn, self.holder, list(self.held))
        self.held.clear()
        self._wakeups.wake(self.queue)

    async def _claim(self, room: int) -> list[Delivery]:
        lowest_first = random.random() < self._low_share  # noqa: S311 (a share, not a secret)
        until = time.monotonic() + self._lease
        woken = 0
        async with self._engine.begin() as conn:
            if self._wakeups.start_check_for_due():
                woken = await table.wake_due(conn)
            rows = await table.claim(conn, self.queue, room, self.holder, self._lease, lowest_first=lowest_first)
        if woken:
            self._wakeups.wake(*Queue)
        deliveries = [Delivery(to_message(row), redelivered=row.deliveries > 1, tag=row.id) for row in rows]
        for delivery in deliveries:
            self.held[delivery.tag] = delivery
            self._held_until[delivery.tag] = until
        if len(rows) == room:
            # There may be more, and another consumer of this process may have missed the one wakeup.
            self._wakeups.wake(self.queue)
        return deliveries

    async def _wait_for_wakeup(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()

    @contextmanager
    def _settling(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        # Forget them even if the database is unreachable: then their leases end, and they are delivered again.
        self._forget(deliveries)
        with database_errors_as_broker_errors():
            yield

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.held.pop(delivery.tag, None)
            self._held_until.pop(delivery.tag, None)

    async def _renew(self, held: Mapping[int, Delivery]) -> None:
        until = time.monotonic() + self._lease
        try:
            with database_errors_as_broker_errors():
                async with self._engine.begin() as conn:
                    ours = await table.renew(conn, self.holder, list(held), self._lease)
        except BrokerAway as error:
            log.warning("lease renewal failed", queue=self.queue, error=str(error))
            ours = {tag for tag in held if self._held_until.get(tag, 0) > time.monotonic()}
        else:
            for tag in ours & self.held.keys():
                self._held_until[tag] = until
        for tag in held.keys() - ours:
            if tag in self.held:
                held[tag].revoked.set()
