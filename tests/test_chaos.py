"""The whole message-driven path as real processes, while they, RabbitMQ and the network between them fail.

In each test every task ends, a completed one has exactly one result, none fails for the broker's sake, and the logs
say in words what happened. CHAOS_SEED and CHAOS_LONG=1 choose another schedule and longer outages.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spheroseg.messages import Queue
from spheroseg.submit import cancel

from .conftest import eventually, missing_server
from .lab import submit_images
from .processes import Site, open_site
from .proxy import Proxy
from .rabbitmq import RABBITMQ_3, RabbitNode

SEED = int(os.environ.get("CHAOS_SEED", "20"))
OUTAGE_SECONDS = 60.0 if os.environ.get("CHAOS_LONG") else 15.0
WORKERS = ("worker-1", "worker-2")


@pytest.fixture(scope="module")
def shared_node() -> Iterator[RabbitNode]:
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    with RabbitNode(RABBITMQ_3) as node:
        yield node


@pytest.fixture
def node(shared_node: RabbitNode) -> RabbitNode:
    """Up and well, whatever the test before did to it."""
    shared_node.resume()
    shared_node.start()
    shared_node.memory_alarm(False)
    shared_node.disk_alarm(False)
    return shared_node


@pytest.fixture
async def site(node: RabbitNode, postgres: Any, tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(node, postgres.url, tmp_path) as opened:
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
    """Does the faults of a schedule, one at a time to each process, different ones overlapping."""

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
            # It is to have a chance to work before the next one.
            await asyncio.sleep(2.0)
        self.done[fault] += 1


async def submit_batches(site: Site, rng: random.Random, gap: float) -> tuple[set[UUID], set[UUID], set[UUID]]:
    """All tasks, those of them that ask to fail, and those that were cancelled while they waited or ran."""
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


async def test_nothing_is_lost_and_nothing_done_twice_while_every_process_and_the_broker_are_killed(
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
        "failed, as they ask": len(failed & to_fail),
        "cancelled": states["cancelled"],
        "lost": len(submitted - tasks.keys()) + len(submitted - to_fail - cancelled - completed),
        "failed for the broker's sake": len(failed - to_fail),
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

    # Which of them sees it depends on who was alive.
    for event in ("RabbitMQ is away", "RabbitMQ is back"):
        assert any(service.has_said(event) for service in site.services.values()), event
    await site.stop()


@pytest.mark.parametrize("outage", ["paused", "down"])
async def test_a_broker_that_is_away_holds_nobody_up(site: Site, outage: str) -> None:
    site.start("relay", "collect", "worker-1")
    await submit_images(site.engine, 20)
    await site.all_completed()
    await submit_images(site.engine, 150, seconds=0.1)
    await eventually(lambda: has_come(site, 20 + 10), within=60)
    over = time.monotonic() + OUTAGE_SECONDS
    await asyncio.to_thread(site.node.pause if outage == "paused" else site.node.kill)
    try:
        meanwhile = await submit_images(site.engine, 30, user="grace", tier="premium")
        await completed(site, meanwhile.task_ids, within=30)
        await asyncio.sleep(over - time.monotonic())
    finally:
        await asyncio.to_thread(site.node.resume if outage == "paused" else site.node.start)
    await submit_images(site.engine, 30)
    await site.all_completed(within=150)
    await site.queues_empty()
    await site.says("relay", "relay waits for RabbitMQ; workers take tasks from the database meanwhile")
    await site.says("relay", "RabbitMQ stays away: what it had is queued again")
    await site.says("relay", "relay goes on")
    await site.says("worker-1", "RabbitMQ is away")
    await site.says("worker-1", "RabbitMQ is back")
    await site.says("worker-1", "published to the database queue instead")
    await site.stop()


async def has_come(site: Site, count: int) -> bool:
    return await site.count("completed") >= count


async def completed(site: Site, task_ids: list[UUID], within: float) -> None:
    """Those, whatever becomes of others."""

    async def are_completed() -> bool:
        tasks = await site.tasks()
        return all(tasks[task_id].state == "completed" for task_id in task_ids)

    try:
        await eventually(are_completed, within)
    except AssertionError:
        raise AssertionError(f"not completed within {within} s\n{site.tails()}") from None


async def test_an_alarm_sends_the_work_to_the_database_and_its_end_brings_it_back(site: Site) -> None:
    site.start("relay", "collect", "worker-1")
    for switch in (site.node.memory_alarm, site.node.disk_alarm):
        enough = await site.count("completed") + 10
        await submit_images(site.engine, 100, seconds=0.05)
        await eventually(lambda enough=enough: has_come(site, enough), within=60)
        over = time.monotonic() + 10.0
        await asyncio.to_thread(switch, True)
        meanwhile = await submit_images(site.engine, 30, user="grace", tier="premium")
        await completed(site, meanwhile.task_ids, within=60)
        await asyncio.sleep(over - time.monotonic())
        await asyncio.to_thread(switch, False)
        await submit_images(site.engine, 30)
        await site.all_completed()
    await site.queues_empty()
    await site.says("relay", "not taken by RabbitMQ", error="RabbitMQ did not answer in time")
    await site.says("relay", "RabbitMQ is away", purpose="publishing")
    await site.says("relay", "RabbitMQ is back", purpose="publishing")
    await site.stop()


async def test_a_queue_at_its_length_limit_refuses_and_the_rest_waits_in_the_table(site: Site) -> None:
    site.policy(Queue.TASKS, **{"max-length": 5, "overflow": "reject-publish-dlx"})
    site.start("relay", "collect", "worker-1")
    await submit_images(site.engine, 120, seconds=0.01)
    await site.all_completed(within=120)
    await site.queues_empty()
    await site.says("relay", "not taken by RabbitMQ")
    assert {task.lost_count for task in (await site.tasks()).values()} == {0}
    await site.stop()


async def test_messages_that_expire_while_no_worker_runs_are_worked_when_one_does(site: Site) -> None:
    site.policy(Queue.TASKS, **{"message-ttl": 500})
    site.start("relay", "collect", "worker-1")
    await submit_images(site.engine, 10)
    await site.all_completed()
    await site.stop("worker-1")
    later = await submit_images(site.engine, 30)

    async def have_expired() -> bool:
        expired = {failure.task_id for failure in await site.failures() if failure.reason == "expired"}
        return expired >= set(later.task_ids)

    await eventually(have_expired, within=60)
    site.start("worker-1")
    await site.all_completed()
    await site.queues_empty()
    await site.says("collect", "attempt did not finish", cause="undelivered", reason="expired")
    await site.stop()


async def test_tasks_purged_by_hand_are_missed_and_queued_again(site: Site) -> None:
    site.start("relay", "collect")
    await submit_images(site.engine, 200)

    async def are_there() -> bool:
        return await site.at_rabbitmq() == 64 and (await site.depths()).get(Queue.TASKS) == 64

    await eventually(are_there, within=60)
    await asyncio.to_thread(site.node.purge, Queue.TASKS, site.vhost)
    site.start("worker-1")
    await site.all_completed(within=90)
    await site.queues_empty()
    await site.says("relay", "RabbitMQ had lost messages: queued again", messages=64)
    assert {task.attempt for task in (await site.tasks()).values()} == {1}
    await site.stop()


async def test_deleted_queues_are_declared_again_and_what_was_in_them_is_not_lost(site: Site) -> None:
    site.start("relay", "collect")
    await submit_images(site.engine, 60, seconds=0.02)
    await eventually(lambda: is_used(site), within=60)
    # With nobody but the relay to notice.
    await delete(site, Queue.TASKS)
    site.start("worker-1")
    await eventually(lambda: has_come(site, 5), within=60)
    for queue in Queue:
        await submit_images(site.engine, 60, seconds=0.02)
        await delete(site, queue)
    # Where a report was in the queue, its worker is believed lost after the time limit and a margin.
    await site.all_completed(within=150)
    await site.queues_empty()
    await site.stop()


async def delete(site: Site, queue: Queue) -> None:
    """Returns once it has been declared again."""
    await asyncio.to_thread(site.node.delete_queue, queue, site.vhost)

    async def is_declared() -> bool:
        return queue in await site.depths()

    await eventually(is_declared, within=60, what=f"{queue} is not there again")


async def is_used(site: Site) -> bool:
    return await site.at_rabbitmq() > 0


async def test_what_was_worked_from_the_database_is_reported_there_and_not_done_again(site: Site) -> None:
    site.start("worker-1")
    submitted = await submit_images(site.engine, 5)
    await eventually(lambda: site.services["worker-1"].log.read_text().count('"finished"') == 5, within=60)
    await asyncio.to_thread(site.node.kill)
    site.start("collect")
    await site.all_completed()
    tasks = (await site.tasks()).values()
    assert {(task.attempt, task.lost_count) for task in tasks} == {(1, 0)}
    assert len(await site.results()) == len(submitted.task_ids)
    assert not await site.failures()


# Each for so many seconds, where an answer may take 5; then the network is well again.
NETWORK_FAULTS: list[tuple[float, dict[str, Callable[[Proxy], None]]]] = [
    # Confirms held, as by a slow broker; what collect acknowledges is lost.
    (6.0, {"relay": lambda proxy: proxy.hold("down"), "collect": lambda proxy: proxy.blackhole("up")}),
    # Publishes lost on the way; the worker hears nothing.
    (6.0, {"relay": lambda proxy: proxy.blackhole("up"), "worker-1": lambda proxy: proxy.blackhole("down")}),
    # Half open: the broker sees the end of the connection, the relay does not; reports held.
    (6.0, {"relay": lambda proxy: proxy.cut("up"), "worker-1": lambda proxy: proxy.hold("up")}),
    # Bytes one by one; collect hears nothing.
    (6.0, {"relay": lambda proxy: proxy.slice(1, 0.0), "collect": lambda proxy: proxy.blackhole("down")}),
    # Cut in the middle of confirms and of a report.
    (1.0, {"relay": lambda proxy: proxy.limit_data(1000, "down"), "worker-1": lambda p: p.limit_data(5000, "up")}),
    # Cut in the middle of a publish; the others reset.
    (1.0, {"relay": lambda p: p.limit_data(10_000, "up"), "worker-1": Proxy.reset, "collect": Proxy.reset}),
    # Slow.
    (2.0, {"worker-1": lambda proxy: proxy.slice(200, 0.02), "collect": lambda proxy: proxy.bandwidth(10_000)}),
]


async def test_a_network_that_fails_in_each_direction_loses_nothing(site: Site) -> None:
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
            await eventually(lambda: is_used(site), within=60)
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
        refused = [e for e in site.services["relay"].events() if e["event"] == "not taken by RabbitMQ"]
        assert any(e["error"] == "RabbitMQ did not answer in time" for e in refused)
        assert any("connection" in e["error"] for e in refused)
        for name in names:
            await site.says(name, "RabbitMQ is away")
            await site.says(name, "RabbitMQ is back")
        await site.stop()


@pytest.mark.parametrize(("server", "queue_type"), [("node", "classic"), ("rabbit_4", "quorum")])
async def test_premium_overtakes_all_that_is_not_in_hand_and_regular_still_gets_its_share(
    request: pytest.FixtureRequest,
    postgres: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: str,
    queue_type: str,
) -> None:
    async with open_site(request.getfixturevalue(server), postgres.url, tmp_path) as site:
        site.start("relay", "collect", RABBITMQ_QUEUE_TYPE=queue_type)
        slow = await submit_images(site.engine, 40, seconds=0.3)
        fast = await submit_images(site.engine, 960, seconds=0.01)
        regular = {*slow.task_ids, *fast.task_ids}

        async def is_filled() -> bool:
            return await site.at_rabbitmq() == 64

        await eventually(is_filled, within=60)
        site.start(*WORKERS, RABBITMQ_QUEUE_TYPE=queue_type)
        await eventually(lambda: has_come(site, 4), within=60)
        (premium,) = (await submit_images(site.engine, 1, user="grace", tier="premium")).task_ids
        await completed(site, [premium], within=60)
        tasks = await site.tasks()
        asked, begun = tasks[premium].created_at, tasks[premium].started_at
        before = sum(1 for id_ in regular if (at := tasks[id_].started_at) and asked < at < begun)
        waiting = sum(1 for id_ in regular if not (at := tasks[id_].started_at) or at > begun)

        many = set((await submit_images(site.engine, 300, user="grace", tier="premium", seconds=0.05)).task_ids)
        await site.all_completed(within=150)
        tasks = await site.tasks()
        order = sorted(tasks.values(), key=lambda task: task.started_at)
        places = [place for place, task in enumerate(order) if task.id in many]
        # Without those that were at RabbitMQ before the first of the many came.
        while_coming = [task.id in regular for task in order[places[50] : places[270]]]
        share = sum(while_coming) / len(while_coming)
        with capsys.disabled():
            print(f"\n    {waiting} regular tasks overtaken by a premium one, {before} begun before it meanwhile;")
            print(f"    {share:.0%} of what was begun while premium tasks kept coming was regular")
        assert waiting > 900
        # 4 slots take the next task about 3 times a second, and the relay looks 4 times a second.
        assert before <= 12
        assert 0.05 < share < 0.5
        await site.queues_empty()
        await site.stop()
