"""The commands `spheroseg queue`, `dlq`, `task` and `broker`, with and without RabbitMQ."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.rabbit import RabbitBroker
from spheroseg.broker.table import TableBroker
from spheroseg.database.audit import list_records
from spheroseg.database.engine import reading
from spheroseg.messages import Message, Queue, TaskFailed
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.undelivered import apply_dead_letter
from spheroseg.tasks import RetryPolicy

from .conftest import empty_database
from .support.lab import read_task, submit_images
from .support.rabbitmq import RabbitNode

pytestmark = pytest.mark.slow


def spheroseg(*arguments: Any, env: dict[str, str], code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    # Other programs read stdout only. A person sees stderr too.
    return done.stdout if code == 0 else done.stdout + done.stderr


async def audited(engine: AsyncEngine) -> list[tuple[str, Any]]:
    """Return the actions and details of the audit trail, the oldest first. All are by the current user."""
    async with reading(engine) as conn:
        records = await list_records(conn, 100)
    assert all(found.actor.startswith("cli:") and found.actor != "cli:" for found in records)
    return [(found.action, found.detail) for found in reversed(records)]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[tuple[AsyncEngine, dict[str, str]]]:
    """An embedded database and the environment of a command that uses it."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    async with empty_database(url) as engine:
        yield engine, {"DATABASE_URL": url, "SPHEROSEG_DATA_DIR": str(tmp_path)}


async def fail(engine: AsyncEngine, task_id: UUID, reason: str = "timeout", worker: str = "w1") -> None:
    report = TaskFailed(
        task_id=task_id,
        attempt=1,
        worker=worker,
        at=datetime.now(UTC),
        reason=reason,
        error=f"because of {reason}",
        retryable=False,
    )
    async with engine.begin() as conn:
        await apply_reports(conn, [report], RetryPolicy())


async def test_queues_are_listed_peeked_at_and_purged(here: tuple[AsyncEngine, dict[str, str]]) -> None:
    engine, env = here
    submitted = await submit_images(engine, 3)
    listed = {row["queue"]: row for row in json.loads(spheroseg("queue", "list", "--json", env=env))}
    assert listed["segmentation.tasks"]["waiting"] == 3
    said = spheroseg("queue", "list", env=env)
    assert "segmentation.tasks" in said
    assert "RabbitMQ: disabled" in said
    peeked = json.loads(spheroseg("queue", "peek", "segmentation.tasks", "--json", "-n", "2", env=env))
    assert [row["message"] for row in peeked] == [f"{task_id}:1:task.new" for task_id in submitted.task_ids[:2]]
    assert "--yes" in spheroseg("queue", "purge", "segmentation.tasks", env=env, code=2)
    assert await TableBroker(engine).depth(Queue.TASKS) == 3
    assert "3 messages deleted" in spheroseg("queue", "purge", "segmentation.tasks", "--yes", env=env)
    assert await TableBroker(engine).depth(Queue.TASKS) == 0
    assert await audited(engine) == [("queue.purge", {"queue": "segmentation.tasks", "count": 3})]


async def test_all_numbers_are_shown_as_json(here: tuple[AsyncEngine, dict[str, str]]) -> None:
    engine, env = here
    submitted = await submit_images(engine, 2)
    await fail(engine, submitted.task_ids[0])
    figures = json.loads(spheroseg("queue", "show", env=env))
    assert figures["queue"]["status"] == "disabled"
    assert figures["tasks"]["failed"] == figures["tasks"]["queued"] == 1
    assert figures["failures"] == {"timeout": 1}
    assert figures["database_queue"]["segmentation.tasks"]["waiting"] == 1
    assert set(figures["waiting_seconds"]) == {"p50", "p90", "p99"}


