"""Images per second through the whole of it, as in `spheroseg run`: submit, table, worker and child, collect."""

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

from benchmarks.bare import Selected
from benchmarks.processor import Rate, seconds_used
from benchmarks.throughput import START_TIMEOUT, all_finished
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

LOOK_SECONDS = 0.2  # as a run does; looking costs as much as the work on a small image, if it is often

_names = itertools.count()


async def measure(
    url: str, images: Sequence[Path], model: Selected, slots: int, batch_size: int, storage: Path
) -> Rate:
    """The rate from the submit to the last finished task, with every slot warm before it.

    `url`: of an empty SQLite database. `batch_size`: as WORKER_BATCH_SIZE. Raises RuntimeError where a task failed.
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
        async with asyncio.timeout(START_TIMEOUT):
            while await _slots_seen(engine) < slots:
                await _submit(engine, broker, [images[0]] * slots * batch_size, model)
                await all_finished(engine)
        used, began = seconds_used(), perf_counter()
        await _submit(engine, broker, images, model)
        await all_finished(engine, LOOK_SECONDS)
        seconds, used = perf_counter() - began, seconds_used() - used
        await _check(engine)
        return Rate(len(images) / seconds, 1000 * used / len(images))
    finally:
        stopping.set()
        await running[1]
        running[0].cancel()
        with suppress(asyncio.CancelledError):
            await running[0]
        await engine.dispose()


async def _submit(engine: AsyncEngine, broker: TableBroker, images: Sequence[Path], model: Selected) -> None:
    listed = [
        # The name differs, so that the same file can be submitted again.
        NewImage(f"{next(_names)} {path.name}", file_key(path), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in images
    ]
    await submit_images(engine, listed, model=model.name, **asdict(Parameters()))
    broker.wake(Queue.TASKS)


async def _slots_seen(engine: AsyncEngine) -> int:
    async with reading(engine) as conn:
        seen = await conn.execute(select(func.count(segmentation_results.c.worker.distinct())))
        return int(seen.scalar_one())


async def _check(engine: AsyncEngine) -> None:
    t = segmentation_tasks
    async with reading(engine) as conn:
        failed = (await conn.execute(select(t.c.error).where(t.c.state == TaskState.FAILED).limit(1))).first()
    if failed:
        raise RuntimeError(f"a task failed, so there is nothing to compare: {failed.error}")
