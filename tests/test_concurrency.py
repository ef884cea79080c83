"""Changes at the same moment, and work while the database is unreachable. Mostly on PostgreSQL."""

import asyncio
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import open_engine
from spheroseg.database.projects import ensure_images, ensure_project, ensure_user
from spheroseg.database.queue import claim, wake_due
from spheroseg.database.revisions import create_tables
from spheroseg.database.schema import metadata
from spheroseg.database.tasks import read_statuses
from spheroseg.messages import Message, Queue
from spheroseg.queueing.collect import collect
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.submit import cancel, retry
from spheroseg.queueing.sweep import sweep
from spheroseg.tasks import RetryPolicy
from spheroseg.worker.loop import WorkerOptions, work

from .conftest import Postgres, eventually, execute
from .support.lab import read_failures, read_task, some_images, submit_images
from .test_collect import completed, failed

pytestmark = pytest.mark.slow

POLICY = RetryPolicy(backoff=0.01)


@pytest.fixture
def database_url(postgres: Postgres) -> str:
    return postgres.url


async def test_a_cancel_holds_against_a_retry_at_the_same_moment(engine: AsyncEngine) -> None:
    (task_id,) = (await submit_images(engine, 1)).task_ids

    async def cancelling() -> list[UUID]:
        async with engine.begin() as conn:
            return await cancel(conn, [task_id])

    async with engine.begin() as conn:
        await apply_reports(conn, [failed(task_id)], POLICY)
        task = asyncio.create_task(cancelling())
        # It waits for our lock. Then the task is at another attempt than when it began.
        await asyncio.sleep(0.3)
    assert await task == [task_id]
    assert (await read_task(engine, task_id)).state == "cancelled"
    assert await TableBroker(engine).depth(Queue.TASKS) == 0


