"""The path through RabbitMQ while the node is down, wiped, in alarm, paused or untrusted."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, Queue
from spheroseg.resources import rabbit_broker
from spheroseg.settings import Settings

from .conftest import empty_database, eventually
from .support.lab import read_task, submit_images
from .support.ports import free_port
from .support.rabbitmq import RabbitNode
from .support.relays import Lab

pytestmark = pytest.mark.slow


@pytest.fixture
async def own(restored_rabbit: RabbitNode, postgres: Any) -> AsyncIterator[Lab]:
    """A laboratory with a node that the test may break."""
    with restored_rabbit.fresh_vhost() as vhost:
        async with empty_database(postgres.url) as engine:
            yield Lab(engine, restored_rabbit, vhost)


async def test_without_rabbitmq_workers_take_tasks_from_the_database(own: Lab) -> None:
    async with own.everything():
        first = await submit_images(own.engine, 5)
        await own.all_completed(first.task_ids)
        await asyncio.to_thread(own.node.kill)
        second = await submit_images(own.engine, 20)
        await own.all_completed(second.task_ids, within=10)
        await asyncio.to_thread(own.node.start)
        third = await submit_images(own.engine, 5)
        await own.all_completed(third.task_ids)

        async def is_back() -> bool:
            return bool(own.node.api("GET", f"/api/queues/{own.vhost}")[0].get("consumers", 0))

        await eventually(is_back, within=30)


async def test_the_messages_of_a_broker_that_stays_unreachable_are_queued_again(own: Lab) -> None:
    submitted = await submit_images(own.engine, 10)
    async with own.relay(), own.collecting():

        async def are_there() -> bool:
            return await own.at_rabbitmq() == 10

        await eventually(are_there)
        await asyncio.to_thread(own.node.wipe)
        async with own.working():
            await own.all_completed(submitted.task_ids, within=20)
    assert {(await read_task(own.engine, task_id)).attempt for task_id in submitted.task_ids} == {1}


@pytest.mark.parametrize("alarm", ["memory", "disk"])
async def test_workers_take_tasks_from_the_database_during_an_alarm(own: Lab, alarm: str) -> None:
    switch = own.node.memory_alarm if alarm == "memory" else own.node.disk_alarm
    async with own.everything():
        first = await submit_images(own.engine, 3)
        await own.all_completed(first.task_ids)
        await asyncio.to_thread(switch, True)
        second = await submit_images(own.engine, 10)
        await own.all_completed(second.task_ids, within=20)
        await asyncio.to_thread(switch, False)
        third = await submit_images(own.engine, 10)
        await own.all_completed(third.task_ids)
    for task_id in [*second.task_ids, *third.task_ids]:
        assert (await read_task(own.engine, task_id)).retry_count == 0


async def test_a_paused_broker_blocks_nobody(own: Lab) -> None:
    async with own.everything():
        first = await submit_images(own.engine, 3)
        await own.all_completed(first.task_ids)
        own.node.pause()
        try:
            second = await submit_images(own.engine, 10)
            await own.all_completed(second.task_ids, within=20)
        finally:
            own.node.resume()
        third = await submit_images(own.engine, 10)
        await own.all_completed(third.task_ids)


async def test_a_worker_that_knows_only_rabbitmq_waits_for_it(own: Lab) -> None:
    async with own.everything(with_database=False):
        first = await submit_images(own.engine, 3)
        await own.all_completed(first.task_ids)
        await asyncio.to_thread(own.node.kill)
        second = await submit_images(own.engine, 5)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(own.node.start)
        await own.all_completed(second.task_ids, within=60)


async def test_amqps_needs_the_given_certificate_authority(tmp_path: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    command = [*make, "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    port = free_port()
    conf = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {tmp_path}/ca.pem",
        f"ssl_options.certfile = {tmp_path}/ca.pem",
        f"ssl_options.keyfile = {tmp_path}/key.pem",
    ]
    with RabbitNode(conf=conf) as node:
        url = node.vhost_url("spheroseg", port=port).replace("amqp:", "amqps:")
        settings = Settings(rabbitmq_url=url, rabbitmq_ca_file=tmp_path / "ca.pem")
        trusting = rabbit_broker(settings)
        await trusting.publish([Message("m", "task.failed", b"{}")])
        assert await trusting.depth(Queue.RESULTS) == 1
        await trusting.close()
        suspicious = rabbit_broker(Settings(rabbitmq_url=url))
        with pytest.raises(BrokerAway, match="certificate"):
            await suspicious.publish([Message("m", "task.failed", b"{}")])
        await suspicious.close()
