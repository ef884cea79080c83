"""RabbitBroker: the queues at a RabbitMQ server.

Every request to the server has its own time limit, because a server that is paused or in alarm neither answers nor
closes the connection. A lost connection is opened again when it is next needed, with backoff. Publishing and
consuming have separate connections: an alarm blocks the connections that publish, and must not stop the consumers.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from spheroseg.broker.cancels import Cancels
from spheroseg.broker.counts import Counts
from spheroseg.broker.link import Link
from spheroseg.broker.rabbit_consumer import RabbitConsumer
from spheroseg.broker.rabbit_publisher import RabbitPublisher
from spheroseg.broker.topology import EXCHANGES, QUEUES, arguments
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, Queue, QueueType

log = structlog.get_logger()


class RabbitBroker:
    """A broker at `url` (amqp:// or amqps://).

    timeout: seconds to wait for any answer of the server, including publisher confirms. heartbeat: seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_type: QueueType = QueueType.CLASSIC,
        timeout: float = 5.0,
        heartbeat: int = 15,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        def link(purpose: str) -> Link:
            return Link(url, purpose, self.declare, timeout=timeout, heartbeat=heartbeat, ssl_context=ssl_context)

        self.queue_type = queue_type
        self.counts = Counts()
        self._publishing = link("publishing")
        self._consuming = link("consuming")
        self._publisher = RabbitPublisher(self._publishing, self.counts)
        self._cancels = Cancels()

    @property
    def unreachable_since(self) -> float | None:
        """Since when (monotonic seconds) the server has not answered; None if it answers or was never asked."""
        return self._publishing.unreachable_since or self._consuming.unreachable_since

    @property
    def connected_since(self) -> float | None:
        """Since when (monotonic seconds) this process has its connection for consuming; None before the first."""
        return self._consuming.connected_since

    async def open(self) -> None:
        """Open the connection for publishing if it is not open. Raises BrokerAway."""
        await self._publisher.open()

    async def close(self) -> None:
        await self._publishing.close()
        await self._consuming.close()

    async def declare(self, connection: AbstractConnection) -> None:
        """Declare the topology. A queue that exists with other arguments is logged and left as it is."""
        for name in EXCHANGES:
            async with connection.channel() as channel:
                await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        for queue, spec in QUEUES.items():
            try:
                async with connection.channel() as channel:
                    await channel.declare_queue(queue, durable=True, arguments={**arguments(queue, self.queue_type)})
            except ChannelPreconditionFailed as error:
                log.error(
                    "a queue at the broker differs from its declaration: run `spheroseg broker check`",
                    queue=queue,
                    difference=str(error),
                )
            async with connection.channel() as channel:
                declared = await channel.get_queue(queue, ensure=False)
                for exchange, key in spec.bindings:
                    await declared.bind(exchange, key)

    async def publish(self, messages: Sequence[Message]) -> None:
        failed = [error for error in await self.publish_each(messages) if error]
        if failed:
            raise failed[0]

    async def publish_each(self, messages: Sequence[Message]) -> list[BrokerAway | None]:
        """Publish all messages. Return for each None if the server confirmed it, or else the error."""
        return await self._publisher.publish_each(messages)

    @asynccontextmanager
    async def consume(self, queue: Queue, prefetch: int) -> AsyncIterator[RabbitConsumer]:
        consumer = RabbitConsumer(
            self._consuming,
            queue,
            prefetch,
            publish=self.publish,
            counts=self.counts,
            cancels=self._cancels if queue == Queue.TASKS else None,
        )
        try:
            yield consumer
        finally:
            await consumer.close()

    async def depth(self, queue: Queue) -> int:
        """Return the number of ready messages. AMQP does not count those delivered to a consumer."""
        channel = await self._consuming.channel(confirms=False)
        try:
            declared = await self._consuming.ask(channel.declare_queue(queue, passive=True))
            return declared.declaration_result.message_count or 0
        except BrokerAway as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                # A new connection declares the deleted queue again.
                self._consuming.forget()
            raise
        finally:
            with suppress(BrokerAway):
                await self._consuming.ask(channel.close())

    async def purge(self, queue: Queue) -> int:
        """Delete the ready messages of `queue`. Return the number of deleted messages. Raises BrokerAway."""
        channel = await self._consuming.channel(confirms=False)
        declared = await self._consuming.ask(channel.get_queue(queue, ensure=False))
        purged = await self._consuming.ask(declared.purge())
        with suppress(BrokerAway):
            await self._consuming.ask(channel.close())
        return purged.message_count or 0
