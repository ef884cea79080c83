"""A TCP proxy on loopback that does to a connection what networks do: cut, reset, lose, hold, slow, slice."""

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
    """What bytes in one direction meet."""

    delay: float = 0.0
    bandwidth: float = math.inf  # bytes/s
    piece: int | None = None
    pause: float = 0.0  # after each piece, s
    limit: int | None = None  # bytes of a new connection, until it is cut
    swallow: bool = False


@dataclass(eq=False)
class _End:
    """One of a link's two sockets: bytes of a direction come in here, those of the other leave."""

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
    """A client's connection and the one to the server behind it."""

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

    A fault is for the connections that there are and for those to come, in one direction or (None) in both; different
    faults add up, and `restore` ends them all. `cut` and `reset` strike once.
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
        """Those open now."""
        return len(self._links)

    def cut(self, direction: Direction | None = None) -> None:
        """Closes every connection. With a direction only the end that it leads to sees that: the other stays open."""
        self._close(direction, reset=False)

    def reset(self, direction: Direction | None = None) -> None:
        """As cut, but with RST: what is on the way is lost as well."""
        self._close(direction, reset=True)

    def blackhole(self, direction: Direction | None = None) -> None:
        """Bytes are taken and go nowhere; connections stay open. `restore` cuts those that lost some."""
        for one in self._each(direction):
            self._faults[one].swallow = True
        self._wake()

    def hold(self, direction: Direction | None = None) -> None:
        """Bytes, and the end of a connection, wait for `restore` and then go on: a partition that heals."""
        self.delay(math.inf, direction)

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Each byte arrives that much later; as many may be on the way."""
        for one in self._each(direction):
            self._faults[one].delay = seconds
        self._wake()

    def bandwidth(self, bytes_per_second: float, direction: Direction | None = None) -> None:
        """For each connection."""
        for one in self._each(direction):
            self._faults[one].bandwidth = bytes_per_second
        self._wake()

    def slice(self, size: int = 1, pause: float = 0.001, direction: Direction | None = None) -> None:
        """Pieces of `size` bytes, `pause` seconds apart: frames come in parts."""
        for one in self._each(direction):
            self._faults[one].piece, self._faults[one].pause = size, pause
        self._wake()

    def limit_data(self, size: int, direction: Direction | None = None) -> None:
        """Every connection is cut, on both sides, after `size` more bytes in that direction."""
        for one in self._each(direction):
            self._faults[one].limit = size
            for link in self._links:
                link.allowance[one] = size
        self._wake()

    def refuse(self) -> None:
        """New connections are refused; those that there are stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def restore(self, direction: Direction | None = None) -> None:
        """No more faults in that direction; in both: new connections are accepted, too."""
        for one in self._each(direction):
            self._faults[one] = _Faults()
            for link in list(self._links):
                link.allowance[one] = None
                # A stream with a hole is nothing that TCP would ever deliver.
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
        except OSError:  # gone again
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
                # The target is gone and nobody here closed it: the source is to see that.
                if not target.closed_here:
                    source.close(reset=True)
        while self._faults[direction].swallow:
            link.lost.add(direction)  # the end of the connection, too, got lost
            await self._changed.wait()
        if source.closed_here or target.writer.is_closing():
            return
        with contextlib.suppress(OSError):
            if source.reader.exception() is not None:
                target.close(reset=True)
            else:
                target.writer.write_eof()

    async def _due(self, direction: Direction, arrived: float) -> None:
        """Returns once bytes that came at `arrived` have been on the way for long enough."""
        loop = asyncio.get_running_loop()
        while (wait := arrived + self._faults[direction].delay - loop.time()) > 0:
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        """Shorter where the faults change meanwhile."""
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
            # 20 ms worth of bytes at a time.
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
        # close() alone sends what is buffered; abort would drop the last of the bytes that are allowed.
        target.closed_here = True
        target.writer.close()
        with contextlib.suppress(OSError):
            await target.writer.wait_closed()
        link.close()
