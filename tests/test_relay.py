"""The path through RabbitMQ on a real node: relay, worker and collect, and the faults between them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from backports import zstd
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.switches import RELAY, set_switch
from spheroseg.messages import Message, Queue, TaskFailed, decode_task
from spheroseg.queueing.relay import RelayOptions
from spheroseg.queueing.submit import cancel

from .conftest import empty_database, eventually
from .support.lab import read_failures, read_results, read_task, submit_images
from .support.rabbitmq import RabbitNode
from .support.relays import Lab
from .test_worker import is_alive

pytestmark = pytest.mark.slow


@pytest.fixture
async def lab(rabbit_3: RabbitNode, postgres: Any) -> AsyncIterator[Lab]:
    async with empty_database(postgres.url) as engine:
        with rabbit_3.fresh_vhost() as vhost:
            yield Lab(engine, rabbit_3, vhost)


async def test_tasks_go_through_rabbitmq_and_come_back_as_results(lab: Lab) -> None:
    submitted = await submit_images(lab.engine, 20)
    async with lab.everything(with_database=False, slots=2):
        await lab.all_completed(submitted.task_ids)

        async def is_tidy() -> bool:
            return await lab.row_count() == 0

        await eventually(is_tidy, what="no row is left in the table")


async def test_a_confirmed_message_stays_on_record_until_a_worker_begins(lab: Lab) -> None:
    (task_id,) = (await submit_images(lab.engine, 1, seconds=5.0)).task_ids
    async with lab.relay():

        async def is_there() -> bool:
            return await lab.at_rabbitmq() == 1

        await eventually(is_there)
        async with lab.collecting(), lab.working(with_database=False):

            async def has_begun() -> bool:
                task = await read_task(lab.engine, task_id)
                return task.state == "processing" and task.lease_until is not None and await lab.at_rabbitmq() == 0

            await eventually(has_begun, within=20)
            await lab.all_completed([task_id])
    assert (await read_task(lab.engine, task_id)).message_queue_id == f"{task_id}:1:task.new"


async def test_no_more_than_the_window_waits_at_rabbitmq_except_premium_tasks(lab: Lab) -> None:
    await submit_images(lab.engine, 1000)
    options = RelayOptions(window=10, poll=0.05)
    async with lab.relay(options):

        async def is_full() -> bool:
            return await lab.at_rabbitmq() == 10

        await eventually(is_full)
        await asyncio.sleep(0.5)
        assert await lab.at_rabbitmq() == 10
        premium = (await submit_images(lab.engine, 1, user="grace", tier="premium")).task_ids[0]

        async def is_let_in() -> bool:
            return await lab.at_rabbitmq() == 11

        await eventually(is_let_in)
        rabbit = lab.rabbit()
        async with rabbit.consume(Queue.TASKS, prefetch=1) as consumer:
            (first,) = await consumer.take(1, 5)
            assert decode_task(first.message).task_id == premium, "it overtakes all but what is in a worker's hand"
        await rabbit.close()


async def test_regular_tasks_get_their_share_of_the_window(lab: Lab) -> None:
    await submit_images(lab.engine, 500, user="grace", tier="premium")
    await submit_images(lab.engine, 500, user="ada")
    rabbit = lab.rabbit()
    options = RelayOptions(window=20, poll=0.02, low_share=0.1)
    async with lab.relay(options), rabbit.consume(Queue.TASKS, prefetch=1) as consumer:
        came = []
        for _ in range(200):
            deliveries = await consumer.take(1, 5)
            came += [delivery.message.priority for delivery in deliveries]
            await consumer.ack(deliveries)
    await rabbit.close()
    assert 4 <= came.count(1) <= 60
    assert came.count(10) >= 120


async def test_a_cancel_reaches_the_worker_through_rabbitmq(lab: Lab, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    running_task = (await submit_images(lab.engine, 1, do="hang", pid_file=str(pid_file))).task_ids[0]
    waiting_task = (await submit_images(lab.engine, 1, do="hang")).task_ids[0]
    innocent = (await submit_images(lab.engine, 1)).task_ids[0]
    async with lab.everything(with_database=False):
        await eventually(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)

        async def has_begun() -> bool:
            return (await lab.states())[running_task] == "processing" and await lab.at_rabbitmq() == 2

        await eventually(has_begun)
        async with lab.engine.begin() as conn:
            await cancel(conn, [running_task, waiting_task])
        await lab.all_completed([innocent], within=10)
    states = await lab.states()
    assert (states[running_task], states[waiting_task]) == ("cancelled", "cancelled")


async def test_a_poison_message_is_kept_and_the_consumer_lives(lab: Lab) -> None:
    submitted = await submit_images(lab.engine, 1)
    rabbit = lab.rabbit()
    bomb = zstd.compress(bytes(100 * 1024**2))
    async with lab.everything(with_database=False):
        await rabbit.publish(
            [
                Message("no-json", "task.new", b"\xff{not json", priority=10),
                Message("wrong-schema", "task.new", b'{"kind": "task.new", "attempt": 0}', priority=10),
                Message("future", "task.new", b'{"kind": "task.new", "schema_version": 99}', priority=10),
                Message("bomb", "task.new", bomb, content_encoding="zstd", priority=10),
                Message("no-report", "task.completed", b"[]"),
            ]
        )
        await lab.all_completed(submitted.task_ids)

        async def are_kept() -> bool:
            return len(await read_failures(lab.engine, None)) == 5

        await eventually(are_kept)
    kept = await read_failures(lab.engine, None)
    assert {failure.reason for failure in kept} == {"bad_message"}
    assert any(bytes(failure.body) == b"\xff{not json" for failure in kept)
    assert any("64 MB" in failure.error for failure in kept)
    await rabbit.close()


async def test_a_large_result_travels_compressed(lab: Lab) -> None:
    submitted = await submit_images(lab.engine, 1, do="large")
    async with lab.everything(with_database=False):
        await lab.all_completed(submitted.task_ids)
    (result,) = await read_results(lab.engine, submitted.task_ids[0])
    assert len(result.result["outline"]) == 50_000


async def test_expired_messages_are_queued_again_and_use_up_nothing(lab: Lab) -> None:
    await lab.declared()
    lab.policy(Queue.TASKS, **{"message-ttl": 300})
    submitted = await submit_images(lab.engine, 5)
    async with lab.relay(), lab.collecting():

        async def have_expired() -> bool:
            failures = [await read_failures(lab.engine, task_id) for task_id in submitted.task_ids]
            return all(failures)

        await eventually(have_expired)
        async with lab.working(with_database=False):
            await lab.all_completed(submitted.task_ids)
    for task_id in submitted.task_ids:
        task = await read_task(lab.engine, task_id)
        assert (task.attempt, task.retry_count, task.lost_count) == (1, 0, 0)
        assert {failure.reason for failure in await read_failures(lab.engine, task_id)} == {"expired"}


async def test_a_full_queue_refuses_and_nothing_is_lost(lab: Lab) -> None:
    await lab.declared()
    lab.policy(Queue.TASKS, **{"max-length": 5, "overflow": "reject-publish-dlx"})
    submitted = await submit_images(lab.engine, 60)
    async with lab.everything(with_database=False) as relay:
        await lab.all_completed(submitted.task_ids, within=60)
        assert relay.rabbit.counts.nacked > 0
    assert {(await read_task(lab.engine, task_id)).attempt for task_id in submitted.task_ids} == {1}


async def test_the_messages_of_a_purged_queue_are_moved_again(lab: Lab) -> None:
    submitted = await submit_images(lab.engine, 10)
    async with lab.relay(), lab.collecting():

        async def are_there() -> bool:
            return await lab.at_rabbitmq() == 10

        await eventually(are_there)
        lab.node.purge(Queue.TASKS, lab.vhost)
        async with lab.working(with_database=False):
            await lab.all_completed(submitted.task_ids)
    assert {(await read_task(lab.engine, task_id)).attempt for task_id in submitted.task_ids} == {1}


async def test_a_deleted_queue_is_declared_and_consumed_again(lab: Lab) -> None:
    async with lab.everything(with_database=False):
        first = await submit_images(lab.engine, 5)
        await lab.all_completed(first.task_ids)
        for queue in Queue:
            lab.node.delete_queue(queue, lab.vhost)
        second = await submit_images(lab.engine, 5)
        await lab.all_completed(second.task_ids)


async def test_closed_connections_are_reopened(lab: Lab) -> None:
    submitted = await submit_images(lab.engine, 100)
    async with lab.everything(with_database=False, slots=2):
        for _ in range(3):
            await asyncio.sleep(0.4)
            lab.node.close_connections()
        await lab.all_completed(submitted.task_ids, within=60)


async def test_a_redelivered_message_is_reported_lost(lab: Lab) -> None:
    (task_id,) = (await submit_images(lab.engine, 1)).task_ids
    rabbit = lab.rabbit()
    async with lab.relay(), lab.collecting():
        async with rabbit.consume(Queue.TASKS, prefetch=1) as vanished:
            assert len(await vanished.take(1, 5)) == 1
        async with lab.working(with_database=False):
            await lab.all_completed([task_id])
    task = await read_task(lab.engine, task_id)
    assert (task.attempt, task.retry_count, task.lost_count) == (2, 0, 1)
    await rabbit.close()


async def test_a_report_and_its_dead_letter_may_come_in_either_order(lab: Lab) -> None:
    (task_id,) = (await submit_images(lab.engine, 1)).task_ids
    rabbit = lab.rabbit()
    async with lab.relay(), rabbit.consume(Queue.TASKS, prefetch=1) as consumer:
        deliveries = await consumer.take(1, 5)
        await consumer.reject(deliveries)

        async def is_dead() -> bool:
            return await rabbit.depth(Queue.DEAD_LETTERS) == 1

        await eventually(is_dead)
        async with lab.collecting():

            async def is_read() -> bool:
                return await rabbit.depth(Queue.DEAD_LETTERS) == 0

            await eventually(is_read)
            assert (await read_task(lab.engine, task_id)).state == "queued"
            report = TaskFailed(
                task_id=task_id,
                attempt=1,
                worker="w",
                at=datetime.now(UTC),
                reason="bad_image",
                error="no image",
                retryable=False,
            )
            await rabbit.publish([report.message()])

            async def has_failed() -> bool:
                return bool((await read_task(lab.engine, task_id)).reason == "bad_image")

            await eventually(has_failed)
    await rabbit.close()


async def test_a_paused_relay_moves_no_task_and_workers_take_tasks_from_the_database(lab: Lab) -> None:
    await switch_relay(lab.engine, is_on=False)
    async with lab.collecting(), lab.relay() as relay:
        await eventually(lambda: relay.is_paused)
        ids = (await submit_images(lab.engine, 3)).task_ids
        async with lab.working():
            await lab.all_completed(ids)
        assert relay.rabbit.counts.published == 0
        await switch_relay(lab.engine, is_on=True)
        again = (await submit_images(lab.engine, 3)).task_ids
        async with lab.working(with_database=False):
            await lab.all_completed(again)


async def test_a_paused_relay_still_sends_cancels_to_the_workers(lab: Lab, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    task_id = (await submit_images(lab.engine, 1, do="hang", pid_file=str(pid_file))).task_ids[0]
    async with lab.everything(with_database=False) as relay:
        await eventually(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)

        async def has_begun() -> bool:
            return (await lab.states())[task_id] == "processing"

        await eventually(has_begun)
        await switch_relay(lab.engine, is_on=False)
        await eventually(lambda: relay.is_paused)
        async with lab.engine.begin() as conn:
            await cancel(conn, [task_id])
        pids = [int(pid) for pid in pid_file.read_text().split()]
        await eventually(lambda: not any(map(is_alive, pids)))


async def switch_relay(engine: AsyncEngine, *, is_on: bool) -> None:
    async with engine.begin() as conn:
        await set_switch(conn, RELAY, is_on, "test")


async def test_a_queue_with_other_arguments_is_reported(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    connection = await aio_pika.connect(lab.node.vhost_url(lab.vhost))
    async with connection.channel() as channel:
        await channel.declare_queue(Queue.TASKS, durable=True, arguments={"x-max-priority": 3})
    await connection.close()
    submitted = await submit_images(lab.engine, 2)
    async with lab.everything(with_database=False):
        await lab.all_completed(submitted.task_ids)
    assert "spheroseg broker check" in capsys.readouterr().out
