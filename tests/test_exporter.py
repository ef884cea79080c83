"""The exporter alone: what it counts, what it leaves out, and how often it queries its sources."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from httpx import ASGITransport, AsyncClient
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.api.exporter import create_exporter_app
from spheroseg.database import migrate, revisions
from spheroseg.database.engine import DatabaseTime, reading
from spheroseg.database.schema import (
    components,
    metadata,
    segmentation_failures,
    segmentation_results,
    segmentation_tasks,
)
from spheroseg.monitoring.exporter import Exporter, open_exporter
from spheroseg.monitoring.exporter.counters import TaskCounters
from spheroseg.monitoring.exporter.rabbitmq import rabbitmq_metrics
from spheroseg.monitoring.exporter.source import Source
from spheroseg.settings import Settings

from .conftest import Postgres, empty_database, eventually
from .support.lab import submit_images

NAMES = {
    "spheroseg_exporter_source_up", "spheroseg_tasks", "spheroseg_database_queue_messages",
    "spheroseg_task_waiting_seconds", "spheroseg_task_processing_seconds", "spheroseg_component_up",
    "spheroseg_component_degraded", "spheroseg_degraded",
}  # fmt: skip
OF_THE_QUEUE = {"spheroseg_relay_backlog_messages", "spheroseg_relay_backlog_age_seconds"}
OF_FAILURES = {"spheroseg_retries", "spheroseg_failed_for_good", "spheroseg_dead_letters"}


def value(metrics: Sequence[Metric], name: str, **labels: str) -> float | None:
    """Return the value of the only sample with these labels, or None if there is none."""
    found = [s.value for m in metrics for s in m.samples if s.name == name and labels.items() <= s.labels.items()]
    assert len(found) <= 1, found
    return found[0] if found else None


@asynccontextmanager
async def exporter(url: str, **settings: Any) -> AsyncIterator[Exporter]:
    async with open_exporter(
        Settings(database_url=url, **settings), database_max_age=0, rabbitmq_max_age=0
    ) as opened:
        yield opened


async def complete(
    conn: AsyncConnection, task_id: UUID, *, waited: float = 2.0, took: float = 0.3, **row: Any
) -> None:
    """Complete a task as collect does. row: columns of the result, such as its id."""
    now = datetime.now(UTC)
    moments = {"created_at": now, "started_at": now + timedelta(seconds=waited)}
    moments["finished_at"] = moments["started_at"] + timedelta(seconds=took)
    await conn.execute(update(segmentation_tasks).where(segmentation_tasks.c.id == task_id).values(**moments))
    values = {"task_id": task_id, "attempt": 1, "superseded": False, "worker": "w", "result": {}, "created_at": now}
    await conn.execute(insert(segmentation_results).values(**(values | row)))


async def test_the_exporter_has_exactly_the_documented_metrics(engine: AsyncEngine, database_url: str) -> None:
    async with exporter(database_url) as opened:
        assert {metric.name for metric in await opened.metrics()} == NAMES | OF_FAILURES
    async with exporter(database_url, enable_message_queue=True) as opened:
        metrics = await opened.metrics()
    # Without the management API that source is reported as blind.
    assert {metric.name for metric in metrics} == NAMES | OF_FAILURES | OF_THE_QUEUE
    assert value(metrics, "spheroseg_exporter_source_up", source="rabbitmq") == 0
    assert value(metrics, "spheroseg_exporter_source_up", source="database") == 1


async def test_at_revision_009_there_are_no_metrics_of_failures(postgres: Postgres) -> None:
    async with empty_database(postgres.url) as engine, exporter(postgres.url) as opened:
        assert {metric.name for metric in await opened.metrics()} >= OF_FAILURES
        await migrate.downgrade(engine, revisions.BASE)
        (task_id,) = (await _submit_at_base(engine)).task_ids
        async with engine.begin() as conn:
            await complete(conn, task_id)
        metrics = await opened.metrics()
        assert {metric.name for metric in metrics} == NAMES
        assert value(metrics, "spheroseg_task_waiting_seconds_count") == 1
        await migrate.upgrade(engine)
        assert {metric.name for metric in await opened.metrics()} >= OF_FAILURES


async def _submit_at_base(engine: AsyncEngine) -> Any:
    await revisions.prepare(engine)
    return await submit_images(engine, 1)


async def test_results_are_counted_once_in_whatever_order_they_commit(engine: AsyncEngine) -> None:
    submitted = await submit_images(engine, 6)
    tasks = iter(submitted.task_ids)
    counters = TaskCounters()

    async def count() -> float | None:
        async with reading(engine) as conn:
            await counters.update(conn)
        return value(counters.metrics(with_failures=True), "spheroseg_task_waiting_seconds_count")

    async with engine.begin() as conn:
        await complete(conn, next(tasks), id=10)
    # Rows that existed before the first update are not counted.
    assert await count() == 0
    for id_, expected in ((13, 1), (11, 2), (14, 3), (12, 4)):
        async with engine.begin() as conn:
            await complete(conn, next(tasks), id=id_, waited=2, took=0.3)
        assert await count() == expected
        assert await count() == expected
    async with engine.begin() as conn:
        await complete(conn, submitted.task_ids[0], id=15, superseded=True)
    assert await count() == 4
    metrics = counters.metrics(with_failures=True)
    assert value(metrics, "spheroseg_task_waiting_seconds_sum") == pytest.approx(8)
    assert value(metrics, "spheroseg_task_processing_seconds_bucket", le="0.25") == 0
    assert value(metrics, "spheroseg_task_processing_seconds_bucket", le="0.5") == 4
    # After the table is emptied, counting continues with its next row.
    async with engine.begin() as conn:
        await conn.execute(delete(segmentation_results))
        await complete(conn, submitted.task_ids[0], id=1)
    assert await count() == 4
    async with engine.begin() as conn:
        await complete(conn, next(tasks), id=2)
    assert await count() == 5


async def test_retries_failures_for_good_and_dead_letters_are_told_apart(
    engine: AsyncEngine, database_url: str
) -> None:
    (task_id,) = (await submit_images(engine, 1)).task_ids
    about = {"task_id": task_id, "cause": "failed", "error": "", "failed_at": DatabaseTime()}
    async with exporter(database_url) as opened:
        await opened.metrics()
        async with engine.begin() as conn:
            f = insert(segmentation_failures)
            await conn.execute(f.values(**about, attempt=1, reason="timeout", next_attempt=2))
            await conn.execute(f.values(**about, attempt=1, reason="late", next_attempt=2, superseded=True))
            await conn.execute(f.values(**about, attempt=2, reason="killed"))
            await conn.execute(f.values(**(about | {"task_id": None}), reason="bad_message", body=b"?"))
            await conn.execute(update(segmentation_tasks).values(state="failed", attempt=2))
        metrics = await opened.metrics()
        assert value(metrics, "spheroseg_retries_total", reason="timeout") == 1
        assert value(metrics, "spheroseg_retries_total", reason="late") is None
        assert value(metrics, "spheroseg_failed_for_good_total", reason="killed") == 1
        # It belongs to no task: it counts as a dead letter, but not as a failed task.
        assert value(metrics, "spheroseg_failed_for_good_total", reason="bad_message") == 0
        assert value(metrics, "spheroseg_dead_letters", reason="bad_message") == 1
        assert value(metrics, "spheroseg_dead_letters", reason="killed") == 1
        async with engine.begin() as conn:
            await conn.execute(update(segmentation_failures).values(settled_at=DatabaseTime()))
        assert value(await opened.metrics(), "spheroseg_dead_letters", reason="killed") == 0


@pytest.mark.parametrize(
    ("rows", "up", "away", "is_degraded"),
    [
        pytest.param([], 0, 0, 1, id="no relay"),
        pytest.param([("ok", 0)], 1, 0, 0, id="a relay"),
        pytest.param([("away", 0)], 1, 1, 1, id="a relay without RabbitMQ"),
        pytest.param([("ok", 60)], 0, 0, 1, id="a relay that has fallen silent"),
        pytest.param([("ok", 0), ("away", 60)], 1, 0, 0, id="a relay that has been replaced"),
        pytest.param([("ok", 0), ("away", 0)], 2, 1, 0, id="a second relay that works"),
        pytest.param([("paused", 0)], 1, 1, 1, id="a paused relay"),
    ],
)
async def test_degraded_means_that_no_relay_moves_tasks_to_rabbitmq(
    tmp_path: Path, rows: list[tuple[str, float]], up: int, away: int, is_degraded: int
) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    async with empty_database(url) as engine:
        async with engine.begin() as conn:
            for number, (state, age) in enumerate(rows):
                when = {"since": DatabaseTime(), "seen_at": DatabaseTime(-age)}
                row = {"name": f"relay-{number}", "kind": "relay", "state": state, "detail": {}}
                await conn.execute(insert(components).values(**row, **when))
        async with exporter(url, enable_message_queue=True) as opened:
            metrics = await opened.metrics()
            assert value(metrics, "spheroseg_component_up", kind="relay") == up
            assert value(metrics, "spheroseg_component_degraded", kind="relay") == away
            assert value(metrics, "spheroseg_degraded") == is_degraded
        async with exporter(url) as opened:
            assert value(await opened.metrics(), "spheroseg_degraded") == 0


async def test_the_backlog_is_what_the_relay_could_move_now(engine: AsyncEngine, database_url: str) -> None:
    await submit_images(engine, 3)
    async with exporter(database_url, enable_message_queue=True) as opened:
        metrics = await opened.metrics()
        assert value(metrics, "spheroseg_relay_backlog_messages") == 3
        age = value(metrics, "spheroseg_relay_backlog_age_seconds")
        assert age is not None
        assert 0 < age < 10
        queue, where = "segmentation.tasks", "waiting"
        assert value(metrics, "spheroseg_database_queue_messages", queue=queue, where=where) == 3


async def test_an_unreachable_database_is_reported_and_no_values_are_invented(tmp_path: Path) -> None:
    async with exporter("postgresql://nobody@127.0.0.1:1/none") as opened:
        metrics = await opened.metrics()
        assert [metric.name for metric in metrics] == ["spheroseg_exporter_source_up"]
        assert value(metrics, "spheroseg_exporter_source_up", source="database") == 0
        assert (await opened.health()).status == "blind"


async def test_an_empty_database_is_reported_with_the_command_to_run(postgres: Postgres) -> None:
    async with empty_database(postgres.url) as engine, exporter(postgres.url) as opened:
        async with engine.begin() as conn:
            await conn.run_sync(metadata.drop_all)
            await conn.execute(text("DROP TABLE alembic_version"))
        health = await opened.health()
        assert "spheroseg db upgrade" in health.sources["database"]


async def test_concurrent_scrapes_share_one_query_and_a_fresh_answer_is_reused() -> None:
    asked = 0

    async def ask() -> list[Metric]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return [GaugeMetricFamily("it", "", asked)]

    source = Source("it", ask, max_age=60)
    first, second = await asyncio.gather(source.read(), source.read())
    assert first == second == await source.read()
    assert asked == 1


async def test_a_slow_query_delays_no_scrape_and_is_not_started_twice() -> None:
    asked = 0
    may_answer = asyncio.Event()

    async def ask() -> list[Metric]:
        nonlocal asked
        asked += 1
        await may_answer.wait()
        return []

    source = Source("it", ask, max_age=0, timeout=0.02, max_stale=0.3)
    for _ in range(3):
        assert (await source.read()).reason == "no answer within 0.02 s"
    assert asked == 1
    may_answer.set()

    async def has_answered() -> bool:
        return (await source.read()).metrics == []

    await eventually(has_answered)
    may_answer.clear()
    # The last answer is used for a while, until it is stale.
    assert (await source.read()).metrics == []

    async def is_blind() -> bool:
        return (await source.read()).metrics is None

    await eventually(is_blind)
    may_answer.set()
    await source.close()


async def test_old_values_are_not_repeated_once_a_source_is_unreachable() -> None:
    answers: list[list[Metric] | Exception] = [[], RuntimeError("away")]

    async def ask() -> list[Metric]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = Source("it", ask, max_age=0)
    assert (await source.read()).metrics == []
    found = await source.read()
    assert found.metrics is None
    assert found.reason == "away"


def test_temporary_queues_and_queues_without_counts_are_left_out() -> None:
    base = {"vhost": "/", "exclusive": False, "auto_delete": False, "messages": 2, "consumers": 1}
    metrics = rabbitmq_metrics(
        [
            {**base, "name": "kept", "message_stats": {"publish": 7, "deliver_get": 5}},
            {**base, "name": "never used"},
            {**base, "name": "gone soon", "exclusive": True},
            {"vhost": "/", "name": "just made"},
        ]
    )
    assert {sample.labels["queue"] for metric in metrics for sample in metric.samples} == {"kept", "never used"}
    assert value(metrics, "rabbitmq_queue_message_stats_publish", queue="kept") == 7
    assert value(metrics, "rabbitmq_queue_message_stats_deliver_get", queue="never used") == 0


async def test_the_exporter_answers_over_http(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    async with exporter(url) as opened:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Exporter]:
            yield opened

        app = create_exporter_app(opening)
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=ASGITransport(app), base_url="http://x") as c,
        ):
            answer = await c.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            assert 'spheroseg_tasks{state="queued"} 0.0' in answer.text
            assert "_created" not in answer.text
            assert (await c.get("/health")).json() == {"status": "ok", "sources": {"database": "ok"}}
