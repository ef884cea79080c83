"""FallbackBroker: RabbitMQ while it answers, the database queue while it does not."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from spheroseg.broker import Delivery
from spheroseg.broker.table import TableBroker, TableConsumer
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, Queue

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker, RabbitConsumer

log = structlog.get_logger()


class FallbackBroker:
    """For a worker that reaches both.

    It needs no signal and no switch. An idle worker looks into the table too: at once while RabbitMQ does not answer
    it, and otherwise when the next message there has been waiting for `patience` seconds, which means that nobody is
    moving it to RabbitMQ, for whatever reason.

    What is said of a message from the table goes into the table. At RabbitMQ it could be out of reach when the
    message is gone, and the task would look like one that no queue holds.
    """

    def __init__(self, rabbit: "RabbitBroker", table: TableBroker, *, patience: float = 3.0) -> None:
        self.rabbit = rabbit
        self.table = table
        self.patience = patience
        self._consumers: list[FallbackConsumer] = []

    async def publish(self, messages: Sequence[Message]) -> None:
        from_table = {task_id for consumer in self._consumers for task_id in consumer.tasks_from_table()}
        if about_them := [message for message in messages if message.task_id in from_table]:
            await self.table.publish(about_them)
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
        async with self.rabbit.consume(queue, prefetch) as first, self.table.consume(queue, prefetch) as second:
            consumer = FallbackConsumer(self, queue, first, second)
            self._consumers.append(consumer)
            try:
                yield consumer
            finally:
                self._consumers.remove(consumer)


class FallbackConsumer:
    def __init__(self, broker: FallbackBroker, queue: Queue, rabbit: "RabbitConsumer", table: TableConsumer) -> None:
        self.broker = broker
        self.queue = queue
        self.rabbit = rabbit
        self.table = table

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        is_away = False
        try:
            if deliveries := await self.rabbit.take(limit, wait):
                return deliveries
        except BrokerAway:
            is_away = True
        if is_away:
            return await self.table.take(limit, wait)
        waiting = await self.broker.table.seconds_at_head(self.queue)
        if waiting is not None and waiting > self.broker.patience:
            return await self.table.take(limit, 0.0)
        return []

    async def gather(self, limit: int, wait: float) -> list[Delivery]:
        # From where the last came.
        return await (self.table if self.table.held else self.rabbit).gather(limit, wait)

    def tasks_from_table(self) -> set[UUID]:
        """The tasks of the messages from the table that are in hand."""
        return {delivery.message.task_id for delivery in self.table.held.values() if delivery.message.task_id}

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for consumer, its_own in self._by_origin(deliveries):
            await consumer.ack(its_own)

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        for consumer, its_own in self._by_origin(deliveries):
            await consumer.reject(its_own)

    async def conclude(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        if delivery.tag in self.table.held:
            await self.table.conclude(delivery, report, reject=reject)
        else:
            await self.broker.publish([report])
            await self.rabbit.settle_reported(delivery, reject=reject)

    def _by_origin(
        self, deliveries: Sequence[Delivery]
    ) -> list[tuple["RabbitConsumer | TableConsumer", list[Delivery]]]:
        from_table = [delivery for delivery in deliveries if delivery.tag in self.table.held]
        from_rabbit = [delivery for delivery in deliveries if delivery not in from_table]
        origins: list[tuple[RabbitConsumer | TableConsumer, list[Delivery]]] = [
            (self.table, from_table),
            (self.rabbit, from_rabbit),
        ]
        return [(consumer, its_own) for consumer, its_own in origins if its_own]
