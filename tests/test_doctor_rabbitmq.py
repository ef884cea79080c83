"""`spheroseg doctor` on RabbitMQ: each fault is caused at a real server and must be reported."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from spheroseg.broker.management import Management
from spheroseg.broker.rabbit import RabbitBroker
from spheroseg.messages import Message, Queue, QueueType
from spheroseg.monitoring.doctor import CHAINS, CheckResult, run_checks
from spheroseg.settings import Settings

from .conftest import Postgres, eventually, missing_server
from .support.diagnosis import as_text, diagnose, expect, expect_no_faults, expect_soon, faults_of, is_reported
from .support.ports import free_port
from .support.processes import open_site
from .support.rabbitmq import PASSWORD, RABBITMQ_3, USER, RabbitNode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself; the key lies beside it."""
    if shutil.which("openssl") is None:
        missing_server("openssl")
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate.pem"


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(certificate: Path, tls_port: int) -> Iterator[RabbitNode]:
    """One for this file, which also speaks TLS: to alarm, pause and kill."""
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    conf = [
        f"listeners.ssl.1 = 127.0.0.1:{tls_port}",
        f"ssl_options.cacertfile = {certificate}",
        f"ssl_options.certfile = {certificate}",
        f"ssl_options.keyfile = {certificate.with_name('key.pem')}",
        # Free memory of the machine on which the tests run must not decide.
        "vm_memory_high_watermark.absolute = 1GB",
    ]
    with RabbitNode(RABBITMQ_3, conf=conf) as started:
        yield started


@pytest.fixture
def vhost(node: RabbitNode) -> Iterator[str]:
    with node.fresh_vhost() as name:
        yield name


def settings_of(node: RabbitNode, vhost: str) -> dict[str, Any]:
    return {
        "enable_message_queue": True,
        "rabbitmq_url": node.vhost_url(vhost),
        "rabbitmq_management_url": node.management_url,
    }


def ask(*chains: str, **settings: Any) -> Any:
    async def again() -> list[CheckResult]:
        return await diagnose(*chains, **settings)

    return again


async def declare(node: RabbitNode, vhost: str, *policies: QueueType) -> None:
    """The topology; policies too, where a type is given."""
    broker = RabbitBroker(node.vhost_url(vhost))
    await broker.depth(Queue.TASKS)
    await broker.close()
    for queue_type in policies:
        management = Management(node.management_url, node.vhost_url(vhost))
        await management.set_policies(queue_type)
        await management.close()


@asynccontextmanager
async def a_channel(node: RabbitNode, vhost: str) -> AsyncIterator[Any]:
    connection = await aio_pika.connect(node.vhost_url(vhost), client_properties={"connection_name": "a test"})
    try:
        yield await connection.channel()
    finally:
        await connection.close()


async def test_an_unreachable_server_is_reported_with_advice() -> None:
    found = await diagnose(
        "RabbitMQ",
        "management API",
        enable_message_queue=True,
        rabbitmq_url=f"amqp://x:y@127.0.0.1:{free_port()}/x",
        rabbitmq_management_url=f"http://x:y@127.0.0.1:{free_port()}",
    )
    expect(found, "problem", "Connection refused", "docker-compose ps rabbitmq", "logs rabbitmq", "RABBITMQ_URL")
    expect(found, "skipped", "the management API does not answer", "rabbitmq-plugins enable")
    found = await diagnose("RabbitMQ", enable_message_queue=True, rabbitmq_url="amqp://x:y@nowhere.invalid/x")
    expect(found, "problem", "no host has the name nowhere.invalid", "inside Compose it is rabbitmq")
    for url in ("localhost:5672", "amqp://x:y@localhost:port/x"):
        found = await diagnose("RabbitMQ", enable_message_queue=True, rabbitmq_url=url)
        expect(found, "problem", "no AMQP address")
    found = await diagnose("management API", enable_message_queue=True)
    expect(found, "skipped", "RABBITMQ_MANAGEMENT_URL is not set", "tag monitoring")
    found = await diagnose("RabbitMQ", "management API")
    assert all(finding.verdict in ("ok", "skipped") for finding in found)
    expect(found, "skipped", "ENABLE_MESSAGE_QUEUE=false")


async def test_wrong_credentials_and_missing_rights_are_reported_as_such(node: RabbitNode, vhost: str) -> None:
    place = f"127.0.0.1:{node.port}"
    wrong = {"enable_message_queue": True, "rabbitmq_url": f"amqp://{USER}:wrong@{place}/{vhost}"}
    found = await diagnose("RabbitMQ", **wrong)
    expect(found, "problem", "ACCESS_REFUSED", f"the user {USER}", "RABBITMQ_URL")
    found = await diagnose("RabbitMQ", **settings_of(node, "nope"))
    expect(found, "problem", "there is no vhost nope", "rabbitmqctl add_vhost nope", "set_permissions")
    node.api("PUT", "/api/users/poor", {"password": "poor", "tags": ""})
    nothing = {"configure": "^$", "write": "^$", "read": "^$"}
    node.api("PUT", f"/api/permissions/{vhost}/poor", nothing)
    poor = {
        "enable_message_queue": True,
        "rabbitmq_url": f"amqp://poor:poor@{place}/{vhost}",
        "rabbitmq_management_url": f"http://poor:poor@127.0.0.1:{node.management_port}",
    }
    found = await diagnose("RabbitMQ", "management API", **poor)
    expect(found, "problem", "Channel closed by broker", "ACCESS_REFUSED", f"set_permissions -p {vhost} poor")
    expect(found, "skipped", "refuses this user", "set_user_tags")


