"""Faults of RabbitMQ and of its queues while real processes work: no task is lost.

In each test every task ends, a completed task has exactly one result, no task fails because of the broker, and the
logs say what happened. CHAOS_LONG=1 chooses longer outages.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spheroseg.messages import Queue

from .conftest import Postgres, eventually
from .support.lab import submit_images
from .support.processes import Site, open_site
from .support.rabbitmq import RabbitNode

pytestmark = pytest.mark.slow

OUTAGE_SECONDS = 60.0 if os.environ.get("CHAOS_LONG") else 15.0


@pytest.fixture
async def site(restored_rabbit: RabbitNode, postgres: Postgres, tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(restored_rabbit, postgres.url, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("outage", ["paused", "down"])
async def test_an_unreachable_broker_delays_no_task(site: Site, outage: str) -> None:
    site.start("relay", "collect", "worker-1")
    await submit_images(site.engine, 20)
    await site.all_completed()
    await submit_images(site.engine, 150, seconds=0.1)
    await eventually(lambda: site.has_completed(20 + 10), within=60)
    over = time.monotonic() + OUTAGE_SECONDS
    await asyncio.to_thread(site.node.pause if outage == "paused" else site.node.kill)
    try:
        meanwhile = await submit_images(site.engine, 30, user="grace", tier="premium")
        await site.completed(meanwhile.task_ids, within=30)
        await asyncio.sleep(over - time.monotonic())
    finally:
        await asyncio.to_thread(site.node.resume if outage == "paused" else site.node.start)
    await submit_images(site.engine, 30)
    await site.all_completed(within=150)
    await site.queues_empty()
    await site.wait_for_event("relay", "relay waits for RabbitMQ; workers take tasks from the database meanwhile")
    await site.wait_for_event("relay", "RabbitMQ stays unreachable: its messages are queued again")
    await site.wait_for_event("relay", "relay goes on")
    await site.wait_for_event("worker-1", "RabbitMQ is unreachable")
    await site.wait_for_event("worker-1", "RabbitMQ is reachable again")
    await site.wait_for_event("worker-1", "published to the database queue instead")
    await site.stop()


async def test_an_alarm_moves_the_work_to_the_database_until_it_ends(site: Site) -> None:
    site.start("relay", "collect", "worker-1")
    for switch in (site.node.memory_alarm, site.node.disk_alarm):
        enough = await site.count("completed") + 10
        await submit_images(site.engine, 100, seconds=0.05)
        await eventually(lambda enough=enough: site.has_completed(enough), within=60)
        over = time.monotonic() + 10.0
        await asyncio.to_thread(switch, True)
        meanwhile = await submit_images(site.engine, 30, user="grace", tier="premium")
        await site.completed(meanwhile.task_ids, within=60)
        await asyncio.sleep(over - time.monotonic())
        await asyncio.to_thread(switch, False)
        await submit_images(site.engine, 30)
        await site.all_completed()
    await site.queues_empty()
    await site.wait_for_event("relay", "RabbitMQ did not take messages", error="RabbitMQ did not answer in time")
    await site.wait_for_event("relay", "RabbitMQ is unreachable", purpose="publishing")
    await site.wait_for_event("relay", "RabbitMQ is reachable again", purpose="publishing")
    await site.stop()


async def test_messages_that_a_full_queue_refuses_wait_in_the_table(site: Site) -> None:
    site.policy(Queue.TASKS, **{"max-length": 5, "overflow": "reject-publish-dlx"})
    site.start("relay", "collect", "worker-1")
    await submit_images(site.engine, 120, seconds=0.01)
    await site.all_completed(within=120)
    await site.queues_empty()
    await site.wait_for_event("relay", "RabbitMQ did not take messages")
    assert {task.lost_count for task in (await site.tasks()).values()} == {0}
    await site.stop()


async def test_messages_that_expire_without_a_worker_are_done_once_there_is_one(site: Site) -> None:
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
    await site.wait_for_event("collect", "attempt did not finish", cause="undelivered", reason="expired")
    await site.stop()


async def test_purged_tasks_are_noticed_and_queued_again(site: Site) -> None:
    site.start("relay", "collect")
    await submit_images(site.engine, 200)

    async def are_there() -> bool:
        return await site.at_rabbitmq() == 64 and (await site.depths()).get(Queue.TASKS) == 64

    await eventually(are_there, within=60)
    await asyncio.to_thread(site.node.purge, Queue.TASKS, site.vhost)
    site.start("worker-1")
    await site.all_completed(within=90)
    await site.queues_empty()
    await site.wait_for_event("relay", "RabbitMQ had lost messages: they are queued again", messages=64)
    assert {task.attempt for task in (await site.tasks()).values()} == {1}
    await site.stop()


async def test_deleted_queues_are_declared_again_and_their_tasks_are_not_lost(site: Site) -> None:
    # If a report was in the queue, its worker counts as lost after this time limit and a margin.
    site.start("relay", "collect", TASK_TIMEOUT_SECONDS="10")
    await submit_images(site.engine, 60, seconds=0.02)
    await eventually(site.is_at_rabbitmq, within=60)
    # Only the relay can notice this one.
    await delete(site, Queue.TASKS)
    site.start("worker-1", TASK_TIMEOUT_SECONDS="10")
    await eventually(lambda: site.has_completed(5), within=60)
    for queue in Queue:
        await submit_images(site.engine, 60, seconds=0.02)
        await delete(site, queue)
    await site.all_completed(within=150)
    await site.queues_empty()
    await site.stop()


async def delete(site: Site, queue: Queue) -> None:
    """Delete the queue, and return once it has been declared again."""
    await asyncio.to_thread(site.node.delete_queue, queue, site.vhost)

    async def is_declared() -> bool:
        return queue in await site.depths()

    await eventually(is_declared, within=60, what=f"{queue} is not there again")


async def test_tasks_taken_from_the_database_are_reported_there_and_not_done_again(site: Site) -> None:
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
