"""The worker with real child processes: deadlines, kills, cancels, stops."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import reading
from spheroseg.database.queue import depth
from spheroseg.errors import ModelUnusable
from spheroseg.messages import Message, Queue
from spheroseg.queueing.collect import collect
from spheroseg.queueing.submit import cancel
from spheroseg.tasks import RetryPolicy
from spheroseg.worker.loop import WorkerOptions, work

from .conftest import at_both_revisions, eventually
from .support.lab import read_failures, read_results, read_task, submit_images

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "tests.support.children"]
POLICY = RetryPolicy(max_retries=1, max_losses=2, backoff=0.05)


@asynccontextmanager
async def system(
    engine: AsyncEngine,
    *,
    deadline: float = 30.0,
    grace: float = 30.0,
    slots: int = 1,
    lease: float = 3.0,
    command: Sequence[str] = COMMAND,
) -> AsyncIterator[asyncio.Event]:
    """Run a worker and collect. Set the event to stop the worker."""
    broker = TableBroker(engine, lease=lease, poll=0.05)
    stopping = asyncio.Event()
    options = WorkerOptions("test", command, slots=slots, deadline=deadline, grace=grace)
    collecting = asyncio.create_task(collect(engine, [broker], POLICY, sweep_seconds=0.5))
    working = asyncio.create_task(work(broker, options, stopping))
    try:
        yield stopping
        stopping.set()
        await working
        await eventually(lambda: _all_is_applied(engine))
    finally:
        for running in (working, collecting):
            running.cancel()
        await asyncio.gather(working, collecting, return_exceptions=True)


async def _all_is_applied(engine: AsyncEngine) -> bool:
    async with reading(engine) as conn:
        return not any([await depth(conn, queue, with_claimed=True) for queue in (Queue.RESULTS, Queue.DEAD_LETTERS)])


async def finished(engine: AsyncEngine, task_id: UUID, within: float = 20.0) -> Any:
    async def is_finished() -> bool:
        return (await read_task(engine, task_id)).state in ("completed", "failed", "cancelled")

    await eventually(is_finished, within, "the task did not end")
    return await read_task(engine, task_id)


def is_alive(pid: int) -> bool:
    # A zombie has ended, but its parent has not yet read its exit code.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@at_both_revisions
async def test_a_task_is_done_and_its_result_stored(engine: AsyncEngine) -> None:
    submitted = await submit_images(engine, 5)
    async with system(engine, slots=2):
        for task_id in submitted.task_ids:
            assert (await finished(engine, task_id)).state == "completed"
    results = [(await read_results(engine, task_id))[0].result for task_id in submitted.task_ids]
    assert len({result["pid"] for result in results}) <= 2, "the model is loaded once for each slot"


async def test_output_of_the_child_does_not_disturb_its_answers(engine: AsyncEngine) -> None:
    (task_id,) = (await submit_images(engine, 1, do="print")).task_ids
    async with system(engine):
        assert (await finished(engine, task_id)).state == "completed"


async def test_native_code_is_killed_within_a_second_of_its_deadline(engine: AsyncEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    hanging = (await submit_images(engine, 1, do="hang", pid_file=str(pid_file))).task_ids[0]
    innocent = (await submit_images(engine, 1)).task_ids[0]
    async with system(engine, deadline=1.5):
        await eventually(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
        pids = [int(pid) for pid in pid_file.read_text().split()]
        began = time.monotonic()
        await eventually(lambda: not any(map(is_alive, pids)), within=10)
        assert time.monotonic() - began < 2.5
        task = await finished(engine, hanging)
        assert (task.state, task.reason, task.attempt) == ("failed", "timeout", 2)
        assert "1.5 s" in task.error
        assert (await finished(engine, innocent)).state == "completed"
    failures = await read_failures(engine, hanging)
    assert [(failure.attempt, failure.reason, failure.next_attempt) for failure in failures] == [
        (1, "timeout", 2),
        (2, "timeout", None),
    ]
    for failure in failures:
        assert 1.4 < (failure.failed_at - failure.started_at).total_seconds() < 2.5


@at_both_revisions
@pytest.mark.parametrize(
    ("do", "reason", "words"),
    [("be killed", "killed", "SIGKILL"), ("exit", "crashed", "exit code 3"), ("raise", "crashed", "a bug")],
)
async def test_a_child_that_dies_is_a_failure_with_its_reason(
    engine: AsyncEngine, do: str, reason: str, words: str
) -> None:
    dying = (await submit_images(engine, 1, do=do)).task_ids[0]
    innocent = (await submit_images(engine, 1)).task_ids[0]
    async with system(engine):
        task = await finished(engine, dying)
        assert (task.state, task.reason, task.attempt) == ("failed", reason, 2)
        assert words in task.error
        assert (await finished(engine, innocent)).state == "completed", "the worker goes on"


async def test_a_child_killed_from_outside_is_tried_again(engine: AsyncEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    (task_id,) = (await submit_images(engine, 1, do="hang", pid_file=str(pid_file))).task_ids
    async with system(engine, deadline=4.0):
        await eventually(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)

        async def is_recorded() -> bool:
            return bool(await read_failures(engine, task_id))

        await eventually(is_recorded)
        (failure,) = await read_failures(engine, task_id)
        assert (failure.reason, failure.next_attempt) == ("killed", 2)
        async with engine.begin() as conn:
            await cancel(conn, [task_id])


async def test_a_permanent_error_is_not_tried_again(engine: AsyncEngine) -> None:
    (task_id,) = (await submit_images(engine, 1, do="fail")).task_ids
    async with system(engine):
        task = await finished(engine, task_id)
    assert (task.state, task.reason, task.error, task.attempt) == ("failed", "bad_image", "not an image", 1)
    assert await TableBroker(engine).depth(Queue.DEAD_LETTERS) == 0, "collect has taken the dead letter"


async def test_a_cancel_kills_the_running_child(engine: AsyncEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    (task_id,) = (await submit_images(engine, 1, do="hang", pid_file=str(pid_file))).task_ids
    innocent = (await submit_images(engine, 1)).task_ids[0]
    async with system(engine):
        await eventually(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
        pids = [int(pid) for pid in pid_file.read_text().split()]
        async with engine.begin() as conn:
            assert await cancel(conn, [task_id]) == [task_id]
        await eventually(lambda: not any(map(is_alive, pids)))
        assert (await finished(engine, innocent)).state == "completed"
    assert (await read_task(engine, task_id)).state == "cancelled"
    assert await read_failures(engine, task_id) == []


@at_both_revisions
async def test_a_stopped_worker_finishes_its_running_task(engine: AsyncEngine) -> None:
    first, second = (await submit_images(engine, 2, seconds=1.0)).task_ids
    async with system(engine) as stopping:

        async def is_running() -> bool:
            return bool((await read_task(engine, first)).state == "processing")

        await eventually(is_running)
        stopping.set()
    assert (await read_task(engine, first)).state == "completed"
    task = await read_task(engine, second)
    assert (task.state, task.attempt) == ("queued", 1)


@at_both_revisions
async def test_a_task_handed_back_after_the_grace_period_uses_up_no_retry(engine: AsyncEngine) -> None:
    (task_id,) = (await submit_images(engine, 1, do="hang")).task_ids
    async with system(engine, grace=0.2) as stopping:

        async def is_running() -> bool:
            return bool((await read_task(engine, task_id)).state == "processing")

        await eventually(is_running)
        began = time.monotonic()
        stopping.set()
    assert time.monotonic() - began < 5
    task = await read_task(engine, task_id)
    assert (task.state, task.attempt, task.retry_count, task.lost_count) == ("queued", 1, 0, 0)
    assert await TableBroker(engine).depth(Queue.TASKS) == 1


async def test_a_redelivered_message_is_reported_lost_and_collect_decides(engine: AsyncEngine) -> None:
    (task_id,) = (await submit_images(engine, 1)).task_ids
    async with TableBroker(engine).consume(Queue.TASKS, prefetch=1) as vanished:
        await vanished.take(1, 5)
    async with system(engine):
        task = await finished(engine, task_id)
    assert (task.state, task.attempt, task.retry_count, task.lost_count) == ("completed", 2, 0, 1)
    (failure,) = await read_failures(engine, task_id)
    assert (failure.cause, failure.reason, failure.next_attempt) == ("lost", "worker_lost", 2)


@at_both_revisions
async def test_an_unreadable_message_does_not_stop_the_worker(engine: AsyncEngine) -> None:
    await TableBroker(engine).publish([Message("poison", "task.new", b"{not json", priority=10)])
    (task_id,) = (await submit_images(engine, 1)).task_ids
    async with system(engine):
        assert (await finished(engine, task_id)).state == "completed"


async def test_a_worker_that_cannot_load_its_model_takes_no_task(engine: AsyncEngine) -> None:
    await submit_images(engine, 1)
    broker = TableBroker(engine)
    options = WorkerOptions("test", [*COMMAND, "--unusable"])
    with pytest.raises(ExceptionGroup) as caught:
        await work(broker, options, asyncio.Event())
    assert isinstance(caught.value.exceptions[0], ModelUnusable)
    assert "there is no model 'x'" in str(caught.value.exceptions[0])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        assert not (await consumer.take(1, 5))[0].redelivered


async def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"""
import asyncio, sys
from spheroseg.worker.child import Child
async def main():
    child = Child({COMMAND!r})
    await child.start()
    open({str(pid_file)!r}, "w").write(str(child._process.pid))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    await eventually(lambda: pid_file.exists() and pid_file.read_text() != "", within=30)
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not is_alive(pid), within=5)


