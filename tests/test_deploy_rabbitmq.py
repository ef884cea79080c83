"""deploy/rabbitmq as it is, on a node of each release: every limit is seen to hold."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, ProbableAuthenticationError

from spheroseg.broker.credentials import is_password
from spheroseg.broker.topology import EXCHANGE, definitions
from spheroseg.messages import Queue, QueueType
from spheroseg.settings import Settings

from .conftest import eventually, missing_server
from .support.rabbitmq import RABBITMQ_3, RABBITMQ_4, USER, VHOST, RabbitNode, Release
from .test_queues_command import spheroseg

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[1] / "deploy" / "rabbitmq"
PASSWORD = "spheroseg_secret"  # noqa: S105 (the specification's, for development)
MB = 1024**2


@pytest.fixture(scope="module", params=[RABBITMQ_3, RABBITMQ_4], ids=lambda release: f"rabbitmq-{release.name}")
def node(request: pytest.FixtureRequest) -> Iterator[RabbitNode]:
    release: Release = request.param
    if not release.installed:
        if release == RABBITMQ_3:
            missing_server("RabbitMQ 3.10")
        pytest.skip("RabbitMQ 4.0 could not be prepared on this machine: make servers says why")
    with RabbitNode(release, shipped=SHIPPED, password=PASSWORD) as started:
        yield started


@pytest.fixture
async def channel(node: RabbitNode) -> AsyncIterator[AbstractChannel]:
    """On empty queues, with confirms."""
    for queue in Queue:
        node.purge(queue)
    async with await aio_pika.connect(node.url) as connection, connection.channel() as opened:
        yield opened


async def publish(channel: AbstractChannel, body: bytes, key: str = "task.new") -> None:
    exchange = await channel.get_exchange(EXCHANGE, ensure=False)
    await exchange.publish(aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT), key, timeout=60)


async def waiting(channel: AbstractChannel, queue: Queue) -> int | None:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count


async def death(channel: AbstractChannel) -> dict[str, Any]:
    """Why the oldest dead letter died; waits for it."""
    queue = await channel.get_queue(Queue.DEAD_LETTERS, ensure=False)
    found: list[Any] = []

    async def is_there() -> bool:
        found.append(await queue.get(no_ack=True, fail=False))
        return found[-1] is not None

    await eventually(is_there)
    deaths: list[dict[str, Any]] = found[-1].headers["x-death"]
    return deaths[0]


def in_force(node: RabbitNode, queue: Queue) -> dict[str, Any]:
    policy = node.api("GET", f"/api/queues/{VHOST}/{queue}").get("effective_policy_definition")
    return policy or {}


def resident_bytes(node: RabbitNode) -> int:
    return int(Path(f"/proc/{node.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def lowered(node: RabbitNode, queue: Queue, **limits: int) -> Iterator[None]:
    """The shipped policy with another number in it; the queue knows it before it sees the next message."""
    path = f"/api/policies/{VHOST}/{queue}"
    shipped = node.api("GET", path)
    node.api("PUT", path, {**shipped, "definition": {**shipped["definition"], **limits}})
    try:
        yield
    finally:
        node.api("PUT", path, shipped)


def test_the_definitions_are_what_the_topology_says_with_the_specified_user() -> None:
    shipped = json.loads((SHIPPED / "definitions.json").read_text())
    (user,) = shipped.pop("users")
    (permission,) = shipped.pop("permissions")
    assert shipped == definitions(QueueType.CLASSIC)
    assert is_password(PASSWORD, user["password_hash"])
    assert not is_password("another", user["password_hash"])
    assert (user["name"], permission["user"], permission["vhost"]) == (USER, USER, VHOST)


def test_a_file_with_another_user_is_made_by_one_command_that_shows_no_password() -> None:
    command = ("broker", "definitions", "--user", "microscopy", "--vhost", "lab")
    printed = spheroseg(*command, env={"RABBITMQ_PASSWORD": "at your own"})
    made = json.loads(printed)
    (user,) = made["users"]
    assert is_password("at your own", user["password_hash"])
    assert "at your own" not in printed
    assert (made["permissions"][0]["user"], made["permissions"][0]["vhost"]) == ("microscopy", "lab")
    assert "set RABBITMQ_PASSWORD" in spheroseg(*command, env={"RABBITMQ_PASSWORD": ""}, code=2)


def test_only_the_specified_user_exists(node: RabbitNode) -> None:
    assert node.api("GET", "/api/whoami")["name"] == USER
    users = json.loads(node.ctl("list_users", "--formatter", "json"))
    assert [user["user"] for user in users] == [USER]


async def test_guest_is_refused(node: RabbitNode) -> None:
    with pytest.raises(ProbableAuthenticationError):
        await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{node.port}/{VHOST}")


async def test_the_check_finds_nothing_to_complain_about(node: RabbitNode) -> None:
    # The API shows the policy of a queue five seconds after it came into force.
    await eventually(lambda: all(in_force(node, queue) for queue in Queue), within=15)
    env = {"RABBITMQ_URL": node.url, "RABBITMQ_MANAGEMENT_URL": node.management_url}
    assert "as it should be" in spheroseg("broker", "check", env=env)


async def test_the_node_reports_the_memory_limit_and_an_idle_one_is_far_below_it(node: RabbitNode) -> None:
    def reports() -> bool:
        (found,) = node.api("GET", "/api/nodes")
        return (found.get("mem_limit"), found.get("disk_free_limit")) == (512_000_000, 1_000_000_000)

    await eventually(reports, within=15)
    assert resident_bytes(node) < 300_000_000
    assert node.alarms() == set()


def test_a_consumer_may_keep_a_task_for_longer_than_the_deadline_and_the_grace(node: RabbitNode) -> None:
    allowed = int(node.evaluate("application:get_env(rabbit, consumer_timeout)").removeprefix("{ok, ")[:-1])
    assert allowed > 2 * 1000 * Settings().task_timeout_seconds


async def test_tasks_live_an_hour_dead_letters_a_day_and_no_queue_grows_for_ever(node: RabbitNode) -> None:
    await eventually(lambda: all(in_force(node, queue) for queue in Queue), within=15)
    hour = 3_600_000
    tasks = {"message-ttl": hour, "max-length": 100_000, "overflow": "reject-publish-dlx"}
    assert in_force(node, Queue.TASKS) == tasks
    assert in_force(node, Queue.RESULTS) == {"max-length": 1_000_000, "overflow": "reject-publish"}
    assert in_force(node, Queue.DEAD_LETTERS) == {"message-ttl": 24 * hour, "max-length": 1_000_000}


async def test_a_task_that_is_too_old_is_dead_lettered(node: RabbitNode, channel: AbstractChannel) -> None:
    with lowered(node, Queue.TASKS, **{"message-ttl": 1}):
        await publish(channel, b"old")
        found = await death(channel)
    assert (found["reason"], found["queue"]) == ("expired", Queue.TASKS)


async def test_a_task_too_many_is_refused_to_the_publisher_and_dead_lettered(
    node: RabbitNode, channel: AbstractChannel
) -> None:
    with lowered(node, Queue.TASKS, **{"max-length": 2}):
        await publish(channel, b"first")
        await publish(channel, b"second")
        with pytest.raises(DeliveryError):
            await publish(channel, b"too many")
        assert await waiting(channel, Queue.TASKS) == 2
        found = await death(channel)
    assert (found["reason"], found["queue"]) == ("maxlen", Queue.TASKS)


async def test_a_report_too_many_is_refused_to_the_worker_which_keeps_it(
    node: RabbitNode, channel: AbstractChannel
) -> None:
    with lowered(node, Queue.RESULTS, **{"max-length": 1}):
        await publish(channel, b"first", "task.failed")
        with pytest.raises(DeliveryError):
            await publish(channel, b"too many", "task.failed")
    assert await waiting(channel, Queue.DEAD_LETTERS) == 0


async def test_a_message_of_128_mb_is_taken_and_one_byte_more_is_refused(
    node: RabbitNode, channel: AbstractChannel
) -> None:
    limit = "element(2, application:get_env(rabbit, vm_memory_high_watermark))"
    # One such message is enough for the memory alarm, which is not what is asked here.
    node.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 8000000000})")
    try:
        await publish(channel, bytes(128 * MB))
        assert await waiting(channel, Queue.TASKS) == 1
        node.purge(Queue.TASKS)
        with pytest.raises(ChannelPreconditionFailed, match="larger than configured max size 134217728"):
            await publish(channel, bytes(128 * MB + 1))
    finally:
        node.evaluate("[erlang:garbage_collect(Process) || Process <- erlang:processes()], ok")
        node.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({limit})")


def test_the_debug_commands_show_our_virtual_host(node: RabbitNode) -> None:
    # As the container finds it: first in the PATH, before the server's own.
    folder = "/spheroseg/bin"
    script = (SHIPPED / "bin" / "rabbitmqctl").read_text()

    def rabbitmqctl(*arguments: str) -> str:
        chroot = [] if node.release.root == Path("/") else ["chroot", str(node.release.root)]
        done = subprocess.run(
            [*chroot, "/bin/sh", "-c", script, f"{folder}/rabbitmqctl", *arguments],
            env={**node._environment(), "PATH": f"{folder}:/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for arguments in (["list_queues"], ["list_queues", "name", "messages", "consumers"]):
        assert all(f"{queue}\t0" in rabbitmqctl(*arguments) for queue in Queue)
    assert "Listing connections" in rabbitmqctl("list_connections")
    assert f"in vhost '{VHOST}'" in rabbitmqctl("purge_queue", "segmentation.dlq")
    assert "segmentation" not in rabbitmqctl("list_queues", "-p", "/"), "who names another one gets that"


def test_what_was_changed_while_the_node_ran_outlives_a_restart(node: RabbitNode) -> None:
    path = f"/api/policies/{VHOST}/{Queue.TASKS}"
    with lowered(node, Queue.TASKS, **{"max-length": 7}):
        # All but the Erlang machine, which 3.10 takes its time to stop.
        node.ctl("stop_app")
        node.ctl("start_app")
        assert node.api("GET", path)["definition"]["max-length"] == 7
