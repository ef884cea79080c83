"""RabbitBroker: the queues at a RabbitMQ server.

Every question to the server has its own time limit, because a server that is paused or in alarm answers nothing and
closes nothing. What is lost is opened again when it is next needed, with backoff. Publishing and consuming have
connections of their own: an alarm blocks the connections that publish, and must not stop the draining.
"""

import asyncio
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import (
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    PublishError,
)

from spheroseg.broker import Delivery
from spheroseg.broker.amqp import from_amqp, to_amqp
from spheroseg.broker.link import Link
from spheroseg.broker.topology import EXCHANGE, EXCHANGES, QUEUES, arguments
from spheroseg.errors import BrokerAway
from spheroseg.messages import CANCELLED_KEY, Message, Queue, QueueType

log = structlog.get_logger()

IN_FLIGHT = 100
# Cancelled tasks that a worker remembers, to skip their messages when they surface.
CANCELLED_REMEMBERED = 100_000
GATHER_POLL_SECONDS = 0.003


@dataclass
class Counts:
    """What this process has seen of the broker since it started."""

    published: int = 0
    consumed: int = 0
    nacked: int = 0
    returned: int = 0
    errors: int = 0


class RabbitBroker:
    """A broker at `url` (amqp:// or amqps://).

    patience: seconds that any answer may take, a publisher confirm too.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_type: QueueType = QueueType.CLASSIC,
        patience: float = 5.0,
        heartbeat: int = 15,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.queue_type = queue_type
        self.counts = Counts()
        options: dict[str, Any] = {"patience": patience, "heartbeat": heartbeat, "ssl_context": ssl_context}
        self._publishing = Link(url, "publishing", self.declare, **options)
        self._consuming = Link(url, "consuming", self.declare, **options)
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._opening = asyncio.Lock()
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._cancelled: OrderedDict[UUID, None] = OrderedDict()
        self._held: dict[UUID, Delivery] = {}

    @property
    def away_since(self) -> float | None:
        """Since when (monotonic seconds) the server does not answer; None while it does or nobody has asked."""
        return self._publishing.away_since or self._consuming.away_since

    @property
    def connected_since(self) -> float | None:
        """Since when (monotonic seconds) this process has its consuming connection."""
        return self._consuming.connected_since

    async def close(self) -> None:
        await self._publishing.close()
        await self._consuming.close()

    async def declare(self, connection: AbstractConnection) -> None:
        """Declare the topology. What is there with other arguments is reported in words and left as it is."""
        for name in EXCHANGES:
            async with connection.channel() as channel:
                await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        for queue, spec in QUEUES.items():
            try:
                async with connection.channel() as channel:
                    await channel.declare_queue(queue, durable=True, arguments=arguments(queue, self.queue_type))
            except ChannelPreconditionFailed as error:
                log.error(
                    "a queue at the broker differs from what is declared: run `spheroseg broker check`",
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
        """Publish all, many in flight; for each None when it is confirmed, or why it is not."""
        return list(await asyncio.gather(*map(self._publish_one, messages)))

    async def _publish_one(self, message: Message) -> BrokerAway | None:
        async with self._in_flight:
            try:
                exchange = await self._open_exchange()
                await self._publishing.ask(
                    exchange.publish(
                        to_amqp(message),
                        message.routing_key,
                        # Nobody need listen to a cancel.
                        mandatory=message.routing_key != CANCELLED_KEY,
                    )
                )
            except BrokerAway as error:
                self._count_refusal(error)
                return error
            self.counts.published += 1
            self._publishing.has_answered()
            return None

    def _count_refusal(self, error: BrokerAway) -> None:
        cause = error.__cause__
        if isinstance(cause, PublishError):
            self.counts.returned += 1
        elif isinstance(cause, DeliveryError):
            self.counts.nacked += 1
        else:
            self.counts.errors += 1
            # Whatever it was, a channel in doubt is not used again.
            self._exchange = None
            if error.is_silence:
                # An alarm, perhaps: the next connection would be as silent, and as slow to find out.
                self._publishing.give_up(error)

    async def open(self) -> None:
        """Connect for publishing if need be. Raises BrokerAway."""
        await self._open_exchange()

    async def _open_exchange(self) -> AbstractExchange:
        async with self._opening:
            if self._exchange is None or self._channel is None or self._channel.is_closed:
                self._channel = await self._publishing.channel(confirms=True)
                self._exchange = await self._publishing.ask(self._channel.get_exchange(EXCHANGE, ensure=False))
            return self._exchange

    async def depth(self, queue: Queue) -> int:
        """Messages that wait at the server; what is in a consumer's hand is not counted by AMQP."""
        channel = await self._consuming.channel(confirms=False)
        try:
            declared = await self._consuming.ask(channel.declare_queue(queue, passive=True))
            return declared.declaration_result.message_count or 0
        except BrokerAway as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                # A deleted queue is declared again by a new connection.
                self._consuming.forget()
            raise
        finally:
            with suppress(BrokerAway):
                await self._consuming.ask(channel.close())

    async def purge(self, queue: Queue) -> int:
        """Delete what waits in `queue`; how many messages."""
        channel = await self._consuming.channel(confirms=False)
        declared = await self._consuming.ask(channel.get_queue(queue, ensure=False))
        purged = await self._consuming.ask(declared.purge())
        with suppress(BrokerAway):
            await self._consuming.ask(channel.close())
        return purged.message_count or 0

    @asynccontextmanager
    async def consume(self, queue: Queue, prefetch: int) -> AsyncIterator["RabbitConsumer"]:
        consumer = RabbitConsumer(self, queue, prefetch)
        try:
            yield consumer
        finally:
            await consumer.close()

    def note_cancelled(self, task_id: UUID) -> None:
        """Skip the messages of that task, and revoke the one in hand."""
        self._cancelled[task_id] = None
        while len(self._cancelled) > CANCELLED_REMEMBERED:
            self._cancelled.popitem(last=False)
        if held := self._held.get(task_id):
            held.revoked.set()