async def test_a_command_that_is_not_a_child_is_a_clear_error(engine: AsyncEngine) -> None:
    options = WorkerOptions("test", ["false"])
    with pytest.raises(ExceptionGroup) as caught:
        await work(TableBroker(engine), options, asyncio.Event())
    assert "does not start" in str(caught.value.exceptions[0])


async def test_a_child_killed_while_it_starts_is_a_failure_and_the_worker_goes_on(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    dying = (await submit_images(engine, 1, do="exit")).task_ids[0]
    innocent = (await submit_images(engine, 1)).task_ids[0]
    marker = tmp_path / "started"
    # The first child starts, the second is killed while it starts, the others start.
    program = (
        "import os, pathlib, signal\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "starts = len(marker.read_text()) if marker.exists() else 0\n"
        "marker.write_text('x' * (starts + 1))\n"
        "if starts == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from spheroseg.worker.child_server import one_by_one, serve\n"
        "import tests.support.children\n"
        "serve(lambda: one_by_one(tests.support.children.work))\n"
    )
    async with system(engine, command=[sys.executable, "-c", program]):
        assert (await finished(engine, dying)).reason == "crashed"
        assert (await finished(engine, innocent)).state == "completed"


async def test_a_stop_does_not_wait_for_a_child_that_starts_slowly(engine: AsyncEngine, tmp_path: Path) -> None:
    await submit_images(engine, 2, do="exit")
    marker = tmp_path / "started"
    program = (
        "import pathlib, time\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "if marker.exists(): time.sleep(60)\n"
        "marker.touch()\n"
        "from spheroseg.worker.child_server import one_by_one, serve\n"
        "import tests.support.children\n"
        "serve(lambda: one_by_one(tests.support.children.work))\n"
    )
    async with system(engine, command=[sys.executable, "-c", program], grace=0.3) as stopping:

        async def has_failed() -> bool:
            broker = TableBroker(engine)
            return await broker.depth(Queue.TASKS) == 0 or await broker.depth(Queue.TASKS) == 1

        await eventually(has_failed)
        await asyncio.sleep(1.0)
        began = time.monotonic()
        stopping.set()
    assert time.monotonic() - began < 8
