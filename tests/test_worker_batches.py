"""A worker that takes several tasks together, on each queue: the fate of one task does not affect the others."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Broker
from spheroseg.broker.fallback import FallbackBroker
from spheroseg.broker.rabbit import RabbitBroker
from spheroseg.broker.table import TableBroker
from spheroseg.messages import Message, Queue
from spheroseg.queueing.collect import collect
from spheroseg.queueing.relay import RelayOptions
from spheroseg.queueing.submit import cancel
from spheroseg.worker.loop import WorkerOptions, work

from .conftest import Postgres, empty_database, eventually
from .support.lab import read_failures, read_results, read_task, submit_images
from .support.rabbitmq import RabbitNode
from .support.relays import Lab, running
from .test_worker import COMMAND, POLICY, finished, is_alive

pytestmark = pytest.mark.slow

# On a busy machine the report of a start may be late: the message of its task is not lost.
PATIENT = RelayOptions(poll=0.05)


@dataclass
class PatientLab(Lab):
    """A laboratory whose node may be slow, on a busy machine, but never counts as unreachable."""

    def rabbit(self) -> RabbitBroker:
        return RabbitBroker(self.node.vhost_url(self.vhost), timeout=15.0, heartbeat=60)


@dataclass
class Site:
    """A database, the queue through which its tasks reach a worker, and what moves them there."""

    engine: AsyncEngine
    queue: Broker
    lab: PatientLab | None = None
    rabbit: RabbitBroker | None = None

    @asynccontextmanager
    async def tasks_in_the_queue(self, count: int) -> AsyncIterator[None]:
        """Run collect and, if there is a RabbitMQ node, the relay. `count` messages wait for a worker."""
        if self.lab and self.rabbit:
            rabbit = self.rabbit

            async def are_there() -> bool:
                return await rabbit.depth(Queue.TASKS) == count

            async with self.lab.collecting(), self.lab.relay(PATIENT):
                await eventually(are_there, within=30)
                yield
        else:
            table = TableBroker(self.engine, poll=0.05)
            async with running(collect(self.engine, [table], POLICY, sweep_seconds=0.5)):
                yield

    @asynccontextmanager
    async def worker(self, batch_size: int = 8, **options: Any) -> AsyncIterator[asyncio.Event]:
        """Run a worker with one slot, and cancel it at the end. Set the event to stop it gracefully."""
        stopping = asyncio.Event()
        options = {"deadline": 30.0, "grace": 30.0, **options}
        async with running(
            work(self.queue, WorkerOptions("test", COMMAND, batch_size=batch_size, **options), stopping)
        ):
            yield stopping

    async def is_processing(self, task_id: UUID) -> bool:
        return bool((await read_task(self.engine, task_id)).state == "processing")

    async def together(self, task_id: UUID) -> int:
        """Return the number of tasks in its request, once it is completed at its first attempt without a failure."""
        task = await finished(self.engine, task_id)
        assert (task.state, task.attempt, task.retry_count, task.lost_count) == ("completed", 1, 0, 0)
        assert await read_failures(self.engine, task_id) == []
        (result,) = await read_results(self.engine, task_id)
        return int(result.result["together"])


@pytest.fixture(params=["table-sqlite", "rabbitmq-and-table"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    if request.param == "table-sqlite":
        async with empty_database(f"sqlite:///{tmp_path / 'test.db'}") as engine:
            yield Site(engine, TableBroker(engine, lease=3.0, poll=0.05, low_share=0.0))
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    node: RabbitNode = request.getfixturevalue("rabbit_3")
    async with empty_database(postgres.url) as engine:
        table = TableBroker(engine, lease=3.0, poll=0.05, low_share=0.0)
        with node.fresh_vhost() as vhost:
            lab = PatientLab(engine, node, vhost)
            rabbit = lab.rabbit()
            yield Site(engine, FallbackBroker(rabbit, table), lab, rabbit)
            await rabbit.close()


async def test_several_tasks_are_done_as_one_and_each_has_its_own_result(site: Site) -> None:
    ids = (await submit_images(site.engine, 5)).task_ids
    async with site.tasks_in_the_queue(5), site.worker(batch_size=4):
        assert [await site.together(task_id) for task_id in ids] == [4, 4, 4, 4, 1]


async def test_by_default_each_task_is_done_alone(site: Site) -> None:
    ids = (await submit_images(site.engine, 3)).task_ids
    async with site.tasks_in_the_queue(3), site.worker(batch_size=WorkerOptions("any", []).batch_size):
        assert [await site.together(task_id) for task_id in ids] == [1, 1, 1]


async def test_one_bad_image_fails_alone(site: Site) -> None:
    before, after = (await submit_images(site.engine, 2)).task_ids
    bad = (await submit_images(site.engine, 1, do="fail")).task_ids[0]
    async with site.tasks_in_the_queue(3), site.worker():
        task = await finished(site.engine, bad)
        assert (task.state, task.reason, task.attempt) == ("failed", "bad_image", 1)
        assert [await site.together(before), await site.together(after)] == [3, 3]


async def test_only_the_task_that_kills_the_child_fails(site: Site) -> None:
    first = (await submit_images(site.engine, 1)).task_ids[0]
    killer = (await submit_images(site.engine, 1, do="be killed")).task_ids[0]
    later = (await submit_images(site.engine, 2)).task_ids
    async with site.tasks_in_the_queue(4), site.worker():
        task = await finished(site.engine, killer)
        assert (task.state, task.reason, task.attempt, task.lost_count) == ("failed", "killed", 2, 0)
        assert await site.together(first) == 4, "a task answered before the crash is not done again"
        assert [await site.together(task_id) for task_id in later] == [1, 1]


async def test_only_the_task_that_hangs_reaches_the_deadline(site: Site) -> None:
    hanging = (await submit_images(site.engine, 1, do="hang")).task_ids[0]
    others = (await submit_images(site.engine, 2)).task_ids
    async with site.tasks_in_the_queue(3), site.worker(deadline=1.5):
        assert [await site.together(task_id) for task_id in others] == [1, 1]
    failure = (await read_failures(site.engine, hanging))[0]
    assert (failure.attempt, failure.reason, failure.next_attempt) == (1, "timeout", 2)
    assert 1.4 < (failure.failed_at - failure.started_at).total_seconds() < 3.0


async def test_too_many_hanging_tasks_are_handed_back_and_use_up_no_retry(site: Site) -> None:
    ids = (await submit_images(site.engine, 5, do="hang")).task_ids
    async with site.tasks_in_the_queue(5), site.worker(deadline=0.7) as stopping:

        async def is_handed_back() -> bool:
            causes = [failure.cause for failure in await read_failures(site.engine, ids[-1])]
            return causes[:1] == ["handed_back"]

        await eventually(is_handed_back, within=60)
        stopping.set()
        task = await read_task(site.engine, ids[-1])
        assert (task.attempt, task.retry_count, task.lost_count) == (1, 0, 0)
        assert [failure.reason for failure in await read_failures(site.engine, ids[0])] == ["timeout"]


async def test_a_cancelled_task_is_dropped_and_the_others_go_on(site: Site) -> None:
    others = (await submit_images(site.engine, 2, seconds=0.8)).task_ids
    cancelled = (await submit_images(site.engine, 1, do="hang")).task_ids[0]
    async with site.tasks_in_the_queue(3), site.worker(batch_size=3):
        await eventually(lambda: site.is_processing(cancelled))
        async with site.engine.begin() as conn:
            await cancel(conn, [cancelled])
        assert [await site.together(task_id) for task_id in others] == [3, 3]
        # The worker does not wait for the cancelled task.
        later = (await submit_images(site.engine, 1)).task_ids[0]
        assert await site.together(later) == 1
    assert (await read_task(site.engine, cancelled)).state == "cancelled"
    assert await read_failures(site.engine, cancelled) == []


async def test_cancelling_all_tasks_kills_the_child_at_once(site: Site, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    ids = (await submit_images(site.engine, 3, do="hang", pid_file=str(pid_file))).task_ids
    innocent = (await submit_images(site.engine, 1)).task_ids[0]
    async with site.tasks_in_the_queue(4), site.worker(batch_size=3):
        await eventually(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
        async with site.engine.begin() as conn:
            await cancel(conn, ids)
        assert await site.together(innocent) == 1
        assert not any(is_alive(int(pid)) for pid in pid_file.read_text().split())


async def test_a_cancelled_task_does_not_interrupt_the_others_at_the_deadline(site: Site) -> None:
    hanging = (await submit_images(site.engine, 1, do="hang")).task_ids[0]
    other = (await submit_images(site.engine, 1)).task_ids[0]
    # The deadline is long enough for the cancel to arrive on a busy machine.
    async with site.tasks_in_the_queue(2), site.worker(deadline=4.0):
        await eventually(lambda: site.is_processing(other))
        async with site.engine.begin() as conn:
            await cancel(conn, [hanging])
        assert await site.together(other) == 1
    assert (await read_task(site.engine, hanging)).state == "cancelled"
    assert await read_failures(site.engine, hanging) == []


async def test_a_stopped_worker_hands_back_unfinished_tasks(site: Site) -> None:
    quick = (await submit_images(site.engine, 1)).task_ids[0]
    hanging = (await submit_images(site.engine, 1, do="hang")).task_ids[0]
    waiting = (await submit_images(site.engine, 1)).task_ids[0]
    async with site.tasks_in_the_queue(3):
        async with site.worker(grace=0.3) as stopping:
            assert await site.together(quick) == 3
            began = time.monotonic()
            stopping.set()
            for task_id in (hanging, waiting):

                async def is_handed_back(task_id: UUID = task_id) -> bool:
                    return bool((await read_task(site.engine, task_id)).state == "queued")

                await eventually(is_handed_back)
            assert time.monotonic() - began < 5
        for task_id in (hanging, waiting):
            task = await read_task(site.engine, task_id)
            assert (task.attempt, task.retry_count, task.lost_count) == (1, 0, 0)
            assert [failure.cause for failure in await read_failures(site.engine, task_id)] == ["handed_back"]


async def test_a_redelivered_message_is_reported_lost_and_the_others_are_done(site: Site) -> None:
    ids = (await submit_images(site.engine, 3)).task_ids
    async with site.tasks_in_the_queue(3):
        async with site.queue.consume(Queue.TASKS, prefetch=1) as vanished:
            await vanished.take(1, 5)
        async with site.worker():
            task = await finished(site.engine, ids[0])
            assert (task.state, task.attempt, task.lost_count) == ("completed", 2, 1)
            assert [await site.together(task_id) for task_id in ids[1:]] == [2, 2]


async def test_an_unreadable_message_is_rejected_and_the_others_are_done(site: Site) -> None:
    ids = (await submit_images(site.engine, 2)).task_ids
    await site.queue.publish([Message("poison", "task.new", b"{not json", priority=10)])
    async with site.tasks_in_the_queue(3), site.worker():
        assert [await site.together(task_id) for task_id in ids] == [2, 2]

        async def is_kept() -> bool:
            return len(await read_failures(site.engine, None)) == 1

        await eventually(is_kept)


async def test_premium_tasks_of_a_batch_are_done_first(site: Site) -> None:
    regular = (await submit_images(site.engine, 2, seconds=0.2)).task_ids
    premium = (await submit_images(site.engine, 2, seconds=0.2, user="bob", tier="premium")).task_ids
    async with site.tasks_in_the_queue(4), site.worker():
        for task_id in (*regular, *premium):
            assert await site.together(task_id) == 4
    ends = [(await read_task(site.engine, task_id)).finished_at for task_id in (*premium, *regular)]
    assert ends == sorted(ends)


async def test_no_message_waits_at_a_busy_worker(site: Site) -> None:
    quick = (await submit_images(site.engine, 1)).task_ids[0]
    slow = (await submit_images(site.engine, 1, seconds=2.0)).task_ids[0]
    await submit_images(site.engine, 2)
    async with site.tasks_in_the_queue(4), site.worker(batch_size=2):
        assert await site.together(quick) == 2
        assert await site.is_processing(slow)
        # Long enough for a server to send another message, if it may.
        await asyncio.sleep(0.3)
        assert await site.queue.depth(Queue.TASKS) == 2
        assert await site.together(slow) == 2
