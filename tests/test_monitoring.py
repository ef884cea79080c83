"""A real Prometheus with the shipped configuration scrapes real processes: metrics, dashboard queries and alerts.

Its rules are the shipped ones with every duration divided by 100, so that two minutes take 1.2 s. `promtool test
rules` checks the original durations.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from spheroseg.messages import Queue

from .conftest import Postgres, eventually, missing_server
from .support.lab import submit_images
from .support.ports import free_port
from .support.processes import Site, open_site
from .support.prometheus import DEPLOY, Prometheus, prometheus
from .support.rabbitmq import RABBITMQ_3, RabbitNode

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

COMPLETED, BAD, CRASHING, ATTEMPTS = 30, 2, 1, 4


@dataclass
class Stack:
    site: Site
    prometheus: Prometheus
    exporter_url: str
    # Time (time.monotonic) at which everything was running and nothing had failed yet.
    since: float

    async def submit(self, count: int, **parameters: Any) -> None:
        await submit_images(self.site.engine, count, **parameters)

    async def shows(self, expression: str, value: float) -> None:
        found: list[float | None] = []

        def is_shown() -> bool:
            found.append(self.prometheus.value(expression))
            return found[-1] == value

        try:
            await eventually(is_shown, 20)
        except AssertionError:
            raise AssertionError(f"{expression} is {found[-1]}, not {value}\n{self.site.tails()}") from None


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    with RabbitNode(RABBITMQ_3, plugins=["rabbitmq_management", "rabbitmq_prometheus"]) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    node: RabbitNode, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Start all processes and have them do some work while Prometheus scrapes them."""
    folder = tmp_path_factory.mktemp("monitoring")
    ports = {"exporter": free_port(), "ml": free_port(), "backend": free_port(), "rabbitmq": node.metrics_port}
    async with open_site(node, postgres.url, folder) as site:
        start_exporter(site, ports["exporter"])
        site.start("relay", "collect")
        # As in its container, the worker has no database.
        site.start("worker-1", DATABASE_URL="")
        site.start("worker-http", WORKER_HTTP_PORT=str(ports["ml"]))
        site.start("serve", BACKEND_PORT=str(ports["backend"]), SERVE_RELAY="false", SERVE_COLLECT="false")
        with prometheus(folder / "prometheus", ports) as server:
            await server.scrapes({"exporter", "backend", "ml", "rabbitmq"})
            # Before its first scrape Prometheus reports that the exporter is missing.
            await server.is_silent()
            stack = Stack(site, server, f"http://127.0.0.1:{ports['exporter']}", time.monotonic())
            await stack.shows('rabbitmq_queue_consumers{job="exporter",queue="segmentation.tasks"}', 2)
            await stack.submit(COMPLETED, seconds=0.1)
            await stack.submit(BAD, do="fail")
            await stack.submit(CRASHING, do="raise")
            await site.all_ended(30)
            yield stack
        await site.stop()


def start_exporter(site: Site, port: int) -> None:
    management = site.node.management_url
    site.start("exporter", EXPORTER_PORT=str(port), RABBITMQ_MANAGEMENT_URL=management)


async def test_every_job_of_the_shipped_configuration_is_scraped(stack: Stack) -> None:
    jobs = {name: "up" for name in ("exporter", "backend", "ml", "rabbitmq")}
    assert stack.prometheus.targets() == jobs


async def test_the_documented_metrics_exist_for_each_queue(stack: Stack) -> None:
    published = COMPLETED + BAD + CRASHING * ATTEMPTS
    for name, value in (("messages", 0), ("consumers", 2), ("publish", published), ("deliver_get", published)):
        full = f"message_stats_{name}" if name in ("publish", "deliver_get") else name
        await stack.shows(f'rabbitmq_queue_{full}{{job="exporter",queue="{Queue.TASKS}"}}', value)
    for queue in (Queue.RESULTS, Queue.DEAD_LETTERS):
        await stack.shows(f'rabbitmq_queue_consumers{{job="exporter",queue="{queue}"}}', 1)
    # RabbitMQ counts a dead-lettered message as delivered, but not as published.
    rejected = f'{{job="exporter",queue="{Queue.DEAD_LETTERS}"}}'
    await stack.shows(f"rabbitmq_queue_message_stats_deliver_get{rejected}", BAD + CRASHING * ATTEMPTS)
    await stack.shows(f"rabbitmq_queue_message_stats_publish{rejected}", 0)
    found = stack.prometheus.query('rabbitmq_queue_messages{job="exporter"}')
    assert {(labels["vhost"], labels["queue"]) for labels, _ in found} == {
        (stack.site.vhost, queue) for queue in Queue
    }


