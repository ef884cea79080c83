"""Measures tasks per second, from the first submit to the last finished task, and the steps of one task."""

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.worker import NOOP
from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import open_engine, reading
from spheroseg.database.schema import segmentation_results, segmentation_tasks
from spheroseg.messages import Queue, TaskCompleted, TaskStarted, decode_report, decode_task
from spheroseg.queueing.collect import MAX_MESSAGES, collect
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.tasks import UNFINISHED, RetryPolicy
from spheroseg.worker.child import Child
from spheroseg.worker.loop import WorkerOptions, work
from tests.support.lab import submit_images

SUBMIT = 100  # images in one submit
START_TIMEOUT_SECONDS = 60.0  # for all children to start


@dataclass(frozen=True)
class Workers:
    """`count` slots in this process, or with `processes` as many processes of one slot each."""

    count: int
    processes: bool = False

    def __str__(self) -> str:
        if self.count == 1:
            return "1 slot"
        return f"{self.count} worker processes" if self.processes else f"{self.count} slots in one process"


async def measure(url: str, workers: Workers, tasks: int) -> float:
    """Return tasks per second. Submit and collect run in this process; each child is a separate process."""
    engine = open_engine(url)
    broker = TableBroker(engine)
    collecting = asyncio.create_task(collect(engine, [broker], RetryPolicy()))
    try:
        async with _running(url, broker, workers):
            await _warm_up(engine, broker, workers.count)
            began = perf_counter()
            for first in range(0, tasks, SUBMIT):
                await submit_images(engine, min(SUBMIT, tasks - first))
                broker.wake(Queue.TASKS)
            await wait_until_finished(engine)
            return tasks / (perf_counter() - began)
    finally:
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting
        await engine.dispose()


@asynccontextmanager
async def _running(url: str, broker: TableBroker, workers: Workers) -> AsyncIterator[None]:
    if workers.processes:
        # They must import the same packages as this process.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        script = str(Path(__file__).with_name("worker.py"))
        command = [sys.executable, "-P", script, url]
        started = [
            await asyncio.create_subprocess_exec(*command, f"bench/{n}", env=environment)
            for n in range(workers.count)
        ]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            await asyncio.gather(*(process.wait() for process in started))
    else:
        stopping = asyncio.Event()
        working = asyncio.create_task(work(broker, WorkerOptions("bench", NOOP, slots=workers.count), stopping))
        try:
            yield
        finally:
            stopping.set()
            await working


async def _warm_up(engine: AsyncEngine, broker: TableBroker, slots: int) -> None:
    """Submit tasks until every slot has finished one."""
    active_slots = select(func.count(segmentation_results.c.worker.distinct()))
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while True:
            await submit_images(engine, 5 * slots)
            broker.wake(Queue.TASKS)
            await wait_until_finished(engine)
            async with reading(engine) as conn:
                if (await conn.execute(active_slots)).scalar_one() == slots:
                    return


async def wait_until_finished(engine: AsyncEngine, every: float = 0.02) -> None:
    """Wait until all tasks are finished. `every`: seconds between two checks."""
    # One row is enough, and counting all of them would be a load of its own.
    unfinished = select(segmentation_tasks.c.id).where(segmentation_tasks.c.state.in_(sorted(UNFINISHED))).limit(1)
    while True:
        async with reading(engine) as conn:
            if (await conn.execute(unfinished)).first() is None:
                return
        await asyncio.sleep(every)


async def measure_steps(url: str, tasks: int) -> dict[str, float]:
    """Return milliseconds per task in each step. The steps run one by one, by the calls of worker and collect."""
    engine = open_engine(url)
    broker = TableBroker(engine)
    spent: dict[str, float] = defaultdict(float)
    began = 0.0

    def lap(step: str | None = None) -> None:
        nonlocal began
        now = perf_counter()
        if step:
            spent[step] += now - began
        began = now

    lap()
    for first in range(0, tasks, SUBMIT):
        await submit_images(engine, min(SUBMIT, tasks - first))
    lap(f"submit, {SUBMIT} at a time")
    child = Child(NOOP)
    await child.start()
    try:
        async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
            lap()
            while deliveries := await consumer.take(1, wait=0):
                lap("claim")
                task = decode_task(deliveries[0].message)
                started = datetime.now(UTC)
                about = {"task_id": task.task_id, "attempt": task.attempt, "worker": "steps"}
                await broker.publish([TaskStarted(**about, at=started).message()])
                lap("report started")
                answer = await child.perform(task)
                lap("child")
                completed = TaskCompleted(**about, at=datetime.now(UTC), started_at=started, result=answer["result"])
                await broker.publish([completed.message()])
                lap("report completed")
                await consumer.ack(deliveries)
                lap("ack")
    finally:
        await child.kill()
    async with broker.consume(Queue.RESULTS, prefetch=MAX_MESSAGES) as consumer:
        lap()
        while deliveries := await consumer.take(MAX_MESSAGES, wait=0):
            lap(f"collect: claim, {MAX_MESSAGES} reports at a time")
            reports = [decode_report(delivery.message) for delivery in deliveries]
            async with engine.begin() as conn:
                await apply_reports(conn, reports, RetryPolicy())
            lap("collect: apply both reports")
            await consumer.ack(deliveries)
            lap("collect: ack")
    await engine.dispose()
    return {step: seconds / tasks * 1000 for step, seconds in spent.items()}


def step_rows(rounds: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Return the milliseconds of all rounds by step, with their sum."""
    steps = {step: [spent[step] for spent in rounds] for step in rounds[0]}
    return {**steps, "sum": [sum(spent.values()) for spent in rounds]}