async def test_dead_letters_are_listed_filtered_retried_and_discarded(
    here: tuple[AsyncEngine, dict[str, str]],
) -> None:
    engine, env = here
    first, second, third = (await submit_images(engine, 3)).task_ids
    await fail(engine, first, "timeout")
    await fail(engine, second, "killed", worker="w2")
    await fail(engine, third, "bad_image")
    poison = Message("p", "task.new", b"{not json", headers={"x-death": [{"reason": "rejected"}]})
    async with engine.begin() as conn:
        await apply_dead_letter(conn, poison, RetryPolicy())
    letters = json.loads(spheroseg("dlq", "list", "--json", env=env))
    assert [letter["reason"] for letter in letters] == ["bad_message", "bad_image", "killed", "timeout"]
    only = json.loads(spheroseg("dlq", "list", "--json", "--worker", "w2", env=env))
    assert [letter["task_id"] for letter in only] == [str(second)]
    shown = json.loads(spheroseg("dlq", "show", letters[0]["id"], env=env))
    assert shown["body"] == "{not json"
    assert "1 would be queued again" in spheroseg("dlq", "retry", "--reason", "timeout", "--dry-run", env=env)
    assert (await read_task(engine, first)).state == "failed"
    assert "1 queued again" in spheroseg("dlq", "retry", "--reason", "timeout", env=env)
    assert (await read_task(engine, first)).state == "queued"
    assert "1 queued again" in spheroseg("dlq", "retry", letters[0]["id"], env=env)
    assert await TableBroker(engine).depth(Queue.TASKS) == 2, "the task, and the message as it was"
    assert "1 discarded" in spheroseg("dlq", "discard", letters[1]["id"], "--yes", env=env)
    assert (await read_task(engine, third)).state == "failed"
    left = json.loads(spheroseg("dlq", "list", "--json", env=env))
    assert [letter["reason"] for letter in left] == ["killed"]
    assert "--all" in spheroseg("dlq", "retry", env=env, code=2)
    assert "--all" in spheroseg("dlq", "discard", env=env, code=2), "before it asks for confirmation"
    assert "no dead letter 999" in spheroseg("dlq", "show", "999", env=env, code=2)
    assert [(action, detail["count"]) for action, detail in await audited(engine)] == [
        ("dead_letters.retry", 1),
        ("dead_letters.retry", 1),
        ("dead_letters.discard", 1),
    ]


async def test_a_task_is_shown_cancelled_and_retried(
    here: tuple[AsyncEngine, dict[str, str]],
) -> None:
    engine, env = here
    failed, waiting = (await submit_images(engine, 2)).task_ids
    await fail(engine, failed)
    assert "because of timeout" in spheroseg("task", "show", failed, env=env)
    story = json.loads(spheroseg("task", "show", failed, "--json", env=env))
    assert (story["state"], story["failures"][0]["reason"]) == ("failed", "timeout")
    assert "queued again" in spheroseg("task", "retry", failed, env=env)
    assert "only a failed task" in spheroseg("task", "retry", waiting, env=env, code=2)
    assert "cancelled" in spheroseg("task", "cancel", waiting, env=env)
    assert (await read_task(engine, waiting)).state == "cancelled"
    assert "there is no task" in spheroseg("task", "show", uuid4(), env=env, code=2)
    assert await audited(engine) == [
        ("task.retry", {"task_id": str(failed)}),
        ("task.cancel", {"task_id": str(waiting)}),
    ]


async def test_the_topology_is_declared_and_checked_and_a_difference_is_reported_with_advice(
    rabbit_3: RabbitNode, tmp_path: Path
) -> None:
    with rabbit_3.fresh_vhost() as vhost:
        env = {
            "DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}",
            "ENABLE_MESSAGE_QUEUE": "true",
            "RABBITMQ_URL": rabbit_3.vhost_url(vhost),
            "RABBITMQ_MANAGEMENT_URL": rabbit_3.management_url,
        }
        assert "does not exist" in spheroseg("broker", "check", env=env, code=1)
        assert "policies are set" in spheroseg("broker", "declare", env=env)
        assert "as it should be" in spheroseg("broker", "check", env=env)
        rabbit_3.delete_queue(Queue.TASKS, vhost)
        connection = await aio_pika.connect(rabbit_3.vhost_url(vhost))
        async with connection.channel() as channel:
            await channel.declare_queue(Queue.TASKS, durable=True, arguments={"x-max-priority": 3})
        await connection.close()
        said = spheroseg("broker", "check", env=env, code=1)
        assert "x-max-priority = 3, not 10" in said
        assert "spheroseg broker declare" in said
        rabbit = RabbitBroker(rabbit_3.vhost_url(vhost))
        await rabbit.publish([Message("r", "task.failed", b"{}")])
        await rabbit.close()
        figures = json.loads(spheroseg("queue", "show", env=env))
        assert figures["queue"]["status"] == "connected"
        assert figures["queue"]["since"] is not None
        assert figures["queues"]["segmentation.results"]["consumers"] == 0
        assert "r" in spheroseg("queue", "peek", "segmentation.results", env=env)


def test_a_node_starts_with_the_printed_definitions(tmp_path: Path) -> None:
    env = {"DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}"}
    content = json.loads(spheroseg("broker", "definitions", env=env))
    assert {queue["name"] for queue in content["queues"]} == {str(queue) for queue in Queue}
    with RabbitNode(definitions=content) as node:
        found = {queue["name"] for queue in node.api("GET", "/api/queues/spheroseg")}
        assert found == {str(queue) for queue in Queue}


def test_a_silent_rabbitmq_is_reported_in_one_line(tmp_path: Path) -> None:
    env = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}",
        "ENABLE_MESSAGE_QUEUE": "true",
        "RABBITMQ_URL": "amqp://x:y@127.0.0.1:9/spheroseg",
    }
    assert "disconnected" in spheroseg("queue", "list", env=env)
    assert "error: RabbitMQ" in spheroseg("broker", "declare", env=env, code=2)
