"""RabbitConsumer: takes messages from one queue at a RabbitMQ server."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity

from spheroseg.broker import Delivery
from spheroseg.broker.amqp import from_amqp
from spheroseg.broker.cancels import Cancels
from spheroseg.broker.counts import Counts
from spheroseg.broker.link import Link
from spheroseg.broker.topology import EXCHANGE
from spheroseg.errors import BrokerAway
from spheroseg.messages import CANCELLED_KEY, Message, Queue

log = structlog.get_logger()

TAKE_MORE_POLL_SECONDS = 0.003
CLOSE_SECONDS = 2.0

Publish = Callable[[Sequence[Message]], Awaitable[None]]


class RabbitConsumer:
    """Subscribes at the first `take`, and again whenever the channel or the subscription was lost.

    link: the connection to consume from. publish: publishes the reports of `report_and_settle`.
    cancels: records the deliveries and the cancels of a queue of tasks; None for other queues.
    """

    def __init__(
        self, link: Link, queue: Queue, prefetch: int, *, publish: Publish, counts: Counts, cancels: Cancels | None
    ) -> None:
        self.queue_name = queue
        self.prefetch = prefetch
        self._link = link
        self._publish = publish
        self._counts = counts
        self._cancels = cancels
        self._channel: AbstractChannel | None = None
        self._amqp_queue: AbstractQueue | None = None
        self._buffer: deque[tuple[AbstractChannel, AbstractIncomingMessage]] = deque()
        self._is_subscribed = False
        # Set when a message has arrived or the subscription has ended.
        self._wakeup = asyncio.Event()

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        while True:
            self._wakeup.clear()
            if not self._is_subscribed:
                await self._subscribe()
            deliveries = self._take_buffered(limit)
            seconds_left = deadline - time.monotonic()
            if deliveries or seconds_left <= 0:
                return deliveries
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_left):
                    await self._wakeup.wait()

    async def take_more(self, limit: int, wait: float) -> list[Delivery]:
        # One basic.get for each: with a larger prefetch the server would also send messages while we are busy.
        deadline = time.monotonic() + wait
        deliveries: list[Delivery] = []
        while len(deliveries) < limit:
            channel, queue = self._channel, self._amqp_queue
            if channel is None or queue is None or not self._is_subscribed:
                break
            try:
                incoming = await self._link.ask(queue.get(fail=False, timeout=None))
            except BrokerAway as error:
                log.warning("cannot take more messages", queue=self.queue_name, error=str(error))
                if error.is_silence:
                    # A late answer could carry a message that nobody would know was delivered to us.
                    self._link.give_up(error)
                break
            if incoming is not None:
                deliveries.append(self._delivery(channel, incoming))
                continue
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                break
            await asyncio.sleep(min(seconds_left, TAKE_MORE_POLL_SECONDS))
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, lambda incoming: incoming.ack())

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, lambda incoming: incoming.reject(requeue=False))

    async def report_and_settle(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        await self._publish([report])
        await self.settle_reported(delivery, reject=reject)

    async def settle_reported(self, delivery: Delivery, *, reject: bool) -> None:
        """Reject or acknowledge a delivery whose report is safe. Log it if that fails.

        An unsettled message is delivered again, and its second report is recognised as a duplicate.
        """
        try:
            await (self.reject if reject else self.ack)([delivery])
        except BrokerAway as error:
            log.warning(
                "delivery not settled",
                message_id=delivery.message.id,
                error=str(error),
                **delivery.message.log_fields(),
            )

    async def close(self) -> None:
        """End the subscription. The server puts unsettled messages back into the queue."""
        await self._close_channel()

    async def _subscribe(self) -> None:
        await self._close_channel()
        channel = self._channel = await self._link.channel(confirms=False)
        self._is_subscribed = True
        try:
            await self._consume_from(channel)
            if self._cancels is not None:
                await self._listen_for_cancels(channel, self._cancels)
        except BrokerAway as error:
            await self._close_channel()
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                # A new connection declares the deleted queue again.
                self._link.forget()
            elif error.is_silence:
                self._link.give_up(error)
            raise
        self._link.has_answered()

    async def _consume_from(self, channel: AbstractChannel) -> None:
        def on_end(*_: object) -> None:
            if channel is self._channel:
                self._is_subscribed = False
                self._wakeup.set()

        async def on_message(incoming: AbstractIncomingMessage) -> None:
            self._buffer.append((channel, incoming))
            self._wakeup.set()

        await self._link.ask(channel.set_qos(prefetch_count=self.prefetch))
        underlay = await self._link.ask(channel.get_underlay_channel())
        # The server cancels a consumer whose queue is deleted; the channel stays open and silent.
        underlay.on_consumer_cancel_callbacks.add(on_end)
        channel.close_callbacks.add(on_end)
        self._amqp_queue = await self._link.ask(channel.get_queue(self.queue_name, ensure=False))
        await self._link.ask(self._amqp_queue.consume(on_message))

    async def _listen_for_cancels(self, channel: AbstractChannel, cancels: Cancels) -> None:
        async def on_cancel(incoming: AbstractIncomingMessage) -> None:
            with suppress(ValueError):
                cancels.cancel(UUID(incoming.body.decode(errors="replace")))

        private = await self._link.ask(channel.declare_queue(exclusive=True, auto_delete=True))
        await self._link.ask(private.bind(EXCHANGE, CANCELLED_KEY))
        await self._link.ask(private.consume(on_cancel, no_ack=True))

    def _take_buffered(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        while len(deliveries) < limit and self._buffer:
            channel, incoming = self._buffer.popleft()
            # The server delivers the messages of a closed channel again.
            if channel is self._channel:
                deliveries.append(self._delivery(channel, incoming))
        return deliveries

    def _delivery(self, channel: AbstractChannel, incoming: AbstractIncomingMessage) -> Delivery:
        self._counts.consumed += 1
        delivery = Delivery(from_amqp(incoming), redelivered=bool(incoming.redelivered), tag=(channel, incoming))
        if self._cancels is not None:
            self._cancels.hold(delivery)
        return delivery

    async def _settle(
        self, deliveries: Sequence[Delivery], settle: Callable[[AbstractIncomingMessage], Awaitable[None]]
    ) -> None:
        for delivery in deliveries:
            channel, incoming = delivery.tag
            if self._cancels is not None:
                self._cancels.release(delivery)
            if channel is not self._channel or not self._is_subscribed:
                raise BrokerAway("the channel of this delivery is closed: the message will be delivered again")
            await self._link.ask(settle(incoming))

    async def _close_channel(self) -> None:
        channel, self._channel, self._is_subscribed = self._channel, None, False
        if channel is not None and not channel.is_closed:
            # The server puts unsettled messages back into the queue.
            with suppress(BrokerAway):
                await self._link.ask(channel.close(), max_seconds=CLOSE_SECONDS)
