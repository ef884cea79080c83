"""Segments the images of a run: a worker and collect run in this process until all tasks are finished."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.database import queue
from spheroseg.database.engine import reading
from spheroseg.database.runs import count_finished_except
from spheroseg.database.tasks import count_states
from spheroseg.messages import Queue
from spheroseg.queueing.collect import collect
from spheroseg.run.options import RunOptions
from spheroseg.settings import Settings
from spheroseg.tasks import TaskState
from spheroseg.worker.child import child_command
from spheroseg.worker.loop import WorkerOptions, work

log = structlog.get_logger()


@dataclass(frozen=True)
class RunProgress:
    """The number of images of a run that are completed, that have failed, and in all."""

    completed: int
    failed: int
    total: int

    @property
    def is_finished(self) -> bool:
        return self.completed + self.failed == self.total


async def process(
    engine: AsyncEngine,
    options: RunOptions,
    settings: Settings,
    task_ids: Sequence[UUID],
    stopping: asyncio.Event,
    show: Callable[[RunProgress], None],
    child_log: IO[str],
) -> None:
    """Work until every task is finished, or until `stopping` is set and the running ones are finished or handed back.

    show: called several times a second with the progress. child_log: receives what the child processes print.
    """
    broker = TableBroker(engine, lease=settings.lease_seconds, low_share=0.0)
    worker = WorkerOptions(
        name=f"run-{os.getpid()}",
        command=child_command(str(options.storage_dir), options.model.name, settings.model_folders),
        slots=options.workers,
        batch_size=settings.worker_batch_size,
        deadline=settings.task_timeout_seconds,
        grace=settings.shutdown_grace_seconds,
        child_stderr=child_log,
    )
    collecting = asyncio.create_task(collect(engine, [broker], settings.retry_policy))
    working: asyncio.Task[None] | None = None
    finished_before = await _count_finished_before(engine, task_ids)
    try:
        while True:
            try:
                progress = await _progress(engine, finished_before, len(task_ids))
            except SQLAlchemyError as error:
                # For example a full disk. Nothing is lost, and the running tasks continue.
                log.warning("waiting for the database", error=str(error))
                await asyncio.sleep(1.0)
                continue
            show(progress)
            if progress.is_finished or stopping.is_set():
                break
            working = working or asyncio.create_task(work(broker, worker, stopping))
            ended = {task for task in (working, collecting) if task.done()}
            for task in ended:
                task.result()
            if working.done():
                break
            await asyncio.sleep(0.2)
        stopping.set()
        if working:
            await working
        # Apply the last reports of the workers before the results are written.
        while await _reports_left(engine):
            if collecting.done():
                collecting.result()
            await asyncio.sleep(0.05)
        show(await _progress(engine, finished_before, len(task_ids)))
    finally:
        running = [task for task in (working, collecting) if task]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _reports_left(engine: AsyncEngine) -> int:
    async with reading(engine) as conn:
        return await queue.depth(conn, Queue.RESULTS, with_claimed=True)


async def _count_finished_before(engine: AsyncEngine, task_ids: Sequence[UUID]) -> Counter[TaskState]:
    """Return the number of finished tasks of earlier runs in each state. These no longer change."""
    async with reading(engine) as conn:
        return await count_finished_except(conn, task_ids)


async def _progress(engine: AsyncEngine, finished_before: Counter[TaskState], total: int) -> RunProgress:
    async with reading(engine) as conn:
        counts = await count_states(conn)
    completed, failed = (counts[state] - finished_before[state] for state in (TaskState.COMPLETED, TaskState.FAILED))
    return RunProgress(completed, failed, total)