async def test_the_metrics_have_the_values_of_the_database(stack: Stack) -> None:
    for expression, value in (
        ('spheroseg_tasks{state="completed"}', COMPLETED),
        ('spheroseg_tasks{state="failed"}', BAD + CRASHING),
        ("spheroseg_task_waiting_seconds_count", COMPLETED),
        ("spheroseg_task_processing_seconds_count", COMPLETED),
        ('spheroseg_retries_total{reason="crashed"}', CRASHING * (ATTEMPTS - 1)),
        ("sum(spheroseg_retries_total)", CRASHING * (ATTEMPTS - 1)),
        ('spheroseg_failed_for_good_total{reason="bad_image"}', BAD),
        ('spheroseg_dead_letters{reason="crashed"}', CRASHING),
        ("sum(spheroseg_database_queue_messages)", 0),
        ("spheroseg_relay_backlog_messages", 0),
        ("spheroseg_relay_backlog_age_seconds", 0),
        ("sum(spheroseg_component_degraded)", 0),
        *((f'spheroseg_component_up{{kind="{kind}"}}', 1) for kind in ("relay", "collect", "backend", "exporter")),
        # It has no database.
        ('spheroseg_component_up{kind="worker"}', 0),
        ("spheroseg_degraded", 0),
        ("sum(spheroseg_exporter_source_up)", 2),
        ("spheroseg_worker_busy_ratio", 0),
    ):
        await stack.shows(expression, value)
    seconds = stack.prometheus.value(
        "spheroseg_task_processing_seconds_sum / spheroseg_task_processing_seconds_count"
    )
    assert seconds is not None
    assert 0.1 <= seconds < 0.5


async def test_the_busy_ratio_is_that_of_the_slots(stack: Stack) -> None:
    shown = asyncio.create_task(stack.shows("spheroseg_worker_busy_ratio", 0.5))
    # Several tasks in sequence, because one task of this length would be no progress. 15 minutes take 9 s.
    while not shown.done():
        await stack.submit(1, seconds=1)
        await stack.site.all_ended(20)
    await shown


async def test_every_query_of_the_dashboard_returns_data(stack: Stack) -> None:
    queries = dashboard_queries()
    assert len(queries) > 20
    for query in queries:
        # At least four scrapes, as in Grafana's $__rate_interval.
        values = [value for _, value in stack.prometheus.query(query.replace("$__rate_interval", "60s"))]
        assert values, f"no data: {query}"
        assert all(value == value for value in values), f"not a number: {query}"


def dashboard_queries() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    (variable,) = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert all(target["datasource"]["uid"] == "${datasource}" for target in targets)
    return [target["expr"] for target in targets]


async def test_a_task_can_be_traced_through_the_logs(stack: Stack) -> None:
    tasks = (await stack.site.tasks()).values()
    (crashed,) = [task for task in tasks if task.reason == "crashed"]
    completed = next(task for task in tasks if task.state == "completed")
    assert story(stack.site, "relay", completed.id) == [("moved to RabbitMQ", 1, None)]
    assert story(stack.site, "worker-1", completed.id) == [
        ("started", 1, completed.worker),
        ("finished", 1, completed.worker),
    ]
    assert story(stack.site, "collect", completed.id) == [("completed", 1, completed.worker)]
    for service, events in (
        ("relay", ["moved to RabbitMQ"]),
        ("worker-1", ["started", "finished"]),
        ("collect", ["attempt did not finish"]),
    ):
        told = story(stack.site, service, crashed.id)
        assert [line[:2] for line in told] == [(event, n) for n in range(1, ATTEMPTS + 1) for event in events]
        assert service == "relay" or all(worker for _, _, worker in told)


def story(site: Site, service: str, task_id: UUID) -> list[tuple[str, int, str | None]]:
    """Return event, attempt and worker of each log line of the service about the task."""
    lines = site.services[service].events()
    return [(x["event"], x["attempt"], x.get("worker")) for x in lines if x.get("task_id") == str(task_id)]