class RabbitConsumer:
    """Subscribes when it first takes, and again whenever its channel or its subscription has gone."""

    def __init__(self, broker: RabbitBroker, queue: Queue, prefetch: int) -> None:
        self.broker = broker
        self.queue = queue
        self.prefetch = prefetch
        self._channel: AbstractChannel | None = None
        self._queue: AbstractQueue | None = None
        self._arrived: deque[tuple[AbstractChannel, AbstractIncomingMessage]] = deque()
        self._ended = True
        # Something arrived, or the subscription ended.
        self._news = asyncio.Event()

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        while True:
            self._news.clear()
            if self._ended:
                await self._subscribe()
            deliveries = self._buffered(limit)
            left = deadline - time.monotonic()
            if deliveries or left <= 0:
                return deliveries
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()

    async def gather(self, limit: int, wait: float) -> list[Delivery]:
        # Asked for one by one: with a larger prefetch the server would also send what waits for nothing but us.
        deadline = time.monotonic() + wait
        deliveries: list[Delivery] = []
        while len(deliveries) < limit:
            channel, queue = self._channel, self._queue
            if channel is None or queue is None or self._ended:
                break
            try:
                incoming = await self.broker._consuming.ask(queue.get(fail=False, timeout=None))
            except BrokerAway as error:
                log.warning("no more messages gathered", queue=self.queue, error=str(error))
                if error.is_silence:
                    # The answer may still come, with a message that nobody would know to be in our hand.
                    self.broker._consuming.give_up(error)
                break
            if incoming is not None:
                deliveries.append(self._delivery(channel, incoming))
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, GATHER_POLL_SECONDS))
        return deliveries

    def _buffered(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        while len(deliveries) < limit and self._arrived:
            channel, incoming = self._arrived.popleft()
            # What came over a channel that has gone will come again.
            if channel is self._channel:
                deliveries.append(self._delivery(channel, incoming))
        return deliveries

    def _delivery(self, channel: AbstractChannel, incoming: AbstractIncomingMessage) -> Delivery:
        self.broker.counts.consumed += 1
        message = from_amqp(incoming)
        delivery = Delivery(message, redelivered=bool(incoming.redelivered), tag=(channel, incoming))
        if message.task_id is not None and self.queue == Queue.TASKS:
            if message.task_id in self.broker._cancelled:
                delivery.revoked.set()
            self.broker._held[message.task_id] = delivery
        return delivery

    async def _subscribe(self) -> None:
        link = self.broker._consuming
        await self._drop()
        channel = self._channel = await link.channel(confirms=False)

        def end(*_: Any) -> None:
            if channel is self._channel:
                self._ended = True
                self._news.set()

        async def arrive(incoming: AbstractIncomingMessage) -> None:
            self._arrived.append((channel, incoming))
            self._news.set()

        self._ended = False
        try:
            await link.ask(channel.set_qos(prefetch_count=self.prefetch))
            underlay = await link.ask(channel.get_underlay_channel())
            # The server cancels a consumer whose queue is deleted; the channel stays open and silent.
            underlay.on_consumer_cancel_callbacks.add(end)
            channel.close_callbacks.add(end)
            self._queue = await link.ask(channel.get_queue(self.queue, ensure=False))
            await link.ask(self._queue.consume(arrive))
            if self.queue == Queue.TASKS:
                await self._hear_of_cancels(channel)
        except BrokerAway as error:
            await self._drop()
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                # A deleted queue is declared again by a new connection.
                link.forget()
            elif error.is_silence:
                link.give_up(error)
            raise
        link.has_answered()

    async def _hear_of_cancels(self, channel: AbstractChannel) -> None:
        link = self.broker._consuming
        private = await link.ask(channel.declare_queue(exclusive=True, auto_delete=True))
        await link.ask(private.bind(EXCHANGE, CANCELLED_KEY))

        async def cancelled(incoming: AbstractIncomingMessage) -> None:
            with suppress(ValueError):
                self.broker.note_cancelled(UUID(incoming.body.decode(errors="replace")))

        await link.ask(private.consume(cancelled, no_ack=True))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, lambda incoming: incoming.ack())

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, lambda incoming: incoming.reject(requeue=False))

    async def conclude(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        await self.broker.publish([report])
        await self.settle_reported(delivery, reject=reject)

    async def settle_reported(self, delivery: Delivery, *, reject: bool) -> None:
        """Reject or ack, if we still can: otherwise it comes again, and its report is recognised as a duplicate."""
        try:
            await (self.reject if reject else self.ack)([delivery])
        except BrokerAway as error:
            log.warning("not settled", message_id=delivery.message.id, error=str(error), **delivery.message.about())

    async def _settle(
        self, deliveries: Sequence[Delivery], settle: Callable[[AbstractIncomingMessage], Awaitable[None]]
    ) -> None:
        for delivery in deliveries:
            channel, incoming = delivery.tag
            if delivery.message.task_id is not None:
                self.broker._held.pop(delivery.message.task_id, None)
            if channel is not self._channel or self._ended:
                raise BrokerAway("the channel of this delivery has gone: it will come again")
            await self.broker._consuming.ask(settle(incoming))

    async def _drop(self) -> None:
        channel, self._channel, self._ended = self._channel, None, True
        if channel is not None and not channel.is_closed:
            # Closing gives back what is unsettled.
            with suppress(BrokerAway):
                await self.broker._consuming.ask(channel.close(), patience=2.0)

    async def close(self) -> None:
        await self._drop()
