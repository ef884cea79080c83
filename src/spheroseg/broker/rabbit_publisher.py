"""RabbitPublisher: publishes messages with confirms to a RabbitMQ server."""

import asyncio
from collections.abc import Sequence

from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import DeliveryError, PublishError

from spheroseg.broker.amqp import to_amqp
from spheroseg.broker.counts import Counts
from spheroseg.broker.link import Link
from spheroseg.broker.topology import EXCHANGE
from spheroseg.errors import BrokerAway
from spheroseg.messages import CANCELLED_KEY, Message

MAX_UNCONFIRMED = 100


class RabbitPublisher:
    """Publishes over `link`, with at most MAX_UNCONFIRMED messages waiting for their confirm at a time."""

    def __init__(self, link: Link, counts: Counts) -> None:
        self._link = link
        self._counts = counts
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(MAX_UNCONFIRMED)

    async def open(self) -> AbstractExchange:
        """Return the exchange to publish to, connecting first if need be. Raises BrokerAway."""
        async with self._opening:
            if self._exchange is None or self._channel is None or self._channel.is_closed:
                self._channel = await self._link.channel(confirms=True)
                self._exchange = await self._link.ask(self._channel.get_exchange(EXCHANGE, ensure=False))
            return self._exchange

    async def publish_each(self, messages: Sequence[Message]) -> list[BrokerAway | None]:
        """Publish all messages. Return for each None if the server confirmed it, or else the error."""
        return list(await asyncio.gather(*map(self._publish, messages)))

    async def _publish(self, message: Message) -> BrokerAway | None:
        async with self._slots:
            try:
                exchange = await self.open()
                # A cancel may reach no queue: perhaps no worker is listening.
                mandatory = message.routing_key != CANCELLED_KEY
                await self._link.ask(exchange.publish(to_amqp(message), message.routing_key, mandatory=mandatory))
            except BrokerAway as error:
                self._record_failure(error)
                return error
            self._counts.published += 1
            self._link.has_answered()
            return None

    def _record_failure(self, error: BrokerAway) -> None:
        cause = error.__cause__
        if isinstance(cause, PublishError):
            self._counts.returned += 1
        elif isinstance(cause, DeliveryError):
            self._counts.nacked += 1
        else:
            self._counts.errors += 1
            # The channel may be broken: do not use it again.
            self._exchange = None
            if error.is_silence:
                # The server may be in alarm: a new connection would block as well, and take as long to find out.
                self._link.give_up(error)
