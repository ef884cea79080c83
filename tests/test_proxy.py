"""The faults of the proxy, seen from both ends of a connection to an echo server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tests.conftest import eventually
from tests.support.ports import free_port
from tests.support.proxy import Proxy

pytestmark = pytest.mark.slow


class Echo:
    """An echo server that records the received bytes and counts open and ended connections."""

    def __init__(self) -> None:
        self.received = b""
        self.chunks: list[bytes] = []
        self.open = 0
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.received += data
                self.chunks.append(data)
                writer.write(data)
                await writer.drain()
        self.open -= 1
        self.ended += 1
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    await eventually(lambda: echo.open == 0, what="the proxy left connections open")
    server.close()
    await server.wait_closed()
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, what="the proxy left tasks behind")


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size: int, within: float = 5.0) -> bytes:
        async with asyncio.timeout(within):
            return await self.reader.readexactly(size)

    async def receive_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await self.receive(1, within=0.1)


@contextlib.asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    client = Client(reader, writer)
    try:
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_without_faults_bytes_and_the_end_of_a_connection_pass(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        big = bytes(range(256)) * 8192
        sending = asyncio.create_task(client.send(big))
        assert await client.receive(len(big)) == big
        await sending
        client.writer.write_eof()
        assert await client.reader.read() == b""
    await eventually(lambda: proxy.connections == 0)
    assert proxy.accepted == 1


async def test_cut_ends_both_sides_and_new_connections_work(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.send(b"a")
        await client.receive(1)
        proxy.cut()
        assert await client.reader.read() == b""
        await eventually(lambda: echo.ended == 1)
    async with connected(proxy) as client:
        await client.send(b"b")
        assert await client.receive(1) == b"b"


async def test_a_cut_in_one_direction_is_not_seen_at_the_other_end(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.send(b"a")
        await client.receive(1)
        proxy.cut("up")
        await eventually(lambda: echo.ended == 1)
        await client.send(b"into the void")
        await client.receive_nothing()
    async with connected(proxy) as client:
        await client.send(b"b")
        await client.receive(1)
        proxy.cut("down")
        assert await client.reader.read() == b""
        await asyncio.sleep(0.05)
        assert echo.open == 1


async def test_a_reset_is_an_error_at_the_client(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        await client.send(b"a")
        await client.receive(1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await client.receive(1)


async def test_a_blackhole_loses_bytes_and_restoring_cuts_its_connections(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.send(b"a")
        await client.receive(1)
        proxy.blackhole("down")
        await client.send(b"b")
        await client.receive_nothing()
        assert echo.received == b"ab"
        proxy.restore()
        assert await client.reader.read() == b""


async def test_held_bytes_arrive_after_restoring(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        proxy.hold("up")
        await client.send(b"a")
        await client.send(b"b")
        await client.receive_nothing()
        assert echo.received == b""
        proxy.restore()
        assert await client.receive(2) == b"ab"


async def test_delays_of_both_directions_add_up_but_not_those_of_chunks(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.delay(0.1)
        started = monotonic()
        for _ in range(5):
            await client.send(b"a")
            await asyncio.sleep(0.01)
        await client.receive(5)
        assert 0.2 <= monotonic() - started < 0.9


async def test_bandwidth_is_limited(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.bandwidth(100_000, "up")
        started = monotonic()
        await client.send(bytes(20_000))
        await client.receive(20_000)
        assert monotonic() - started > 0.15


async def test_sliced_bytes_arrive_in_several_chunks(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        proxy.slice(2, pause=0.01, direction="up")
        await client.send(b"abcdef")
        assert await client.receive(6) == b"abcdef"
    assert len(echo.chunks) > 1


async def test_a_data_limit_cuts_the_connection_at_that_byte(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.send(b"abc")
        await client.receive(3)
        proxy.limit_data(5, "down")
        await client.send(b"0123456789")
        assert await client.reader.read() == b"01234"
        await eventually(lambda: echo.ended == 1)


async def test_new_connections_are_refused_until_restored(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await client.send(b"a")
        assert await client.receive(1) == b"a"
        proxy.restore()
        async with connected(proxy) as another:
            await another.send(b"b")
            assert await another.receive(1) == b"b"


async def test_a_server_that_is_down_resets_the_connection() -> None:
    async with Proxy(free_port()) as proxy, connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