async def test_two_sweeps_at_once_requeue_a_task_once(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    (task_id,) = (await submit_images(engine, 1)).task_ids
    await execute(engine, "DELETE FROM segmentation_queue")
    both = asyncio.Barrier(2)
    read = read_statuses

    async def read_together(*arguments: Any) -> Any:
        found = await read(*arguments)
        await both.wait()
        return found

    monkeypatch.setattr("spheroseg.queueing.sweep.read_statuses", read_together)
    await asyncio.gather(sweep(engine, POLICY), sweep(engine, POLICY))
    assert await TableBroker(engine).depth(Queue.TASKS) == 1
    assert (await read_task(engine, task_id)).state == "queued"


async def test_two_people_may_submit_the_same_images_at_once(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        user_id = await ensure_user(conn, "ada")
        project_id = await ensure_project(conn, user_id, "plate")
    images = some_images(5000)

    async def insert(order: slice) -> list[UUID]:
        async with engine.begin() as conn:
            return await ensure_images(conn, project_id, images[order])

    forwards, backwards = await asyncio.gather(insert(slice(None)), insert(slice(None, None, -1)))
    assert forwards == backwards[::-1]


async def test_processes_that_start_together_create_the_tables_once(postgres: Postgres) -> None:
    engines = [open_engine(postgres.url) for _ in range(4)]
    for _ in range(3):
        async with engines[0].begin() as conn:
            await conn.run_sync(metadata.drop_all)
        await asyncio.gather(*map(create_tables, engines))
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("down", [0.0, 5.0])
async def test_a_database_that_restarts_loses_nothing(engine: AsyncEngine, postgres: Postgres, down: float) -> None:
    submitted = await submit_images(engine, 40, seconds=0.05)
    broker = TableBroker(engine, lease=4.0, poll=0.05)
    stopping = asyncio.Event()
    options = WorkerOptions("test", [sys.executable, "-m", "tests.support.children"], slots=2)
    services = [
        asyncio.create_task(collect(engine, [broker], POLICY, sweep_seconds=0.5)),
        asyncio.create_task(work(broker, options, stopping)),
    ]

    async def some_are_done() -> bool:
        return bool((await read_task(engine, submitted.task_ids[0])).state == "completed")

    async def all_are_done() -> bool:
        return all([(await read_task(engine, task_id)).state == "completed" for task_id in submitted.task_ids])

    try:
        await eventually(some_are_done, within=20)
        await asyncio.to_thread(postgres.stop)
        await asyncio.sleep(down)
        await asyncio.to_thread(postgres.start)
        await eventually(all_are_done, within=40)
    finally:
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)


async def test_reports_survive_an_error_of_the_database(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    (task_id,) = (await submit_images(engine, 1)).task_ids
    broker = TableBroker(engine, poll=0.05)
    apply = apply_reports
    calls = 0

    async def fail_once(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OperationalError("", {}, Exception("the disk is full"))
        await apply(*arguments)

    monkeypatch.setattr("spheroseg.queueing.collect.apply_reports", fail_once)
    await broker.publish([completed(task_id).message()])
    collecting = asyncio.create_task(collect(engine, [broker], POLICY))

    async def is_done() -> bool:
        return bool((await read_task(engine, task_id)).state == "completed")

    try:
        await eventually(is_done)
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


async def test_a_report_that_cannot_be_stored_does_not_hold_up_the_others(engine: AsyncEngine) -> None:
    good, odd, huge = (await submit_images(engine, 3)).task_ids
    broker = TableBroker(engine, poll=0.05)
    reports = [
        failed(odd, error="a NUL \x00 inside", retryable=False),
        failed(huge, reason="x" * 60),
        completed(good),
    ]
    await broker.publish([report.message() for report in reports])
    collecting = asyncio.create_task(collect(engine, [broker], POLICY))

    async def are_done() -> bool:
        states = [(await read_task(engine, task_id)).state for task_id in (good, odd, huge)]
        return states == ["completed", "failed", "failed"]

    try:
        await eventually(are_done)
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
    (kept,) = await read_failures(engine, huge)
    assert kept.reason == "bad_message"
    assert kept.body is not None


async def test_fifty_thousand_tasks_are_cancelled_and_retried(engine: AsyncEngine) -> None:
    submitted = await submit_images(engine, 50_000)
    async with engine.begin() as conn:
        assert len(await cancel(conn, submitted.task_ids)) == 50_000
    await execute(engine, "UPDATE segmentation_tasks SET state = 'failed'")
    async with engine.begin() as conn:
        assert await retry(conn, submitted.task_ids) == submitted.task_ids
    assert await TableBroker(engine).depth(Queue.TASKS) == 50_000


async def test_the_statements_of_the_queue_search_their_indexes(engine: AsyncEngine) -> None:
    broker = TableBroker(engine)
    delayed = [Message(f"later-{n}", "task.new", b"", delay=3600.0) for n in range(20_000)]
    ready = [Message(f"now-{n}", "task.new", b"", priority=1) for n in range(20_000)]
    await broker.publish([*delayed, *ready])
    plans = []
    async with engine.connect() as conn:
        await conn.execute(text("ANALYZE segmentation_queue"))
        # The plans of the statements that the program sends, not of copies of them.
        await conn.execute(text("LOAD 'auto_explain'"))
        for setting in ("log_min_duration = 0", "log_analyze = false"):
            await conn.execute(text(f"SET auto_explain.{setting}"))
        await conn.execute(text("SET client_min_messages = log"))
        raw = (await conn.get_raw_connection()).driver_connection
        assert raw is not None
        raw.add_log_listener(lambda _connection, message: plans.append(message.message))
        await wake_due(conn)
        await claim(conn, Queue.TASKS, 1, "holder", 30.0)
        await claim(conn, Queue.TASKS, 1, "holder", 30.0, lowest_first=True)
        await conn.rollback()
    assert len(plans) == 3
    waking, claiming, claiming_lowest = plans
    assert "ix_segmentation_queue_due" in waking
    for plan in (claiming, claiming_lowest):
        assert "ix_segmentation_queue_next" in plan
        assert "Sort" not in plan
    for plan in plans:
        assert "Seq Scan on segmentation_queue" not in plan


async def test_opening_a_new_file_waits_while_another_process_writes_it(tmp_path: Path) -> None:
    """SQLite itself would refuse at once, because the change to WAL needs the file exclusively."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE a (b)")
    threading.Timer(0.3, other.close).start()  # rolls its transaction back
    engine = open_engine(f"sqlite:///{path}")
    async with engine.connect() as conn:
        assert (await conn.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == "wal"
    await engine.dispose()
