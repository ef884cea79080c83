"""A TCP proxy on loopback with the faults of networks: it cuts, resets, loses, holds, slows and slices."""

import asyncio
import contextlib
import math
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from tests.support.ports import free_port

Direction = Literal["up", "down"]  # from the client to the server, from the server to the client
_BOTH: tuple[Direction, Direction] = ("up", "down")


@dataclass
class _Faults:
    """The faults for bytes in one direction."""

    delay: float = 0.0
    bandwidth: float = math.inf  # bytes/s
    piece: int | None = None
    pause: float = 0.0  # after each piece, s
    limit: int | None = None  # bytes of a new connection, until it is cut
    swallow: bool = False


@dataclass(eq=False)
class _End:
    """One of the two sockets of a link."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed_here: bool = False

    def close(self, reset: bool = False) -> None:
        self.closed_here = True
        if reset:
            connection: socket.socket = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass(eq=False)
class _Link:
    """The connection of a client, and the connection to the server for it."""

    client: _End
    server: _End
    task: "asyncio.Task[None]"
    allowance: dict[Direction, int | None]
    lost: set[Direction] = field(default_factory=set)

    def source(self, direction: Direction) -> _End:
        return self.client if direction == "up" else self.server

    def target(self, direction: Direction) -> _End:
        return self.server if direction == "up" else self.client

    def close(self, reset: bool = False) -> None:
        self.client.close(reset)
        self.server.close(reset)
        self.task.cancel()


class Proxy:
    """Listens on `port` and connects to `target_port`, both on loopback; an asynchronous context manager.

    A fault applies to existing and to new connections, in one direction or, with None, in both. Different faults add
    up, and `restore` ends them all. `cut` and `reset` apply once, to the existing connections.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.accepted = 0
        self._faults: dict[Direction, _Faults] = {"up": _Faults(), "down": _Faults()}
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    def cut(self, direction: Direction | None = None) -> None:
        """Close every connection. With a direction, close only the socket at its end."""
        self._close(direction, reset=False)

    def reset(self, direction: Direction | None = None) -> None:
        """Close connections like `cut`, but with RST, so that bytes on the way are lost."""
        self._close(direction, reset=True)

    def blackhole(self, direction: Direction | None = None) -> None:
        """Lose all bytes, but keep the connections open. `restore` cuts the connections that lost some."""
        for one in self._each(direction):
            self._faults[one].swallow = True
        self._wake()

    def hold(self, direction: Direction | None = None) -> None:
        """Hold back bytes and the end of a connection until `restore`, like a network partition that heals."""
        self.delay(math.inf, direction)

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Deliver each byte that much later, without a limit of the bytes on the way."""
        for one in self._each(direction):
            self._faults[one].delay = seconds
        self._wake()

    def bandwidth(self, bytes_per_second: float, direction: Direction | None = None) -> None:
        """Limit the bandwidth of each connection."""
        for one in self._each(direction):
            self._faults[one].bandwidth = bytes_per_second
        self._wake()

    def slice(self, size: int = 1, pause: float = 0.001, direction: Direction | None = None) -> None:
        """Send pieces of `size` bytes, `pause` seconds apart, so that frames arrive in parts."""
        for one in self._each(direction):
            self._faults[one].piece, self._faults[one].pause = size, pause
        self._wake()

    def limit_data(self, size: int, direction: Direction | None = None) -> None:
        """Cut every connection, on both sides, after `size` more bytes in that direction."""
        for one in self._each(direction):
            self._faults[one].limit = size
            for link in self._links:
                link.allowance[one] = size
        self._wake()

    def refuse(self) -> None:
        """Refuse new connections, and keep existing ones."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def restore(self, direction: Direction | None = None) -> None:
        """End the faults in that direction. With None, also accept new connections again."""
        for one in self._each(direction):
            self._faults[one] = _Faults()
            for link in list(self._links):
                link.allowance[one] = None
                # TCP never delivers a stream with a gap.
                if one in link.lost:
                    link.close()
        self._wake()
        if direction is None:
            self._listen()

    @staticmethod
    def _each(direction: Direction | None) -> tuple[Direction, ...]:
        return _BOTH if direction is None else (direction,)

    def _close(self, direction: Direction | None, reset: bool) -> None:
        for link in list(self._links):
            if direction is None:
                link.close(reset)
            else:
                link.target(direction).close(reset)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # the client has gone
            return
        client.setblocking(False)
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            client = _End(*await asyncio.open_connection(sock=connection))
        except BaseException:
            connection.close()
            raise
        try:
            server = _End(*await asyncio.open_connection("127.0.0.1", self.target_port))
        except OSError:
            client.close(reset=True)
            return
        except BaseException:
            client.close()
            raise
        task = asyncio.current_task()
        assert task is not None
        link = _Link(client, server, task, {one: self._faults[one].limit for one in _BOTH})
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                for direction in _BOTH:
                    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
                    group.create_task(self._read(link.source(direction), chunks))
                    group.create_task(self._write(link, direction, chunks))
            for end in (client, server):
                end.writer.close()
                with contextlib.suppress(OSError):
                    await end.writer.wait_closed()
        finally:
            self._links.discard(link)
            client.close()
            server.close()

    async def _read(self, source: _End, chunks: "asyncio.Queue[tuple[float, bytes]]") -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await source.reader.read(65536):
                await chunks.put((loop.time(), data))
        await chunks.put((loop.time(), b""))

    async def _write(self, link: _Link, direction: Direction, chunks: "asyncio.Queue[tuple[float, bytes]]") -> None:
        source, target = link.source(direction), link.target(direction)
        while True:
            arrived, data = await chunks.get()
            await self._due(direction, arrived)
            if not data:
                break
            try:
                await self._carry(link, direction, data)
            except OSError:
                # The target has gone, and not because we closed it: let the source notice.
                if not target.closed_here:
                    source.close(reset=True)
        while self._faults[direction].swallow:
            link.lost.add(direction)  # the end of the connection is lost too
            await self._changed.wait()
        if source.closed_here or target.writer.is_closing():
            return
        with contextlib.suppress(OSError):
            if source.reader.exception() is not None:
                target.close(reset=True)
            else:
                target.writer.write_eof()

    async def _due(self, direction: Direction, arrived: float) -> None:
        """Wait until bytes that came at `arrived` have been delayed for long enough."""
        loop = asyncio.get_running_loop()
        while (wait := arrived + self._faults[direction].delay - loop.time()) > 0:
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, or until the faults change."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if seconds < math.inf else None):
                await self._changed.wait()

    async def _carry(self, link: _Link, direction: Direction, data: bytes) -> None:
        target = link.target(direction)
        rest = memoryview(data)
        while rest:
            faults = self._faults[direction]
            if faults.swallow:
                link.lost.add(direction)
                return
            if target.closed_here:
                return
            # As many bytes as the bandwidth allows in 20 ms.
            size = int(max(1, min(len(rest), faults.piece or math.inf, faults.bandwidth * 0.02)))
            allowance = link.allowance[direction]
            if allowance is not None:
                size = min(size, allowance)
                link.allowance[direction] = allowance - size
            target.writer.write(rest[:size])
            await target.writer.drain()
            rest = rest[size:]
            if link.allowance[direction] == 0:
                await self._cut_after_flush(link, target)
                return
            if pause := faults.pause + size / faults.bandwidth:
                await self._sleep(pause)

    async def _cut_after_flush(self, link: _Link, target: _End) -> None:
        # close() sends the buffered bytes first. abort() would drop the last of the allowed bytes.
        target.closed_here = True
        target.writer.close()
        with contextlib.suppress(OSError):
            await target.writer.wait_closed()
        link.close()
