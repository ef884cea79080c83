"""TableBroker: the queues in the database, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table_consumer import TableConsumer
from spheroseg.broker.table_messages import database_errors_as_broker_errors
from spheroseg.broker.wakeups import Wakeups
from spheroseg.database import queue as table
from spheroseg.database.engine import reading
from spheroseg.messages import ROUTES, Message, Queue


class TableBroker:
    """A broker whose queues are rows of `segmentation_queue`.

    lease: seconds after which a message of a consumer that has fallen silent goes to another.
    poll: seconds between two polls of the table. `publish` in this process wakes the consumers at once. Rows that
    others insert, such as `submit`, are found at the next poll.
    low_share: share of the claims that take the lowest waiting priority first, so that no class starves.
    """

    def __init__(
        self, engine: AsyncEngine, *, lease: float = 30.0, poll: float = 0.25, low_share: float = 0.1
    ) -> None:
        self.engine = engine
        self.lease = lease
        self.poll = poll
        self.low_share = low_share
        self._wakeups = Wakeups(poll)

    async def publish(self, messages: Sequence[Message]) -> None:
        with database_errors_as_broker_errors():
            async with self.engine.begin() as conn:
                await table.enqueue(conn, messages)
        self.wake(*{ROUTES[message.routing_key] for message in messages})

    def wake(self, *queues: str) -> None:
        """Tell the consumers in this process that messages have been put into `queues`."""
        self._wakeups.wake(*queues)

    async def depth(self, queue: Queue) -> int:
        with database_errors_as_broker_errors():
            async with reading(self.engine) as conn:
                return await table.depth(conn, queue, with_claimed=False)

    async def seconds_at_head(self, queue: Queue) -> float | None:
        """Return how many seconds the next message of `queue` has been ready; None if there is none.

        Raises BrokerAway.
        """
        with database_errors_as_broker_errors():
            async with reading(self.engine) as conn:
                return await table.seconds_at_head(conn, queue)

    @asynccontextmanager
    async def consume(self, queue: Queue, prefetch: int) -> AsyncIterator[TableConsumer]:
        consumer = self.consumer(queue, prefetch)
        renewal = asyncio.create_task(consumer.keep_leases())
        try:
            yield consumer
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            await consumer.release_all()

    def consumer(self, queue: Queue, prefetch: int) -> TableConsumer:
        """Return a consumer that does not renew its leases. `consume` returns one that does."""
        return TableConsumer(
            self.engine,
            queue,
            prefetch,
            lease=self.lease,
            poll=self.poll,
            low_share=self.low_share,
            wakeups=self._wakeups,
        )

    async def wake_due(self) -> None:
        """Make messages ready whose delay or lease has ended, at most once in `poll` seconds.

        Every claim does the same. Raises SQLAlchemyError or OSError if the database is unreachable.
        """
        if self._wakeups.start_check_for_due():
            async with self.engine.begin() as conn:
                woken = await table.wake_due(conn)
            # After the transaction: consumers do not see the messages before.
            if woken:
                self.wake(*Queue)
