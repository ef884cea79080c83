"""A connection to RabbitMQ that opens on demand, limits the time of every request, and drops a silent server."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from spheroseg.backoff import Backoff
from spheroseg.errors import BrokerAway

log = structlog.get_logger()

T = TypeVar("T")

RECONNECT = Backoff(first=0.5, maximum=15.0)
CLOSE_SECONDS = 2.0


class Link:
    """One connection for one purpose, opened when it is needed.

    declare: declares the topology on each new connection. timeout: seconds to wait for any answer of the server.
    heartbeat: seconds. unreachable_since, connected_since: monotonic seconds, None if it does not apply.
    """

    def __init__(
        self,
        url: str,
        purpose: str,
        declare: Callable[[AbstractConnection], Awaitable[None]],
        *,
        timeout: float,
        heartbeat: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.url = url
        self.purpose = purpose
        self.timeout = timeout
        self.heartbeat = heartbeat
        self.ssl_context = ssl_context
        self.unreachable_since: float | None = None
        self.connected_since: float | None = None
        self._declare = declare
        self._connection: AbstractConnection | None = None
        self._opening = asyncio.Lock()
        self._failures = 0
        self._next_try = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def channel(self, *, confirms: bool) -> AbstractChannel:
        """Return a new channel, connecting first if need be.

        Raises BrokerAway; without trying to connect if the backoff after the last failure is not over.
        """
        async with self._opening:
            if self._connection is not None:
                # The library may call a connection open that the server has closed. Opening a channel shows it.
                try:
                    return await self._open_channel(self._connection, confirms)
                except BrokerAway as error:
                    if error.is_silence:
                        self.give_up(error)
            return await self._open_channel(await self._connect(), confirms)

    async def _open_channel(self, connection: AbstractConnection, confirms: bool) -> AbstractChannel:
        channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await self.ask(channel.initialize())
        return channel

    async def _connect(self) -> AbstractConnection:
        seconds_left = self._next_try - time.monotonic()
        if seconds_left > 0:
            raise BrokerAway(f"RabbitMQ does not answer; next try in {seconds_left:.1f} s")
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
        """Drop the connection after `error`, and refuse to connect again before the backoff is over."""
        self.forget()
        self._failures += 1
        self._next_try = time.monotonic() + RECONNECT.equal_jitter(self._failures)
        if self.unreachable_since is None:
            self.unreachable_since = time.monotonic()
            log.warning("RabbitMQ is unreachable", purpose=self.purpose, error=str(error))

    def has_answered(self) -> None:
        """Reset the backoff, because the purpose of this connection was served."""
        if self.unreachable_since is not None:
            seconds = round(time.monotonic() - self.unreachable_since, 1)
            log.info("RabbitMQ is reachable again", purpose=self.purpose, away_seconds=seconds)
        self._failures, self._next_try, self.unreachable_since = 0, 0.0, None

    async def ask(self, request: Awaitable[T], max_seconds: float | None = None) -> T:
        """Return the server's answer to `request`. Wait at most `max_seconds`, by default `timeout`.

        Raises BrokerAway if no answer came in time (`is_silence`), the connection was lost, or the server refused.
        """
        # A separate task: the library cancels requests on a connection that it loses, and its CancelledError must not
        # look as if somebody had cancelled the caller.
        asking = asyncio.ensure_future(request)
        try:
            await asyncio.wait({asking}, timeout=self.timeout if max_seconds is None else max_seconds)
        finally:
            if not asking.done():
                asking.cancel()
        if not asking.done():
            raise BrokerAway("RabbitMQ did not answer in time", is_silence=True)
        if asking.cancelled():
            raise BrokerAway("the connection to RabbitMQ was lost")
        # Any exception: the library raises even a bare Exception for requests on a connection that it loses.
        error = asking.exception()
        if isinstance(error, Exception):
            raise BrokerAway(f"RabbitMQ: {type(error).__name__}: {error}") from error
        return asking.result()

    def forget(self) -> None:
        """Drop the connection and close it in the background: the server may never answer."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed:
            closing = asyncio.create_task(_close(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the connection, waiting no more than CLOSE_SECONDS for the server."""
        self.forget()
        await asyncio.gather(*self._closing, return_exceptions=True)


async def _close(connection: AbstractConnection) -> None:
    closing = asyncio.ensure_future(connection.close())
    await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
    if not closing.done():
        closing.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await closing
