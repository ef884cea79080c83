"""Measures images per second through the whole task system, as in `spheroseg run`: from submit to collect."""

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.bare_loop import ModelChoice
from benchmarks.processor import Rate, seconds_used
from benchmarks.throughput import START_TIMEOUT_SECONDS, wait_until_finished
from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import open_engine, reading
from spheroseg.database.projects import NewImage
from spheroseg.database.schema import segmentation_results, segmentation_tasks
from spheroseg.messages import Queue
from spheroseg.queueing.collect import collect
from spheroseg.segmentation.parameters import Parameters
from spheroseg.storage import file_key
from spheroseg.tasks import RetryPolicy, TaskState
from spheroseg.worker.child import child_command
from spheroseg.worker.loop import WorkerOptions, work
from tests.support.lab import submit_images

CHECK_SECONDS = 0.2  # between two checks, as in a run: a check costs as much as the work on a small image

_names = itertools.count()


async def measure(
    url: str, images: Sequence[Path], model: ModelChoice, slots: int, batch_size: int, storage: Path
) -> Rate:
    """Return the rate from the submit to the last finished task. Every slot has worked before.

    `url`: of an empty SQLite database. `batch_size`: see WORKER_BATCH_SIZE. Raise RuntimeError if a task failed.
    """
    engine = open_engine(url)
    broker = TableBroker(engine, low_share=0.0)
    command = child_command(str(storage), model.name, model.dirs)
    options = WorkerOptions("bench", command, slots=slots, batch_size=batch_size)
    stopping = asyncio.Event()
    running = [
        asyncio.create_task(collect(engine, [broker], RetryPolicy())),
        asyncio.create_task(work(broker, options, stopping)),
    ]
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            while await _count_active_slots(engine) < slots:
                await _submit(engine, broker, [images[0]] * slots * batch_size, model)
                await wait_until_finished(engine)
        used, began = seconds_used(), perf_counter()
        await _submit(engine, broker, images, model)
        await wait_until_finished(engine, CHECK_SECONDS)
        seconds, used = perf_counter() - began, seconds_used() - used
        await _raise_if_failed(engine)
        return Rate(len(images) / seconds, 1000 * used / len(images))
    finally:
        stopping.set()
        await running[1]
        running[0].cancel()
        with suppress(asyncio.CancelledError):
            await running[0]
        await engine.dispose()


async def _submit(engine: AsyncEngine, broker: TableBroker, images: Sequence[Path], model: ModelChoice) -> None:
    listed = [
        # The names differ, so that the same file can be submitted again.
        NewImage(f"{next(_names)} {path.name}", file_key(path), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in images
    ]
    await submit_images(engine, listed, model=model.name, **asdict(Parameters()))
    broker.wake(Queue.TASKS)


async def _count_active_slots(engine: AsyncEngine) -> int:
    async with reading(engine) as conn:
        seen = await conn.execute(select(func.count(segmentation_results.c.worker.distinct())))
        return int(seen.scalar_one())


async def _raise_if_failed(engine: AsyncEngine) -> None:
    t = segmentation_tasks
    async with reading(engine) as conn:
        failed = (await conn.execute(select(t.c.error).where(t.c.state == TaskState.FAILED).limit(1))).first()
    if failed:
        raise RuntimeError(f"a task failed, so there is nothing to compare: {failed.error}")
