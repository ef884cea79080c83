"""One connection to RabbitMQ: opened when it is needed, asked with a time limit, dropped when it is silent."""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from spheroseg.errors import BrokerAway

log = structlog.get_logger()

T = TypeVar("T")

BACKOFF_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 15.0


class Link:
    """One connection, for one purpose, opened when it is needed."""

    def __init__(
        self,
        url: str,
        purpose: str,
        declare: Callable[[AbstractConnection], Awaitable[None]],
        *,
        patience: float,
        heartbeat: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.url = url
        self.purpose = purpose
        self.patience = patience
        self.heartbeat = heartbeat
        self.ssl_context = ssl_context
        self.away_since: float | None = None
        self.connected_since: float | None = None
        self._declare = declare
        self._connection: AbstractConnection | None = None
        self._opening = asyncio.Lock()
        self._failures = 0
        self._next_try = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def channel(self, *, confirms: bool) -> AbstractChannel:
        """A fresh channel. Raises BrokerAway, at once while it is too early for another try to connect."""
        async with self._opening:
            if self._connection is not None:
                # The library may call a connection open that the server has closed: what counts is a channel on it.
                try:
                    return await self._channel_on(self._connection, confirms)
                except BrokerAway as error:
                    if error.is_silence:
                        self.give_up(error)
            return await self._channel_on(await self._connect(), confirms)

    async def _channel_on(self, connection: AbstractConnection, confirms: bool) -> AbstractChannel:
        channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await self.ask(channel.initialize())
        return channel

    async def _connect(self) -> AbstractConnection:
        wait = self._next_try - time.monotonic()
        if wait > 0:
            raise BrokerAway(f"RabbitMQ does not answer; next try in {wait:.1f} s")
        self.forget()
        try:
            connection = await self.ask(
                aio_pika.connect(
                    self.url,
                    ssl_context=self.ssl_context,
                    heartbeat=self.heartbeat,
                    client_properties={"connection_name": f"spheroseg {self.purpose}"},
                )
            )
            self._connection = connection
            await self.ask(self._declare(connection))
        except BrokerAway as error:
            self.give_up(error)
            raise
        self.connected_since = time.monotonic()
        return connection

    def give_up(self, error: BrokerAway) -> None:
        """Drop the connection, and let nobody try again before the backoff is over."""
        self.forget()
        self._failures += 1
        ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2.0 ** min(self._failures - 1, 10))
        self._next_try = time.monotonic() + ceiling * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        if self.away_since is None:
            self.away_since = time.monotonic()
            log.warning("RabbitMQ is away", purpose=self.purpose, error=str(error))

    def has_answered(self) -> None:
        """What this link is for has worked."""
        if self.away_since is not None:
            seconds = round(time.monotonic() - self.away_since, 1)
            log.info("RabbitMQ is back", purpose=self.purpose, away_seconds=seconds)
        self._failures, self._next_try, self.away_since = 0, 0.0, None

    async def ask(self, question: Awaitable[T], patience: float | None = None) -> T:
        """The answer to a question to the server, or BrokerAway: no answer in time, or the connection lost.

        In a task of its own, because the library cancels what waits on a connection that it loses, and a
        CancelledError from there must not look like somebody cancelling us.
        """
        asking = asyncio.ensure_future(question)
        try:
            await asyncio.wait({asking}, timeout=self.patience if patience is None else patience)
        finally:
            if not asking.done():
                asking.cancel()
        if not asking.done():
            raise BrokerAway("RabbitMQ did not answer in time", is_silence=True)
        if asking.cancelled():
            raise BrokerAway("the connection to RabbitMQ was lost")
        # Whatever it is: the library raises even bare Exception for what waits on a connection that it loses.
        error = asking.exception()
        if isinstance(error, Exception):
            raise BrokerAway(f"RabbitMQ: {type(error).__name__}: {error}") from error
        return asking.result()

    def forget(self) -> None:
        """Drop the connection without waiting for a server that may never answer."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed:
            closing = asyncio.create_task(_close(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.forget()
        await asyncio.gather(*self._closing, return_exceptions=True)


async def _close(connection: AbstractConnection) -> None:
    closing = asyncio.ensure_future(connection.close())
    await asyncio.wait({closing}, timeout=2.0)
    if not closing.done():
        closing.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await closing
