"""The interface to the message queues. RabbitBroker and TableBroker implement it and must pass the same tests."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from spheroseg.messages import Message, Queue


@dataclass(frozen=True, eq=False)
class Delivery:
    """A message that was delivered to this consumer and is not yet settled (acknowledged or rejected).

    redelivered: an earlier consumer received the message and did not settle it.
    tag: what the broker needs to settle the delivery. Other code must not look into it.
    revoked: set when the message is no longer ours (cancelled, or its lease was lost). Stop working on it.
    """

    message: Message
    redelivered: bool
    tag: Any
    revoked: asyncio.Event = field(default_factory=asyncio.Event)


class Consumer(Protocol):
    async def take(self, limit: int, wait: float) -> list[Delivery]:
        """Return up to `limit` messages, waiting up to `wait` seconds for the first.

        Never exceeds the prefetch. Raises BrokerAway if the broker is unreachable.
        """
        ...

    async def take_more(self, limit: int, wait: float) -> list[Delivery]:
        """Return up to `limit` messages in excess of the prefetch, waiting up to `wait` seconds for them.

        For a consumer that works on all of its messages at once, so that none of them waits for another. If the
        broker is unreachable, it returns what it has so far; the other messages come with a later `take`.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge the deliveries, which removes the messages for good. Raises BrokerAway."""
        ...

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        """Reject the deliveries, which makes the messages dead letters. Raises BrokerAway."""
        ...

    async def report_and_settle(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        """Publish `report`, then reject or acknowledge `delivery`. The table does both in one transaction.

        Raises BrokerAway while the report may not be safe; `delivery` is then still unsettled, so try again. If the
        report is safe but `delivery` could not be settled, nothing is raised: the message is delivered again.
        """
        ...


class Broker(Protocol):
    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish the messages and return once they are stored durably.

        Raises BrokerAway; each message may then have been published or not.
        """
        ...

    def consume(self, queue: Queue, prefetch: int) -> AbstractAsyncContextManager[Consumer]:
        """Open a consumer that holds at most `prefetch` unsettled messages.

        Messages that are unsettled when the context ends go back to the queue.
        """
        ...

    async def depth(self, queue: Queue) -> int:
        """Return the number of messages that wait in the queue, without those already delivered to a consumer.

        The table counts delayed messages too. Raises BrokerAway.
        """
        ...
