"""The main job on the embedded default: submit, queue, worker, result and export in one process, in one folder.

Everything that a run knows lies in its output folder, so the same command goes on where it was, whatever ended it.
"""

import asyncio
import errno
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.collect import collect
from spheroseg.database import queue, revisions
from spheroseg.database.engine import open_engine, reading
from spheroseg.database.projects import NewImage, ensure_project, ensure_user
from spheroseg.database.schema import images, projects, segmentation_batches
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.database.tasks import count_states, hand_back_processing
from spheroseg.errors import OutputUnusable, RunInUse
from spheroseg.export.kinds import Export
from spheroseg.inputs import OUTPUTS, STATE_FOLDER, Input
from spheroseg.messages import Queue
from spheroseg.plate.options import PlateOptions
from spheroseg.segmentation.model import KnownModel
from spheroseg.segmentation.parameters import Parameters, with_defaults
from spheroseg.segmentation.planes import NO_CHOICE, Choice
from spheroseg.settings import Settings
from spheroseg.storage import ImageStore, remove_partial
from spheroseg.submit import cancel, retry, submit
from spheroseg.tasks import UNFINISHED, TaskState
from spheroseg.versions import ResultVersion, result_versions, version_key
from spheroseg.worker.loop import WorkerOptions, work
from spheroseg.worker.process import child_command

log = structlog.get_logger()

USER, PROJECT, DATABASE = "local", "run", "spheroseg.db"

# Once more for what may be better now; a damaged file is not.
LASTING = frozenset({"bad_image", "unsupported_image", "image_too_large", "bad_parameters", "model_unusable"})


class Only(StrEnum):
    """What of an earlier run to do again: what failed, even for good, or what is new or another file now."""

    FAILED = "failed"
    CHANGED = "changed"


@dataclass(frozen=True)
class RunOptions:
    """What a person asked for. `pixel_size_um` in µm. `exports`: what to write for other programs. `choice`: of the
    pages of stacks. `only`: nothing but this part of the work; None is both."""

    out: Path
    model: KnownModel
    parameters: Parameters
    pixel_size_um: float | None = None
    workers: int = 1
    exports: frozenset[Export] = frozenset({Export.ROIS})
    choice: Choice = NO_CHOICE
    only: Only | None = None
    plate: PlateOptions = field(default_factory=PlateOptions)

    @property
    def state_dir(self) -> Path:
        return self.out / STATE_FOLDER

    @property
    def storage_dir(self) -> Path:
        return self.state_dir / "storage"


