"""The one port to the queues, with two real implementations that pass the same tests."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from spheroseg.messages import Message, Queue


@dataclass(frozen=True, eq=False)
class Delivery:
    """A message in this consumer's hand.

    redelivered: somebody had it before and did not settle it.
    revoked: set when the message is no longer ours (cancelled, lease lost); stop working on it.
    tag: what the broker knows it by.
    """

    message: Message
    redelivered: bool
    tag: Any
    revoked: asyncio.Event = field(default_factory=asyncio.Event)


class Consumer(Protocol):
    async def take(self, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` messages, without holding more than the prefetch; waits up to `wait` seconds for one."""
        ...

    async def gather(self, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` messages more than the prefetch allows; waits up to `wait` seconds for them.

        For who works on all of them at once, so that none waits in a hand for another. Raises nothing: what did not
        come is there for the next take.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done: they are gone for good."""
        ...

    async def reject(self, deliveries: Sequence[Delivery]) -> None:
        """Never again: they become dead letters."""
        ...

    async def conclude(self, delivery: Delivery, report: Message, *, reject: bool) -> None:
        """Publish `report`, then reject or ack `delivery`; in one step where both are rows of the database.

        Raises BrokerAway while the report may not be safe: then the delivery is still in hand. What was reported and
        could not be settled raises nothing and comes again.
        """
        ...


class Broker(Protocol):
    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns when the messages are safe. After an exception each may or may not have been published."""
        ...

    def consume(self, queue: Queue, prefetch: int) -> AbstractAsyncContextManager[Consumer]:
        """At most `prefetch` unsettled at a time. What is unsettled at the end goes back to the queue."""
        ...

    async def depth(self, queue: Queue) -> int:
        """How many messages wait in the queue, not counting those in somebody's hand."""
        ...
