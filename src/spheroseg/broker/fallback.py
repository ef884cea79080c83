"""FallbackBroker: RabbitMQ while it answers, the database queue while it does not."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from spheroseg.broker import Delivery
from spheroseg.broker.table import TableBroker
from spheroseg.broker.table_consumer import TableConsumer
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, Queue

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker
    from spheroseg.broker.rabbit_consumer import RabbitConsumer

log = structlog.get_logger()


class FallbackBroker:
    """A broker for a worker that can reach RabbitMQ and the database.

    An idle worker also takes from the table: at once while RabbitMQ is unreachable, otherwise when the next message
    there has been ready for `take_after_seconds`. Then nobody relays it to RabbitMQ, for whatever reason, so that no
    signal and no setting is needed.

    Reports about a message from the table go into the table. If they went to RabbitMQ, they could be out of reach
    after the message was removed, and the task would look lost.
    """

    def __init__(self, rabbit: "RabbitBroker", table: TableBroker, *, take_after_seconds: float = 3.0) -> None:
        self.rabbit = rabbit
        self.table = table
        self.take_after_seconds = take_after_seconds
        self._consumers: list[FallbackConsumer] = []

    async def publish(self, messages: Sequence[Message]) -> None:
        from_table = {task_id for consumer in self._consumers for task_id in consumer.tasks_from_table()}
        if for_table := [message for message in messages if message.task_id in from_table]:
            await self.table.publish(for_table)
        others = [message for message in messages if message.task_id not in from_table]
        try:
            await self.rabbit.publish(others)
        except BrokerAway as error:
            log.warning("published to the database queue instead", messages=len(others), error=str(error))
            await self.table.publish(others)

    async def depth(self, queue: Queue) -> int:
        return await self.rabbit.depth(queue) + await self.table.depth(queue)

    @asynccontextmanager
    async def consume(self, queue: Queue, prefetch: int) -> AsyncIterator["FallbackConsumer"]:
        async with self.rabbit.consume(queue, prefetch) as rabbit, self.table.consume(queue, prefetch) as table:
            consumer = FallbackConsumer(self, queue, rabbit, table)
            self._consumers.append(consumer)
            try:
                yield consumer
            finally:
                self._consumers.remove(consumer)


class FallbackConsumer:
    """Consumes from RabbitMQ and from the table. It holds deliveries of one of them at a time."""

    def __init__(self, broker: FallbackBroker, queue: Queue, rabbit: "RabbitConsumer", table: TableConsumer) -> None:
        self.broker = broker
        self.queue = queue
        self.rabbit = rabbit
        self.table = table

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        try:
            deliveries = await self.rabbit.take(limit, wait)
        except BrokerAway:
            return await self.table.take(limit, wait)
        if deliveries:
            return deliveries
        seconds_ready = await self.broker.table.seconds_at_head(self.queue)
        if seconds_ready is not None and seconds_ready > self.broker.take_after_seconds:
            return await self.table.take(limit, 0.0)
        return []

    async def take_more(self, limit: int, wait: float) -> list[Delivery]:
        # From the queue that the held messages came from.
        return await (self.table if self.table.held else self.rabbit).take_more(limit, wait)

    def tasks_from_table(self) -> set[UUID]:
        """Return the tasks of the unsettled messages from the table."""
        return {delivery.message.task_id for delivery in self.table.held.values() if delivery.message.task_id}

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        from_table, from_rabbit = self._split(deliveries)
        if from_table:
            await self.table.ack(from_table)
        if from_rabbit:
            await self.rabbit.ack(from_rabbit)

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        from_table, from_rabbit = self._split(deliveries)
        if from_table:
            await self.table.reject(from_table)
        if from_rabbit:
            await self.rabbit.reject(from_rabbit)

    async def report_and_settle(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        if self.table.holds(delivery):
            await self.table.report_and_settle(delivery, report, reject=reject)
        else:
            await self.broker.publish([report])
            await self.rabbit.settle_reported(delivery, reject=reject)

    def _split(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        from_table = [delivery for delivery in deliveries if self.table.holds(delivery)]
        from_rabbit = [delivery for delivery in deliveries if not self.table.holds(delivery)]
        return from_table, from_rabbit