async def test_tls_is_used_and_its_faults_are_reported(
    node: RabbitNode, vhost: str, certificate: Path, tls_port: int, tmp_path: Path
) -> None:
    url = f"amqps://{USER}:{PASSWORD}@localhost:{tls_port}/{vhost}"
    trusted = {"enable_message_queue": True, "rabbitmq_url": url, "rabbitmq_ca_file": certificate}
    expect(await diagnose("RabbitMQ", **trusted), "ok", "over TLS")
    untrusted = {"enable_message_queue": True, "rabbitmq_url": url}
    expect(await diagnose("RabbitMQ", **untrusted), "problem", "certificate", "not trusted", "RABBITMQ_CA_FILE")
    plain = {**trusted, "rabbitmq_url": url.replace(str(tls_port), str(node.port))}
    expect(await diagnose("RabbitMQ", **plain), "problem", "does not speak TLS", "5671")
    missing = {**trusted, "rabbitmq_ca_file": tmp_path / "missing.pem"}
    expect(await diagnose("RabbitMQ", **missing), "problem", "RABBITMQ_CA_FILE cannot be read", "PEM")


async def test_missing_and_different_declarations_are_reported(node: RabbitNode, vhost: str) -> None:
    settings = settings_of(node, vhost)
    found = await diagnose("RabbitMQ", "management API", **settings)
    expect(found, "warning", "segmentation.tasks does not exist yet", "spheroseg broker declare")
    assert not is_reported(found, "problem"), as_text(found)
    assert node.api("GET", f"/api/queues/{vhost}") == [], "nothing was declared"
    async with a_channel(node, vhost) as channel:
        await channel.declare_queue(Queue.TASKS, durable=True, arguments={"x-max-priority": 3})
    await declare(node, vhost)
    found = await diagnose("management API", **settings)
    expect(found, "problem", "x-max-priority = 3, not 10", "delete the queue")
    expect(
        found,
        "warning",
        "the policy of segmentation.tasks has message-ttl = nothing, not 3600000; max-length",
        "broker declare",
    )
    found = await diagnose("RabbitMQ", **{**settings, "rabbitmq_queue_type": "quorum"})
    expect(found, "warning", "quorum on 3.10", "classic")


async def test_stuck_messages_and_a_full_queue_are_reported(node: RabbitNode, vhost: str) -> None:
    await declare(node, vhost)
    settings = settings_of(node, vhost)
    expect(
        await diagnose("RabbitMQ", **settings),
        "warning",
        "segmentation.tasks: no worker process consumes",
        "docker-compose up",
    )
    body = {"pattern": "^segmentation", "definition": {"max-length": 5}, "apply-to": "queues"}
    node.api("PUT", f"/api/policies/{vhost}/short", body)
    broker = RabbitBroker(node.vhost_url(vhost))
    await broker.publish([Message(f"m{number}", "task.new", b"{}") for number in range(4)])
    await broker.publish([Message(f"m{number}", "task.completed", b"{}") for number in range(5)])
    await broker.close()
    found = await expect_soon(
        ask("RabbitMQ", "management API", **settings),
        "problem",
        "segmentation.results is full: 5 of 5",
        "collect",
    )
    expect(found, "warning", "segmentation.tasks is nearly full: 4 of 5", "max-length")
    expect(
        found,
        "problem",
        "segmentation.tasks: 4 messages are stuck, because no worker process consumes",
        "spheroseg worker",
    )
    expect(found, "problem", "segmentation.results: 5 messages are stuck", "spheroseg collect")


async def test_tasks_that_stay_unacknowledged_for_too_long_are_reported(node: RabbitNode, vhost: str) -> None:
    await declare(node, vhost)
    settings = {**settings_of(node, vhost), "task_timeout_seconds": 1}
    broker = RabbitBroker(node.vhost_url(vhost))
    await broker.publish([Message("m1", "task.new", b"{}"), Message("m2", "task.new", b"{}")])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        assert len(await consumer.take(1, 5.0)) == 1
        expect(await diagnose("management API", **settings), "ok", "none for too long")
        found = await expect_soon(
            ask("management API", **settings), "problem", "1 task is unacknowledged at workers", within=40.0
        )
        expect(found, "problem", "none was settled in the last 11 s", "restart them", "1 more wait")
    await broker.close()
    expect(
        await diagnose("management API", **{**settings, "task_timeout_seconds": 3600}),
        "skipped",
        "the API keeps 600 s",
    )


