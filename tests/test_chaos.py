"""The whole message-driven path as real processes, while they, RabbitMQ and the network between them fail.

In each test every task ends, a completed task has exactly one result, no task fails because of the broker, and the
logs say what happened. CHAOS_SEED chooses another schedule.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spheroseg.queueing.submit import cancel

from .conftest import Postgres, eventually
from .support.lab import submit_images
from .support.processes import Site, open_site
from .support.proxy import Proxy
from .support.rabbitmq import RabbitNode

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("CHAOS_SEED", "20"))
WORKERS = ("worker-1", "worker-2")


@pytest.fixture
async def site(restored_rabbit: RabbitNode, postgres: Postgres, tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(restored_rabbit, postgres.url, tmp_path) as opened:
        yield opened


FAULTS = Counter(
    {
        "kill relay": 4,
        "kill worker-1": 3,
        "kill worker-2": 3,
        "kill collect": 3,
        "kill broker": 3,
        "pause relay": 1,
        "pause worker-1": 2,
        "pause worker-2": 1,
    }
)
BATCHES = 40
BATCH_SIZE = 50


class Chaos:
    """Executes a schedule of faults: one at a time for each process, but faults of different processes overlap."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.done: Counter[str] = Counter()
        self._busy = {name: asyncio.Lock() for name in (*site.services, "broker")}

    async def run(self, gap: float) -> None:
        schedule = sorted(FAULTS.elements())
        self.rng.shuffle(schedule)
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                await asyncio.sleep(gap * self.rng.uniform(0.3, 1.7))
                kind, target = fault.split()
                group.create_task(self._strike(fault, kind, target, self.rng.uniform(0.0, 3.0)))

    async def _strike(self, fault: str, kind: str, target: str, seconds: float) -> None:
        async with self._busy[target]:
            if target == "broker":
                await asyncio.to_thread(self.site.node.kill)
                await asyncio.sleep(2 * seconds)
                await asyncio.to_thread(self.site.node.start)
            elif kind == "kill":
                self.site.services[target].kill()
                await asyncio.sleep(seconds)
                self.site.services[target].start()
            else:
                self.site.services[target].signal(signal.SIGSTOP)
                # Longer than its leases.
                await asyncio.sleep(6.0 + seconds)
                self.site.services[target].signal(signal.SIGCONT)
            # Let the process work for a moment before its next fault.
            await asyncio.sleep(2.0)
        self.done[fault] += 1


async def submit_batches(site: Site, rng: random.Random, gap: float) -> tuple[set[UUID], set[UUID], set[UUID]]:
    """Submit all batches. Return the ids of all tasks, of those told to fail, and of those that were cancelled."""
    submitted: set[UUID] = set()
    to_fail: set[UUID] = set()
    cancelled: set[UUID] = set()
    for number in range(BATCHES):
        does = "fail" if number % 10 == 9 else "succeed"
        batch = await submit_images(
            site.engine,
            BATCH_SIZE,
            user=("ada", "grace")[number % 2],
            tier=("regular", "premium")[number % 2],
            do=does,
            seconds=rng.uniform(0.0, 0.04),
        )
        submitted |= set(batch.task_ids)
        if does == "fail":
            to_fail |= set(batch.task_ids)
        await asyncio.sleep(gap * rng.uniform(0.3, 1.7))
        if number % 5 == 4:
            async with site.engine.begin() as conn:
                cancelled |= set(await cancel(conn, rng.sample(batch.task_ids, 5)))
    return submitted, to_fail - cancelled, cancelled


