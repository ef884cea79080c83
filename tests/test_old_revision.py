"""Work at revision 009, which has no table of failures, and what it keeps for revision 010.

`test_collect`, `test_submit` and `test_worker` run at both revisions.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from spheroseg.broker.table import TableBroker
from spheroseg.database.dead_letters import FailureFilter, list_dead_letters
from spheroseg.database.engine import reading
from spheroseg.database.migrate import downgrade, upgrade
from spheroseg.database.quarantine import UNREADABLE
from spheroseg.database.revision_010 import set_revision_010
from spheroseg.database.schema import segmentation_queue
from spheroseg.messages import Message, Queue, TaskCompleted
from spheroseg.monitoring.queue_metrics import queue_metrics
from spheroseg.queueing.collect import collect
from spheroseg.queueing.undelivered import apply_dead_letter
from spheroseg.services import serve_collect
from spheroseg.settings import Settings
from spheroseg.tasks import RetryPolicy

from .conftest import Postgres, empty_database, eventually
from .support.lab import read_failures, read_task, submit_images
from .test_queues_command import fail, spheroseg

pytestmark = pytest.mark.slow

HINT = "run `spheroseg db upgrade`"


@pytest.fixture
def revision() -> str:
    return "009"


@pytest.fixture
async def here(postgres: Postgres, tmp_path: Path) -> AsyncIterator[tuple[AsyncEngine, dict[str, str]]]:
    """A database and the environment of a command that uses it. PostgreSQL, because a command upgrades SQLite."""
    async with empty_database(postgres.url, "009") as engine:
        yield engine, {"DATABASE_URL": postgres.url, "SPHEROSEG_DATA_DIR": str(tmp_path)}


async def test_tasks_and_queues_are_shown_as_usual(here: tuple[AsyncEngine, dict[str, str]]) -> None:
    engine, env = here
    failed, waiting = (await submit_images(engine, 2)).task_ids
    await fail(engine, failed)
    said = spheroseg("task", "show", failed, env=env)
    assert "because of timeout" in said
    assert "There are no failed attempts." in said
    story = json.loads(spheroseg("task", "show", waiting, "--json", env=env))
    assert (story["state"], story["retries"], story["failures"]) == ("queued", 0, [])
    assert json.loads(spheroseg("queue", "list", "--json", env=env))[0]["waiting"] == 1
    figures = json.loads(spheroseg("queue", "show", env=env))
    assert (figures["tasks"]["failed"], figures["failures"]) == (1, {})
    assert "cancelled" in spheroseg("task", "cancel", waiting, env=env)
    assert "queued again" in spheroseg("task", "retry", failed, env=env)
    assert (await read_task(engine, failed)).attempt == 2


async def test_the_dead_letters_are_the_failed_tasks(here: tuple[AsyncEngine, dict[str, str]]) -> None:
    engine, env = here
    first, second, third = (await submit_images(engine, 3)).task_ids
    await fail(engine, first, "timeout")
    await fail(engine, second, "killed", worker="w2")
    await fail(engine, third, "bad_image")
    letters = json.loads(spheroseg("dlq", "list", "--json", env=env))
    assert {letter["task_id"] for letter in letters} == {str(first), str(second), str(third)}
    only = json.loads(spheroseg("dlq", "list", "--json", "--worker", "w2", env=env))
    assert [(letter["reason"], letter["error"]) for letter in only] == [("killed", "because of killed")]
    assert "timeout" in spheroseg("dlq", "list", env=env)
    assert "1 queued again" in spheroseg("dlq", "retry", "--reason", "timeout", env=env)
    assert (await read_task(engine, first)).state == "queued"
    assert HINT in spheroseg("dlq", "show", "1", env=env, code=2)
    assert HINT in spheroseg("dlq", "discard", "--all", "--yes", env=env, code=2)
    assert (await read_task(engine, second)).state == "failed"


async def dead_letters(engine: AsyncEngine) -> list[Any]:
    async with reading(engine) as conn:
        return list(await list_dead_letters(conn, FailureFilter()))


async def test_unreadable_messages_are_quarantined_and_listed_after_the_upgrade(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    (task_id,) = (await submit_images(engine, 1)).task_ids
    death = {"x-death": [{"reason": "rejected", "routing-keys": ["task.failed"]}]}
    async with engine.begin() as conn:
        await apply_dead_letter(conn, Message("stray", "task.failed", b"{not json", headers=death), RetryPolicy())
        known = Message(f"{task_id}:1:task.new", "task.new", b"\xff", task_id=task_id, headers=death)
        await apply_dead_letter(conn, known, RetryPolicy())
    assert (await read_task(engine, task_id)).reason == "bad_message"
    assert [letter.task_id for letter in await dead_letters(engine)] == [task_id]
    assert (await queue_metrics(engine))["database_queue"][UNREADABLE]["waiting"] == 2
    async with TableBroker(engine).consume(Queue.DEAD_LETTERS, prefetch=9) as consumer:
        assert await consumer.take(9, 0.2) == [], "nobody is bothered with them meanwhile"

    await upgrade(engine)
    set_revision_010(engine, True)
    stopping = asyncio.Event()
    settings = Settings(database_url=database_url, spheroseg_data_dir=tmp_path, enable_message_queue=False)
    collecting = asyncio.create_task(serve_collect(settings, stopping))

    async def are_told() -> bool:
        return len(await read_failures(engine, None)) == 2

    await eventually(are_told)
    stopping.set()
    await collecting
    assert {bytes(letter.body) for letter in await dead_letters(engine)} == {b"{not json", b"\xff"}


async def test_a_report_stays_unacknowledged_while_the_tables_are_at_another_revision(
    postgres: Postgres, tmp_path: Path
) -> None:
    async with empty_database(postgres.url) as engine:
        broker = TableBroker(engine, poll=0.05)
        (task_id,) = (await submit_images(engine, 1)).task_ids
        now = datetime.now(UTC)
        done = TaskCompleted(task_id=task_id, attempt=1, worker="w", at=now, started_at=now, result={})
        await downgrade(engine, "009")
        collecting = asyncio.create_task(collect(engine, [broker], RetryPolicy()))
        await broker.publish([done.message()])

        async def deliveries() -> int:
            async with reading(engine) as conn:
                q = segmentation_queue.c
                row = await conn.execute(select(q.deliveries, q.holder).where(q.queue == Queue.RESULTS))
                return int(row.one().deliveries)

        with capture_logs() as said:
            await eventually(lambda: sum("waits for the database" in line["event"] for line in said) == 3)
        assert await deliveries() == 1, "not given back and taken again: a quorum queue would count that"
        await upgrade(engine)

        async def is_applied() -> bool:
            return bool((await read_task(engine, task_id)).state == "completed")

        await eventually(is_applied)
        assert not collecting.done()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
