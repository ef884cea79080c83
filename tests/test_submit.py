"""Submitting, cancelling and retrying tasks, on both databases."""

import asyncio

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import reading
from spheroseg.database.projects import NewImage, ensure_project, ensure_user
from spheroseg.database.schema import images as images_table
from spheroseg.database.schema import segmentation_batches, segmentation_queue, segmentation_tasks
from spheroseg.messages import Queue, decode_task
from spheroseg.queueing.submit import cancel, retry, submit

from .conftest import at_both_revisions
from .support.lab import read_failures, read_task, some_images, submit_images


async def count(engine: AsyncEngine, table: object) -> int:
    async with reading(engine) as conn:
        return (await conn.execute(select(func.count()).select_from(table))).scalar_one()  # type: ignore[arg-type]


async def test_a_batch_its_tasks_and_their_messages_are_written_together(engine: AsyncEngine) -> None:
    submitted = await submit_images(engine, 3, threshold=0.4)
    assert submitted.is_new
    async with TableBroker(engine).consume(Queue.TASKS, prefetch=3) as consumer:
        orders = [decode_task(delivery.message) for delivery in await consumer.take(3, 5)]
    assert [order.task_id for order in orders] == submitted.task_ids
    assert {(order.attempt, order.model, order.parameters["threshold"]) for order in orders} == {(1, "test", 0.4)}
    for order in orders:
        task = await read_task(engine, order.task_id)
        assert (task.state, task.attempt, task.message_queue_id) == ("queued", 1, order.message_id)


@at_both_revisions
async def test_a_submit_that_is_rolled_back_leaves_no_trace(engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        user_id = await ensure_user(conn, "ada")
        project_id = await ensure_project(conn, user_id, "plate")
        await submit(conn, user_id=user_id, project_id=project_id, images=some_images(5), model="test", parameters={})
        await conn.rollback()
    for table in (segmentation_batches, segmentation_tasks, segmentation_queue, images_table):
        assert await count(engine, table) == 0


@at_both_revisions
async def test_the_same_key_of_the_same_user_is_the_same_batch(engine: AsyncEngine) -> None:
    first = await submit_images(engine, 3, key="monday")
    again = await submit_images(engine, 3, key="monday")
    other = await submit_images(engine, 3, key="monday", user="grace")
    assert (again.batch_id, again.task_ids, again.is_new) == (first.batch_id, first.task_ids, False)
    assert other.batch_id != first.batch_id
    assert await count(engine, segmentation_tasks) == await count(engine, segmentation_queue) == 6


@at_both_revisions
async def test_the_same_key_at_the_same_moment_is_one_batch(engine: AsyncEngine) -> None:
    await submit_images(engine, 0)
    answers = await asyncio.gather(*(submit_images(engine, 4, key="double click") for _ in range(5)))
    assert len({answer.batch_id for answer in answers}) == 1
    assert [answer.is_new for answer in answers].count(True) == 1
    assert await count(engine, segmentation_tasks) == 4


async def test_an_unreadable_image_fails_its_own_task_only(engine: AsyncEngine) -> None:
    good = some_images(2)
    bad = NewImage("locked", "file:///locked", "", problem=("unreadable", "cannot look into the folder"))
    submitted = await submit_images(engine, [good[0], bad, good[1]])
    states = [(await read_task(engine, task_id)).state for task_id in submitted.task_ids]
    assert states == ["queued", "failed", "queued"]
    failed = await read_task(engine, submitted.task_ids[1])
    assert (failed.reason, failed.error, failed.attempt) == ("unreadable", "cannot look into the folder", 0)
    (failure,) = await read_failures(engine, failed.id)
    assert (failure.reason, failure.next_attempt) == ("unreadable", None)
    assert await TableBroker(engine).depth(Queue.TASKS) == 2


@at_both_revisions
async def test_an_image_that_the_project_has_already_is_not_stored_twice(engine: AsyncEngine) -> None:
    images = some_images(3)
    await submit_images(engine, images)
    await submit_images(engine, images)
    assert await count(engine, images_table) == 3
    assert await count(engine, segmentation_tasks) == 6


@at_both_revisions
@pytest.mark.parametrize(("tier", "priority"), [("regular", 1), ("premium", 10)])
async def test_the_users_tier_sets_the_priority(engine: AsyncEngine, tier: str, priority: int) -> None:
    await submit_images(engine, 1, user=tier, tier=tier)
    async with TableBroker(engine).consume(Queue.TASKS, prefetch=1) as consumer:
        (delivery,) = await consumer.take(1, 5)
    assert delivery.message.priority == priority


@at_both_revisions
async def test_a_cancelled_task_is_never_delivered(engine: AsyncEngine) -> None:
    submitted = await submit_images(engine, 3)
    async with engine.begin() as conn:
        assert await cancel(conn, submitted.task_ids[:2]) == submitted.task_ids[:2]
        assert await cancel(conn, submitted.task_ids[:2]) == []
    task = await read_task(engine, submitted.task_ids[0])
    assert task.state == "cancelled"
    assert task.finished_at is not None
    async with TableBroker(engine).consume(Queue.TASKS, prefetch=3) as consumer:
        deliveries = await consumer.take(3, 0.3)
    assert [decode_task(delivery.message).task_id for delivery in deliveries] == submitted.task_ids[2:]


@at_both_revisions
async def test_only_failed_tasks_can_be_retried_and_they_get_a_fresh_set_of_tries(engine: AsyncEngine) -> None:
    bad = NewImage("locked", "file:///locked", "", problem=("unreadable", "no right to read"))
    submitted = await submit_images(engine, [bad, *some_images(1)])
    async with engine.begin() as conn:
        assert await retry(conn, submitted.task_ids) == submitted.task_ids[:1]
    task = await read_task(engine, submitted.task_ids[0])
    assert (task.state, task.attempt, task.retry_count, task.reason) == ("queued", 1, 0, None)
    assert await TableBroker(engine).depth(Queue.TASKS) == 2


async def test_fifty_thousand_images_are_one_submit(engine: AsyncEngine) -> None:
    submitted = await submit_images(engine, 50_000)
    assert len(set(submitted.task_ids)) == 50_000
    assert await count(engine, segmentation_queue) == 50_000
