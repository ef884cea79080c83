"""The faults that the proxy makes, seen from both ends of a connection to an echo server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tests.conftest import eventually
from tests.support.ports import free_port
from tests.support.proxy import Proxy


class Echo:
    """Sends back what it gets; remembers what came and how many connections are open."""

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

    async def says(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hears(self, size: int, within: float = 5.0) -> bytes:
        async with asyncio.timeout(within):
            return await self.reader.readexactly(size)

    async def hears_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await self.hears(1, within=0.1)


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


async def test_without_faults_bytes_and_ends_pass(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        big = bytes(range(256)) * 8192
        sending = asyncio.create_task(client.says(big))
        assert await client.hears(len(big)) == big
        await sending
        client.writer.write_eof()
        assert await client.reader.read() == b""
    await eventually(lambda: proxy.connections == 0)
    assert proxy.accepted == 1


async def test_cut_ends_both_sides_and_new_connections_work(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.says(b"a")
        await client.hears(1)
        proxy.cut()
        assert await client.reader.read() == b""
        await eventually(lambda: echo.ended == 1)
    async with connected(proxy) as client:
        await client.says(b"b")
        assert await client.hears(1) == b"b"


async def test_cut_in_one_direction_leaves_the_other_end_unaware(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.says(b"a")
        await client.hears(1)
        proxy.cut("up")
        await eventually(lambda: echo.ended == 1)
        await client.says(b"into the void")
        await client.hears_nothing()
    async with connected(proxy) as client:
        await client.says(b"b")
        await client.hears(1)
        proxy.cut("down")
        assert await client.reader.read() == b""
        await asyncio.sleep(0.05)
        assert echo.open == 1


async def test_reset_is_an_error_at_the_client(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        await client.says(b"a")
        await client.hears(1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await client.hears(1)


async def test_a_blackhole_swallows_and_its_connections_end_with_it(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.says(b"a")
        await client.hears(1)
        proxy.blackhole("down")
        await client.says(b"b")
        await client.hears_nothing()
        assert echo.received == b"ab"
        proxy.restore()
        assert await client.reader.read() == b""


async def test_what_is_held_arrives_in_the_end(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        proxy.hold("up")
        await client.says(b"a")
        await client.says(b"b")
        await client.hears_nothing()
        assert echo.received == b""
        proxy.restore()
        assert await client.hears(2) == b"ab"


async def test_delay_adds_up_over_both_directions_and_not_over_chunks(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.delay(0.1)
        started = monotonic()
        for _ in range(5):
            await client.says(b"a")
            await asyncio.sleep(0.01)
        await client.hears(5)
        assert 0.2 <= monotonic() - started < 0.9


async def test_bandwidth_is_a_limit(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.bandwidth(100_000, "up")
        started = monotonic()
        await client.says(bytes(20_000))
        await client.hears(20_000)
        assert monotonic() - started > 0.15


async def test_slices_arrive_as_parts(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        proxy.slice(2, pause=0.01, direction="up")
        await client.says(b"abcdef")
        assert await client.hears(6) == b"abcdef"
    assert len(echo.chunks) > 1


async def test_limited_data_ends_the_connection_at_that_byte(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.says(b"abc")
        await client.hears(3)
        proxy.limit_data(5, "down")
        await client.says(b"0123456789")
        assert await client.reader.read() == b"01234"
        await eventually(lambda: echo.ended == 1)


async def test_refused_until_restored(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await client.says(b"a")
        assert await client.hears(1) == b"a"
        proxy.restore()
        async with connected(proxy) as another:
            await another.says(b"b")
            assert await another.hears(1) == b"b"


async def test_a_server_that_is_down_is_a_reset() -> None:
    async with Proxy(free_port()) as proxy, connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.hears(1)