async def test_alarms_are_reported_with_their_consequences(node: RabbitNode, vhost: str) -> None:
    await declare(node, vhost)
    settings = settings_of(node, vhost)
    async with a_channel(node, vhost) as channel:
        await asyncio.to_thread(node.memory_alarm, True)
        await asyncio.to_thread(node.disk_alarm, True)
        # Hangs until they are over.
        publishing = asyncio.ensure_future(channel.default_exchange.publish(aio_pika.Message(b"x"), Queue.RESULTS))
        try:
            found = await diagnose("RabbitMQ", **settings)
            expect(found, "problem", "RabbitMQ accepts no messages", "alarm", "rabbitmqctl status", "nothing is lost")
            # The API tells of each a little later, and not of all at the same moment.
            for words in (
                ("RabbitMQ blocks 1 of 1 connection: a test", "alarm"),
                (f"memory alarm on {node.name}", "vm_memory_high_watermark"),
                (f"disk alarm on {node.name}", "disk_free_limit"),
            ):
                await expect_soon(ask("management API", **settings), "problem", *words)
        finally:
            await asyncio.to_thread(node.memory_alarm, False)
            await asyncio.to_thread(node.disk_alarm, False)
        await publishing
    await expect_soon(ask("management API", **settings), "ok", f"none on {node.name}")


async def test_memory_and_disk_near_their_limits_are_reported(node: RabbitNode, vhost: str) -> None:
    # A node that has just started has not measured them yet.
    await eventually(lambda: "mem_used" in node.api("GET", "/api/nodes")[0])
    (figures,) = node.api("GET", "/api/nodes")
    memory, disk = int(1.15 * figures["mem_used"]), figures["disk_free"] - 100_000_000
    node.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({{absolute, {memory}}})")
    node.evaluate(f"rabbit_disk_monitor:set_disk_free_limit({disk})")
    try:
        again = ask("management API", **settings_of(node, vhost))
        await expect_soon(again, "warning", "near its disk alarm", "free disk space")
        await expect_soon(again, "warning", "near its memory alarm", "vm_memory_high_watermark")
    finally:
        await asyncio.to_thread(node.memory_alarm, False)
        await asyncio.to_thread(node.disk_alarm, False)


async def test_a_channel_that_the_broker_closes_is_reported_with_its_reason(node: RabbitNode, vhost: str) -> None:
    await declare(node, vhost)
    before = node.evaluate("{ok, Size} = application:get_env(rabbit, max_message_size), Size")
    node.evaluate("application:set_env(rabbit, max_message_size, 100000)")
    try:
        found = await diagnose("RabbitMQ", **settings_of(node, vhost))
    finally:
        node.evaluate(f"application:set_env(rabbit, max_message_size, {before})")
    expect(found, "problem", "Channel closed by broker", "larger than configured max size 100000", "max_message_size")


async def test_a_wrong_clock_of_rabbitmq_is_reported(node: RabbitNode, vhost: str) -> None:
    chosen = [chain for chain in CHAINS if chain[0].name == "management API"]

    def read() -> Settings:
        return Settings(_env_file=None, **settings_of(node, vhost))

    found = await run_checks(read, chains=chosen, now=lambda: datetime.now(UTC) + timedelta(hours=1))
    expect(found, "warning", "the clock of RabbitMQ is 3", "behind this machine's", "certificates")


async def test_a_frozen_server_is_reported(node: RabbitNode) -> None:
    settings = {"enable_message_queue": True, "rabbitmq_url": node.url}
    await asyncio.to_thread(node.pause)
    try:
        found = await diagnose("RabbitMQ", **settings)
    finally:
        node.resume()
    expect(found, "problem", "accepts the connection, but does not answer", "frozen or overloaded")
    expect(await diagnose("RabbitMQ", **settings), "ok", "3.10")


@pytest.mark.parametrize("release", ["node", "rabbit_4"])
async def test_a_healthy_site_has_no_problem(
    release: str, request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path
) -> None:
    rabbit: RabbitNode = request.getfixturevalue(release)
    async with open_site(rabbit, postgres.url, tmp_path) as site:
        await declare(rabbit, site.vhost, QueueType.CLASSIC)
        site.start("relay", "collect", "worker-1")
        settings = {**settings_of(rabbit, site.vhost), "database_url": site.database_url}
        (tmp_path / "storage").mkdir()
        settings["storage_url"] = str(tmp_path / "storage")
        chains = ["database", "storage", "RabbitMQ", "management API"]

        async def is_healthy() -> bool:
            found[:] = await diagnose(*chains, **settings)
            return not faults_of(found)

        found: list[CheckResult] = []
        try:
            await eventually(is_healthy, 60.0)
        except AssertionError:
            expect_no_faults(found)
        expect(found, "ok", "collect 1, worker 1")
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "spheroseg.cli", "doctor"],
            env={**os.environ, **{name.upper(): str(value) for name, value in settings.items()}},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "no problems, no warnings" in done.stdout
        assert not done.stderr


async def test_a_killed_server_is_reported(node: RabbitNode) -> None:
    settings = {"enable_message_queue": True, "rabbitmq_url": node.url}
    await asyncio.to_thread(node.kill)
    expect(await diagnose("RabbitMQ", **settings), "problem", "Connection refused: nothing listens", "RabbitMQ runs")
