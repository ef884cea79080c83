"""How reports and dead letters change the state of tasks, on both databases."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.database.queue import withdraw
from spheroseg.messages import Message, Queue, Report, TaskCompleted, TaskFailed, TaskNew, TaskStarted, decode_task
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.submit import cancel, retry
from spheroseg.queueing.sweep import sweep
from spheroseg.queueing.undelivered import apply_dead_letter
from spheroseg.tasks import RetryPolicy

from .conftest import at_both_revisions, execute
from .support.lab import read_failures, read_results, read_task, submit_images

POLICY = RetryPolicy(max_retries=3, max_losses=2, backoff=4.0, backoff_max=60.0)
NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def started(task_id: UUID, attempt: int = 1) -> TaskStarted:
    return TaskStarted(task_id=task_id, attempt=attempt, worker="w", at=NOW)


def completed(task_id: UUID, attempt: int = 1, **result: Any) -> TaskCompleted:
    return TaskCompleted(task_id=task_id, attempt=attempt, worker="w", at=NOW, started_at=NOW, result=result)


def failed(task_id: UUID, attempt: int = 1, **facts: Any) -> TaskFailed:
    facts = {"reason": "crashed", "error": "it broke", **facts}
    return TaskFailed(task_id=task_id, attempt=attempt, worker="w", at=NOW, started_at=NOW, **facts)


async def apply(engine: AsyncEngine, *reports: Report, draw: Any = lambda low, high: high) -> None:
    async with engine.begin() as conn:
        await apply_reports(conn, reports, POLICY, draw)


@pytest.fixture
async def task_id(engine: AsyncEngine) -> UUID:
    return (await submit_images(engine, 1)).task_ids[0]


async def test_a_task_is_started_and_completed_with_its_result(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, started(task_id))
    task = await read_task(engine, task_id)
    assert (task.state, task.worker, task.version) == ("processing", "w", 2)
    await apply(engine, completed(task_id, objects=[1, 2]))
    task = await read_task(engine, task_id)
    assert (task.state, task.processing_time_ms, task.finished_at) == ("completed", 0, NOW)
    (result,) = await read_results(engine, task_id)
    assert (result.result, result.superseded, result.attempt) == ({"objects": [1, 2]}, False, 1)


@at_both_revisions
async def test_a_result_may_overtake_its_start(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, completed(task_id))
    await apply(engine, started(task_id))
    assert (await read_task(engine, task_id)).state == "completed"


async def test_a_repeated_start_renews_the_lease_of_a_task_that_was_taken_from_rabbitmq(
    engine: AsyncEngine, task_id: UUID
) -> None:
    await apply(engine, started(task_id))
    await apply(engine, started(task_id))
    task = await read_task(engine, task_id)
    assert (task.version, task.lease_until) == (2, None), "a queue in the database holds it: no lease"
    await execute(engine, "UPDATE segmentation_tasks SET lease_until = '2026-01-01 00:00:00+00:00'")
    await apply(engine, started(task_id, attempt=2))
    before = (await read_task(engine, task_id)).lease_until
    await apply(engine, started(task_id))
    renewed = (await read_task(engine, task_id)).lease_until
    assert (renewed - before).total_seconds() > 0
    assert (renewed - datetime.now(UTC)).total_seconds() > POLICY.silence - 60


async def test_a_failure_is_recorded_and_retried_with_backoff(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, failed(task_id))
    task = await read_task(engine, task_id)
    assert (task.state, task.attempt, task.retry_count) == ("queued", 2, 1)
    assert (task.reason, task.error) == ("crashed", "it broke")
    (failure,) = await read_failures(engine, task_id)
    assert (failure.attempt, failure.cause, failure.reason, failure.error) == (1, "failed", "crashed", "it broke")
    assert (failure.worker, failure.started_at, failure.failed_at) == ("w", NOW, NOW)
    assert failure.next_attempt == 2
    wait = (failure.next_attempt_at - datetime.now(UTC)).total_seconds()
    assert 2.0 < wait <= 4.0


@at_both_revisions
async def test_the_next_attempt_comes_only_after_its_delay(engine: AsyncEngine, task_id: UUID) -> None:
    broker = TableBroker(engine, poll=0.05)
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        await consumer.ack(await consumer.take(1, 5))
        await apply(engine, failed(task_id), draw=lambda low, high: 1.0)
        assert await consumer.take(1, 0.5) == []
        (again,) = await consumer.take(1, 5)
        assert decode_task(again.message).attempt == 2


@at_both_revisions
async def test_the_jitter_is_drawn_between_zero_and_the_whole_backoff(engine: AsyncEngine, task_id: UUID) -> None:
    drawn = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    for attempt in (1, 2, 3):
        await apply(engine, failed(task_id, attempt), draw=draw)
    assert drawn == [(0.0, 4.0), (0.0, 8.0), (0.0, 16.0)]


async def test_a_task_fails_for_good_after_three_retries(engine: AsyncEngine, task_id: UUID) -> None:
    for attempt in (1, 2, 3, 4):
        await apply(engine, failed(task_id, attempt, error=f"broke {attempt} times"))
    task = await read_task(engine, task_id)
    assert (task.state, task.attempt, task.error) == ("failed", 4, "broke 4 times")
    failures = await read_failures(engine, task_id)
    assert [(failure.attempt, failure.next_attempt) for failure in failures] == [(1, 2), (2, 3), (3, 4), (4, None)]


@at_both_revisions
async def test_an_error_that_is_not_retryable_fails_the_task_at_once(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, failed(task_id, reason="bad_image", error="not an image", retryable=False))
    task = await read_task(engine, task_id)
    assert (task.state, task.reason, task.attempt) == ("failed", "bad_image", 1)


@at_both_revisions
async def test_late_reports_from_before_a_persons_retry_change_nothing(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, failed(task_id, retryable=False))
    async with engine.begin() as conn:
        await retry(conn, [task_id])
    await apply(engine, failed(task_id, 1), completed(task_id, 1))
    task = await read_task(engine, task_id)
    assert (task.state, task.attempt, task.retry_count) == ("queued", 2, 0)
    await apply(engine, completed(task_id, 2))
    assert (await read_task(engine, task_id)).state == "completed"


async def test_a_duplicate_report_changes_nothing(engine: AsyncEngine, task_id: UUID) -> None:
    for _ in range(3):
        await apply(engine, completed(task_id, n=1))
    assert len(await read_results(engine, task_id)) == 1
    other = (await submit_images(engine, 1)).task_ids[0]
    for _ in range(3):
        await apply(engine, failed(other))
    assert len(await read_failures(engine, other)) == 1
    assert (await read_task(engine, other)).attempt == 2


@at_both_revisions
async def test_a_late_result_is_kept_as_superseded(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, failed(task_id, 1), completed(task_id, 2, n=2), completed(task_id, 1, n=1))
    applied, late = await read_results(engine, task_id)
    assert (applied.result, applied.superseded) == ({"n": 2}, False)
    assert (late.result, late.superseded) == ({"n": 1}, True)
    assert (await read_task(engine, task_id)).attempt == 2


async def test_a_late_failure_is_kept_as_superseded(engine: AsyncEngine, task_id: UUID) -> None:
    async with engine.begin() as conn:
        await cancel(conn, [task_id])
    await apply(engine, failed(task_id))
    assert (await read_task(engine, task_id)).state == "cancelled"
    (late,) = await read_failures(engine, task_id)
    assert late.superseded


@at_both_revisions
async def test_a_cancelled_task_stays_cancelled_whatever_arrives(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, started(task_id))
    async with engine.begin() as conn:
        await cancel(conn, [task_id])
    await apply(engine, completed(task_id), failed(task_id), started(task_id))
    assert (await read_task(engine, task_id)).state == "cancelled"


@at_both_revisions
async def test_a_lost_attempt_uses_up_no_retry_but_has_its_own_limit(engine: AsyncEngine, task_id: UUID) -> None:
    for attempt in (1, 2):
        await apply(engine, started(task_id, attempt), failed(task_id, attempt, cause="lost", reason="worker_lost"))
        task = await read_task(engine, task_id)
        assert (task.state, task.retry_count, task.lost_count) == ("queued", 0, attempt)
    await apply(engine, failed(task_id, 3, cause="lost", reason="worker_lost", error="vanished"))
    task = await read_task(engine, task_id)
    assert (task.state, task.reason) == ("failed", "worker_lost")


@at_both_revisions
async def test_a_handed_back_task_is_queued_as_the_same_attempt(engine: AsyncEngine, task_id: UUID) -> None:
    await execute(engine, "DELETE FROM segmentation_queue")
    handed_back = failed(task_id, cause="handed_back", reason="handed_back")
    await apply(engine, started(task_id), handed_back, handed_back)
    task = await read_task(engine, task_id)
    assert (task.state, task.attempt, task.retry_count, task.lost_count) == ("queued", 1, 0, 0)
    assert await TableBroker(engine).depth(Queue.TASKS) == 1


@at_both_revisions
async def test_a_report_of_an_unknown_task_is_ignored(engine: AsyncEngine, task_id: UUID) -> None:
    await apply(engine, completed(uuid4()), completed(task_id))
    assert (await read_task(engine, task_id)).state == "completed"


def dead(task_id: UUID, reason: str, body: bytes | None = None) -> Message:
    new = TaskNew(task_id=task_id, attempt=1, image_key="k", image_sha256="0" * 64, model="test").message()
    headers = {"x-death": [{"reason": reason, "queue": "segmentation.tasks", "routing-keys": ["task.new"]}]}
    return Message(new.id, new.routing_key, body or new.body, task_id=new.task_id, headers=headers)


@pytest.mark.parametrize("reason", ["expired", "maxlen"])
async def test_an_undelivered_message_is_queued_again_and_uses_up_nothing(
    engine: AsyncEngine, task_id: UUID, reason: str
) -> None:
    await execute(engine, "DELETE FROM segmentation_queue")
    for _ in range(10):
        async with engine.begin() as conn:
            await apply_dead_letter(conn, dead(task_id, reason), POLICY)
    task = await read_task(engine, task_id)
    assert (task.state, task.attempt, task.retry_count, task.lost_count) == ("queued", 1, 0, 0)
    failures = await read_failures(engine, task_id)
    assert {(failure.cause, failure.reason) for failure in failures} == {("undelivered", reason)}
    assert await TableBroker(engine).depth(Queue.TASKS) == 1, "ten dead letters, one message"


async def test_a_rejected_message_and_its_report_end_the_same_in_either_order(engine: AsyncEngine) -> None:
    for letter_first in (True, False):
        task_id = (await submit_images(engine, 1)).task_ids[0]
        async with engine.begin() as conn:
            if letter_first:
                await apply_dead_letter(conn, dead(task_id, "rejected"), POLICY)
            await apply_reports(conn, [failed(task_id, reason="timeout")], POLICY)
            if not letter_first:
                await apply_dead_letter(conn, dead(task_id, "rejected"), POLICY)
        task = await read_task(engine, task_id)
        assert (task.state, task.attempt, task.reason) == ("queued", 2, "timeout")
        assert [failure.reason for failure in await read_failures(engine, task_id)] == ["timeout"]


async def test_a_message_that_nobody_can_read_is_kept_and_fails_its_task(engine: AsyncEngine, task_id: UUID) -> None:
    async with engine.begin() as conn:
        await apply_dead_letter(conn, dead(task_id, "rejected", b"\xff not json"), POLICY)
    task = await read_task(engine, task_id)
    assert (task.state, task.reason) == ("failed", "bad_message")
    (failure,) = await read_failures(engine, task_id)
    assert bytes(failure.body) == b"\xff not json"
    assert failure.headers["x-death"][0]["reason"] == "rejected"


@at_both_revisions
async def test_the_sweep_requeues_tasks_that_no_queue_holds(engine: AsyncEngine) -> None:
    queued, running, held = (await submit_images(engine, 3)).task_ids
    await apply(engine, started(running))
    async with engine.begin() as conn:
        await withdraw(conn, [queued, running])
    assert await sweep(engine, POLICY) == 2
    assert await sweep(engine, POLICY) == 0
    first, second, third = [await read_task(engine, task_id) for task_id in (queued, running, held)]
    assert (first.state, first.attempt, first.reason) == ("queued", 1, "message_missing")
    assert (second.state, second.attempt, second.lost_count, second.reason) == ("queued", 2, 1, "worker_lost")
    assert (third.attempt, third.reason) == (1, None)
    assert await TableBroker(engine).depth(Queue.TASKS) == 3


@at_both_revisions
async def test_the_sweep_does_not_requeue_a_task_whose_report_waits(engine: AsyncEngine, task_id: UUID) -> None:
    broker = TableBroker(engine)
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        deliveries = await consumer.take(1, 5)
        await broker.publish([completed(task_id).message()])
        await consumer.ack(deliveries)
    assert await sweep(engine, POLICY) == 0