@contextmanager
def run_folder(options: RunOptions) -> Iterator[None]:
    """Make the output folder and keep it for this process.

    Raises RunInUse where another run has it, OutputUnusable where it cannot be written to or holds files of that
    name that no run has made.
    """
    if options.out.exists() and not options.out.is_dir():
        raise OutputUnusable(f"{options.out} is a file, not a folder: name a folder with --out")
    if not options.state_dir.exists():
        foreign = [name for name in OUTPUTS if (options.out / name).exists()]
        if foreign:
            raise OutputUnusable(
                f"{options.out} already holds {', '.join(foreign)} that no run has made: "
                "choose another folder with --out"
            )
    try:
        options.storage_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise OutputUnusable(
            f"cannot write to {options.out}: {error.strerror}; name another folder with --out"
        ) from None
    with (options.state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUse(
                f"another run is writing to {options.out}: wait for it, or choose another folder with --out"
            ) from None
        remove_partial(options.out)
        yield


def open_run(options: RunOptions) -> AsyncEngine:
    return open_engine(f"sqlite:///{options.state_dir / DATABASE}")


async def prepare(
    engine: AsyncEngine, options: RunOptions, inputs: Sequence[Input]
) -> tuple[list[Input], list[UUID], int]:
    """Bring the queue into line with `inputs`: those to do, their tasks in the same order, the result version.

    What an earlier run of the same model and parameters has done, or begun, is kept. What failed gets a fresh set
    of tries, unless the file itself is at fault. What is no longer asked for is cancelled. With `options.only`
    failed, what has not failed or completed before is left out.
    """
    await revisions.prepare(engine)
    async with engine.begin() as conn:
        user_id = await ensure_user(conn, USER)
        project_id = await ensure_project(conn, user_id, PROJECT)
        # The lock says that no other process works here: what is in a hand is in a dead one.
        await queue.drop_reported(conn)
        await queue.forget_holders(conn)
        await hand_back_processing(conn)
        earlier = await _earlier_tasks(conn, options)
        # An input that could not be read has no attempt to repeat: it is looked at anew.
        known = {(row.storage_key, row.page, row.sha256): row for row in earlier if row.attempt > 0}
        store = ImageStore(options.storage_dir)
        inputs = list(inputs)
        if options.only == Only.FAILED:
            # By its place: somebody may have mended the file.
            failed = {row.storage_key for row in earlier if row.state == TaskState.FAILED}
            inputs = [item for item in inputs if _identity(item) in known or item.storage_key in failed]
        wanted = [_still_there(known.get(_identity(item)), store) for item in inputs]
        fresh = [item for item, task in zip(inputs, wanted, strict=True) if task is None]
        submitted: Iterator[UUID] = iter(())
        if fresh:
            batch = await submit(
                conn,
                user_id=user_id,
                project_id=project_id,
                images=[
                    NewImage(item.name, item.storage_key, item.sha256, item.page, item.problem) for item in fresh
                ],
                model=options.model.name,
                model_sha256=options.model.sha256,
                parameters=asdict(options.parameters),
                pixel_size_um=options.pixel_size_um,
            )
            submitted = iter(batch.task_ids)
        ids = [next(submitted) if task is None else task.id for task in wanted]
        await retry(conn, [task.id for task in wanted if task and _deserves_another_try(task, options.only)])
        unfinished = await conn.execute(select(t.c.id).where(t.c.state.in_(sorted(UNFINISHED))))
        await cancel(conn, sorted(set(unfinished.scalars()) - set(ids)))
        version = await _version(conn, project_id, options)
    return inputs, ids, version


async def read_versions(out: Path) -> list[ResultVersion]:
    """The result versions in the folder of a run. Raises OutputUnusable where no run has been."""
    database = out / STATE_FOLDER / DATABASE
    if not database.is_file():
        raise OutputUnusable(f"no run has written to {out}: name the folder that was given to --out")
    engine = open_engine(f"sqlite:///{database}")
    try:
        async with reading(engine) as conn:
            wanted = select(projects.c.id).where(projects.c.name == PROJECT)
            project_id = (await conn.execute(wanted)).scalar_one_or_none()
            return await result_versions(conn, project_id) if project_id else []
    finally:
        await engine.dispose()


async def _version(conn: AsyncConnection, project_id: UUID, options: RunOptions) -> int:
    ours = version_key(options.model.name, options.model.sha256, asdict(options.parameters), options.pixel_size_um)
    # There is none where `only` left nothing to do.
    return next((found.number for found in await result_versions(conn, project_id) if found.key == ours), 0)


def _identity(item: Input) -> tuple[str, int, str]:
    return item.storage_key, item.page, item.sha256


async def _earlier_tasks(conn: AsyncConnection, options: RunOptions) -> list[Any]:
    b = segmentation_batches
    rows = await conn.execute(
        select(
            t.c.id,
            t.c.state,
            t.c.reason,
            t.c.attempt,
            images.c.storage_key,
            images.c.page,
            images.c.sha256,
            b.c.parameters,
        )
        .join(b, b.c.id == t.c.batch_id)
        .join(images, images.c.id == t.c.image_id)
        .where(
            b.c.model == options.model.name,
            b.c.model_sha256 == options.model.sha256,
            b.c.pixel_size_um.is_not_distinct_from(options.pixel_size_um),
            t.c.state != TaskState.CANCELLED,
        )
        .order_by(t.c.id)
    )
    parameters = asdict(options.parameters)
    return [row for row in rows if with_defaults(row.parameters) == parameters]


def _still_there(task: Any, store: ImageStore) -> Any:
    """A completed task whose files somebody has deleted is no longer done."""
    if task is None or task.state != TaskState.COMPLETED:
        return task
    return task if store.path(f"results/{task.id}/{task.attempt}/mask.tif").exists() else None


def _deserves_another_try(task: Any, only: Only | None) -> bool:
    if task.state != TaskState.FAILED or only == Only.CHANGED:
        return False
    return only == Only.FAILED or task.reason not in LASTING


@dataclass(frozen=True)
class Progress:
    """Of the tasks of a run."""

    completed: int
    failed: int
    total: int

    @property
    def finished(self) -> bool:
        return self.completed + self.failed == self.total


async def process(
    engine: AsyncEngine,
    options: RunOptions,
    settings: Settings,
    task_ids: Sequence[UUID],
    stopping: asyncio.Event,
    show: Callable[[Progress], None],
    child_log: IO[str],
) -> None:
    """Work until every task is finished or `stopping` is set, and the running ones are done or handed back."""
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
    elsewhere = await _finished_elsewhere(engine, task_ids)
    try:
        while True:
            try:
                progress = await _progress(engine, elsewhere, len(task_ids))
            except SQLAlchemyError as error:
                # As when the disk is full for a while: nothing is lost, and what is running goes on.
                log.warning("waiting for the database", error=str(error))
                await asyncio.sleep(1.0)
                continue
            show(progress)
            if progress.finished or stopping.is_set():
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
        # What the workers reported last is applied before the results are written.
        while await _reports_left(engine):
            if collecting.done():
                collecting.result()
            await asyncio.sleep(0.05)
        show(await _progress(engine, elsewhere, len(task_ids)))
    finally:
        running = [task for task in (working, collecting) if task]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _reports_left(engine: AsyncEngine) -> int:
    async with reading(engine) as conn:
        return await queue.depth(conn, Queue.RESULTS, in_hand=True)


async def _finished_elsewhere(engine: AsyncEngine, task_ids: Sequence[UUID]) -> Counter[str]:
    """States of the finished tasks of earlier runs, which are none of ours and do not change any more."""
    ours = set(task_ids)
    async with reading(engine) as conn:
        rows = await conn.execute(select(t.c.id, t.c.state).where(t.c.state.not_in(sorted(UNFINISHED))))
        return Counter(row.state for row in rows if row.id not in ours)


async def _progress(engine: AsyncEngine, elsewhere: Counter[str], total: int) -> Progress:
    async with reading(engine) as conn:
        counts = await count_states(conn)
    completed, failed = (counts[state] - elsewhere[state] for state in (TaskState.COMPLETED, TaskState.FAILED))
    return Progress(completed, failed, total)