async def test_no_alert_fires_on_a_healthy_site(stack: Stack) -> None:
    seconds = int(time.monotonic() - stack.since)
    assert seconds > 5
    assert not stack.prometheus.query(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')


async def test_missing_consumers_fire_an_alert(stack: Stack) -> None:
    await stack.site.stop("worker-1")
    await stack.submit(3)
    alert = await stack.prometheus.fires("SpherosegNoConsumers")
    assert alert["labels"]["queue"] == Queue.TASKS
    # No task ends either.
    await stack.prometheus.fires("SpherosegNoProgress")
    stack.site.start("worker-1", DATABASE_URL="")
    await stack.site.all_ended(20)
    await stack.prometheus.is_silent()


async def test_a_stuck_queue_fires_an_alert(stack: Stack) -> None:
    worker = stack.site.services["worker-1"]
    worker.signal(signal.SIGSTOP)
    try:
        await stack.submit(5)
        alert = await stack.prometheus.fires("SpherosegQueueStuck")
        assert alert["labels"]["queue"] == Queue.TASKS
        assert "SpherosegNoConsumers" not in stack.prometheus.firing()
    finally:
        worker.signal(signal.SIGCONT)
    await stack.site.all_ended(20)
    await stack.prometheus.is_silent()


async def test_a_slow_relay_fires_an_alert(stack: Stack) -> None:
    relay = stack.site.services["relay"]
    relay.signal(signal.SIGSTOP)
    try:
        await stack.submit(3)
        await stack.prometheus.fires("SpherosegRelayBehind")
        await stack.shows("spheroseg_relay_backlog_messages", 3)
        age = stack.prometheus.value("spheroseg_relay_backlog_age_seconds")
        assert age is not None
        assert 0.5 < age < 30
    finally:
        relay.signal(signal.SIGCONT)
    await stack.site.all_ended(20)
    await stack.prometheus.is_silent()


async def test_growing_dead_letters_fire_an_alert(stack: Stack) -> None:
    await stack.submit(6, do="fail")
    await stack.prometheus.fires("SpherosegDeadLettersGrowing")
    # Their number stays the same, and no more are added.
    await stack.prometheus.is_silent()


async def test_an_unreachable_rabbitmq_and_a_partly_blind_exporter_fire_alerts(stack: Stack) -> None:
    await asyncio.to_thread(stack.site.node.kill)
    blind = await stack.prometheus.fires("SpherosegExporterBlind")
    assert blind["labels"]["source"] == "rabbitmq"
    await stack.prometheus.fires("SpherosegDegraded")
    for kind in ("relay", "exporter"):
        await stack.shows(f'spheroseg_component_degraded{{kind="{kind}"}}', 1)
    # Old values of RabbitMQ are not repeated, and the metrics of the database are still there.
    await eventually(lambda: not stack.prometheus.query('rabbitmq_queue_messages{job="exporter"}'))
    assert stack.prometheus.query("spheroseg_tasks")
    async with httpx.AsyncClient() as client:
        health = (await client.get(f"{stack.exporter_url}/health")).json()
    assert health["status"] == "blind"
    assert health["sources"]["database"] == "ok"
    assert "does not answer" in health["sources"]["rabbitmq"]
    await asyncio.to_thread(stack.site.node.start)
    await stack.prometheus.is_silent()


async def test_a_missing_exporter_fires_an_alert(stack: Stack) -> None:
    port = int(stack.exporter_url.rpartition(":")[2])
    await stack.site.stop("exporter")
    await stack.prometheus.fires("SpherosegExporterBlind")
    start_exporter(stack.site, port)
    await stack.prometheus.is_silent()


@pytest.mark.parametrize("arguments", [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"]])
async def test_promtool_finds_no_fault(arguments: list[str]) -> None:
    promtool(*arguments, folder=DEPLOY)


async def test_the_alerts_have_their_documented_durations(tmp_path: Path) -> None:
    for path in (DEPLOY / "alerts.yml", Path(__file__).parent / "support" / "alerts_in_time.yml"):
        shutil.copy(path, tmp_path)
    promtool("test", "rules", "alerts_in_time.yml", folder=tmp_path)


def promtool(*arguments: str, folder: Path) -> None:
    if shutil.which("promtool") is None:
        missing_server("prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
