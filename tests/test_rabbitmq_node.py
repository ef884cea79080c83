"""The RabbitMQ nodes of the tests: they start, die, pause, raise alarms and keep confirmed messages."""

import asyncio
import contextlib

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from tests.conftest import eventually, missing_server
from tests.support.rabbitmq import RABBITMQ_3, NodeError, RabbitNode

pytestmark = pytest.mark.slow


def persistent(body: bytes) -> aio_pika.Message:
    return aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


async def publish(connection: AbstractConnection, queue: str, body: bytes, within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True)
        await channel.default_exchange.publish(persistent(body), routing_key=queue)
        await channel.close()


async def depth(url: str, queue: str) -> int | None:
    async with await aio_pika.connect(url) as connection:
        declared = await (await connection.channel()).declare_queue(queue, durable=True)
        return declared.declaration_result.message_count


async def _depth_is(url: str, queue: str, expected: int) -> bool:
    return await depth(url, queue) == expected


async def test_each_test_gets_an_empty_virtual_host(rabbit: RabbitNode, rabbit_vhost: str, rabbit_url: str) -> None:
    async with await aio_pika.connect(rabbit_url) as connection:
        await publish(connection, "q", b"one")
    assert await depth(rabbit_url, "q") == 1
    with rabbit.fresh_vhost() as other:
        assert await depth(rabbit.vhost_url(other), "q") == 0
    names = {vhost["name"] for vhost in rabbit.api("GET", "/api/vhosts")}
    assert rabbit_vhost in names
    assert other not in names
    rabbit.purge("q", rabbit_vhost)
    assert await depth(rabbit_url, "q") == 0


def test_each_fixture_has_the_release_of_its_id(rabbit: RabbitNode) -> None:
    assert rabbit.ctl("version").startswith(rabbit.release.name + ".")
    assert rabbit.evaluate("1 + 1") == "2"


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_an_alarm_blocks_publishers_until_it_ends(rabbit: RabbitNode, rabbit_url: str, kind: str) -> None:
    alarm = rabbit.memory_alarm if kind == "memory" else rabbit.disk_alarm
    connection = await aio_pika.connect(rabbit_url)
    async with connection:
        await publish(connection, "q", b"before")
        alarm(True)
        try:
            assert rabbit.alarms() == {kind}
            channel = await connection.channel()
            with pytest.raises(TimeoutError):
                await channel.default_exchange.publish(aio_pika.Message(b"now"), routing_key="q", timeout=0.3)
        finally:
            alarm(False)
        assert rabbit.alarms() == set()
        await publish(connection, "q", b"after")
    # The message whose publishing timed out was stored after all.
    assert await depth(rabbit_url, "q") == 3


async def test_connections_are_closed_by_the_server(rabbit: RabbitNode, rabbit_url: str) -> None:
    connection = await aio_pika.connect(rabbit_url)
    closed = asyncio.Event()
    connection.close_callbacks.add(lambda *_: closed.set())
    rabbit.close_connections()
    async with asyncio.timeout(10):
        await closed.wait()
    await connection.close()


async def test_a_killed_node_keeps_confirmed_messages_and_a_wiped_node_nothing(own_rabbit: RabbitNode) -> None:
    async with await aio_pika.connect(own_rabbit.url) as connection:
        await publish(connection, "q", b"kept")
        channel = await connection.channel()
        own_rabbit.pause()
        with pytest.raises(TimeoutError):
            await channel.default_exchange.publish(persistent(b"late"), routing_key="q", timeout=0.3)
        own_rabbit.resume()
        await eventually(lambda: _depth_is(own_rabbit.url, "q", 2))
        # Nobody waited for the confirm of the late message. After the next confirm, all earlier messages are on disk.
        await publish(connection, "q", b"sure")
        first = own_rabbit.pid
        own_rabbit.kill()
        own_rabbit.kill()
        assert own_rabbit.pid is None
    with pytest.raises(OSError, match="Connect call failed"):
        await aio_pika.connect(own_rabbit.url)
    own_rabbit.start()
    assert own_rabbit.pid not in (None, first)
    # The node may accept clients before it has loaded all of its messages.
    await eventually(lambda: _depth_is(own_rabbit.url, "q", 3))
    own_rabbit.stop()
    assert own_rabbit.pid is None
    own_rabbit.wipe()
    own_rabbit.start()
    assert await depth(own_rabbit.url, "q") == 0


def test_a_test_chooses_configuration_and_definitions() -> None:
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    queue = {"name": "given", "vhost": "spheroseg", "durable": True, "auto_delete": False, "arguments": {}}
    with RabbitNode(conf=["max_message_size = 1000"], definitions={"queues": [queue]}) as node:
        assert node.evaluate("application:get_env(rabbit, max_message_size)") == "{ok, 1000}"
        node.delete_queue("given")
        folder = node.folder
    assert not folder.exists()


def test_a_node_that_refuses_to_boot_says_why() -> None:
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    node = RabbitNode(conf=["no_such_key = 1"])
    with contextlib.closing(node), pytest.raises(NodeError, match="unknown variable: no_such_key"):
        node.start()