async def test_nothing_is_lost_or_duplicated_while_every_process_and_the_broker_are_killed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    began = time.monotonic()
    site.start("relay", "collect", *WORKERS)
    chaos = Chaos(site, rng)
    (submitted, to_fail, cancelled), _ = await asyncio.gather(submit_batches(site, rng, 0.9), chaos.run(1.8))
    faults_over = time.monotonic()
    await site.all_ended(within=240)
    await site.queues_empty(within=180)
    ended = time.monotonic()

    tasks = await site.tasks()
    results = Counter(result.task_id for result in await site.results() if not result.superseded)
    superseded = sum(result.superseded for result in await site.results())
    failures = [failure for failure in await site.failures() if not failure.superseded]
    states = Counter(task.state for task in tasks.values())
    completed = {task.id for task in tasks.values() if task.state == "completed"}
    failed = {task.id for task in tasks.values() if task.state == "failed"}
    set_back = {failure.task_id for failure in failures if failure.cause in ("lost", "undelivered")}
    account: dict[str, Any] = {
        "seed": SEED,
        "attempted": BATCHES * BATCH_SIZE,
        "acknowledged": len(submitted),
        "completed": states["completed"],
        "failed as told": len(failed & to_fail),
        "cancelled": states["cancelled"],
        "lost": len(submitted - tasks.keys()) + len(submitted - to_fail - cancelled - completed),
        "failed because of the broker": len(failed - to_fail),
        "duplicated effects": sum(count > 1 for count in results.values()) + len(results.keys() - completed),
        "missing results": len(completed - results.keys()),
        "superseded results": superseded,
        "recovered": len(set_back & completed),
        "losses recorded": sum(failure.cause == "lost" for failure in failures),
        "undelivered recorded": sum(failure.cause == "undelivered" for failure in failures),
        "retries used up": sum(task.retry_count for task in tasks.values()),
        "faults": dict(sorted(chaos.done.items())),
        "seconds with faults": round(faults_over - began, 1),
        "seconds after them": round(ended - faults_over, 1),
    }
    with capsys.disabled():
        print()
        for name, value in account.items():
            print(f"    {name:28} {value}")
    verdict = json.dumps(account | {"final reasons": dict(Counter(tasks[id_].reason for id_ in failed))})
    assert chaos.done == FAULTS, verdict
    assert submitted == tasks.keys(), verdict
    assert failed == to_fail, verdict
    assert {task.id for task in tasks.values() if task.state == "cancelled"} == cancelled, verdict
    assert completed == submitted - to_fail - cancelled, verdict
    assert results == Counter(completed), verdict
    assert account["retries used up"] == 0, verdict
    assert {tasks[id_].reason for id_ in failed} == {"bad_image"}, verdict

    # Which process notices depends on which of them was alive.
    for event in ("RabbitMQ is unreachable", "RabbitMQ is reachable again"):
        assert any(service.has_logged(event) for service in site.services.values()), event
    await site.stop()


# Faults by proxy, each for that many seconds, while an answer may take 5 s. Then the network is restored.
NETWORK_FAULTS: list[tuple[float, dict[str, Callable[[Proxy], None]]]] = [
    # Confirms are held back, as by a slow broker; the acknowledgements of collect are lost.
    (6.0, {"relay": lambda proxy: proxy.hold("down"), "collect": lambda proxy: proxy.blackhole("up")}),
    # Published messages are lost; the worker receives nothing.
    (6.0, {"relay": lambda proxy: proxy.blackhole("up"), "worker-1": lambda proxy: proxy.blackhole("down")}),
    # Half open: the broker sees the end of the connection, the relay does not; reports are held back.
    (6.0, {"relay": lambda proxy: proxy.cut("up"), "worker-1": lambda proxy: proxy.hold("up")}),
    # Bytes arrive one by one; collect receives nothing.
    (6.0, {"relay": lambda proxy: proxy.slice(1, 0.0), "collect": lambda proxy: proxy.blackhole("down")}),
    # Connections are cut in the middle of confirms and of a report.
    (1.0, {"relay": lambda proxy: proxy.limit_data(1000, "down"), "worker-1": lambda p: p.limit_data(5000, "up")}),
    # A connection is cut in the middle of a published message; the others are reset.
    (1.0, {"relay": lambda p: p.limit_data(10_000, "up"), "worker-1": Proxy.reset, "collect": Proxy.reset}),
    # Slow connections.
    (2.0, {"worker-1": lambda proxy: proxy.slice(200, 0.02), "collect": lambda proxy: proxy.bandwidth(10_000)}),
]


async def test_network_failures_in_each_direction_lose_nothing(site: Site) -> None:
    names = ("relay", "worker-1", "collect")
    async with AsyncExitStack() as stack:
        proxies = {name: await stack.enter_async_context(Proxy(site.node.port)) for name in names}
        for name in names:
            site.start(name, port=proxies[name].port)
        await submit_images(site.engine, 20)
        await site.all_completed()
        for number, (seconds, faults) in enumerate(NETWORK_FAULTS):
            began = time.monotonic()
            await submit_images(site.engine, 40, seconds=0.02)
            await eventually(site.is_at_rabbitmq, within=60)
            for name, strike in faults.items():
                strike(proxies[name])
            await submit_images(site.engine, 20)
            await asyncio.sleep(seconds)
            for proxy in proxies.values():
                proxy.restore()
            await site.all_completed(within=90)
            print(f"fault {number}: all completed after {time.monotonic() - began:.1f} s")
        for proxy in proxies.values():
            proxy.refuse()
            proxy.cut()
        await submit_images(site.engine, 20)
        await site.all_completed()
        for proxy in proxies.values():
            proxy.restore()
        await submit_images(site.engine, 20)
        await site.all_completed()
        await site.queues_empty()
        refused = [e for e in site.services["relay"].events() if e["event"] == "RabbitMQ did not take messages"]
        assert any(e["error"] == "RabbitMQ did not answer in time" for e in refused)
        assert any("connection" in e["error"] for e in refused)
        for name in names:
            await site.wait_for_event(name, "RabbitMQ is unreachable")
            await site.wait_for_event(name, "RabbitMQ is reachable again")
        await site.stop()
