"""Queue the tasks of a run: submit new images, keep finished ones, retry failed ones, cancel the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.database import revisions
from spheroseg.database.projects import NewImage, ensure_project, ensure_user
from spheroseg.database.runs import EarlierTask, read_earlier_tasks, read_unfinished_ids, recover_queue
from spheroseg.database.versions import read_result_versions, version_key
from spheroseg.queueing.submit import cancel, retry, submit
from spheroseg.run.folder import PROJECT, USER
from spheroseg.run.inputs import RunInput
from spheroseg.run.options import Only, RunOptions
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

# Errors that another attempt cannot change.
PERMANENT = frozenset({"bad_image", "unsupported_image", "image_too_large", "bad_parameters", "model_unusable"})


async def prepare(
    engine: AsyncEngine, options: RunOptions, inputs: Sequence[RunInput]
) -> tuple[list[RunInput], list[UUID], int]:
    """Make the queue match `inputs`. Return the inputs of this run, their task ids and the result version.

    Tasks of an earlier run with the same model, parameters and pixel size are kept. Failed ones get a fresh set of
    attempts, unless their error is permanent. Tasks whose image is no longer an input are cancelled. With
    `options.only` failed, images that have neither failed nor completed before are left out.
    """
    await revisions.prepare(engine)
    async with engine.begin() as conn:
        user_id = await ensure_user(conn, USER)
        project_id = await ensure_project(conn, user_id, PROJECT)
        # This process holds the lock of the folder, so that every earlier worker is gone.
        await recover_queue(conn)
        earlier = await _earlier_tasks(conn, options)
        # An input that could not be listed has no attempt, so it is submitted again.
        known = {(row.storage_key, row.page, row.sha256): row for row in earlier if row.attempt > 0}
        store = ImageStore(options.storage_dir)
        inputs = list(inputs)
        if options.only == Only.FAILED:
            # By the path alone, because the file may have been repaired since.
            failed = {row.storage_key for row in earlier if row.state == TaskState.FAILED}
            inputs = [item for item in inputs if _identity(item) in known or item.storage_key in failed]
        tasks = [_unless_lost(known.get(_identity(item)), store) for item in inputs]
        fresh = [item for item, task in zip(inputs, tasks, strict=True) if task is None]
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
        ids = [next(submitted) if task is None else task.id for task in tasks]
        await retry(conn, [task.id for task in tasks if task and _gets_another_try(task, options.only)])
        await cancel(conn, sorted(await read_unfinished_ids(conn) - set(ids)))
        version = await _version(conn, project_id, options)
    return inputs, ids, version


async def _version(conn: AsyncConnection, project_id: UUID, options: RunOptions) -> int:
    key = version_key(options.model.name, options.model.sha256, asdict(options.parameters), options.pixel_size_um)
    # There is no version yet if `only` left nothing to do.
    return next((found.number for found in await read_result_versions(conn, project_id) if found.key == key), 0)


def _identity(item: RunInput) -> tuple[str, int, str]:
    return item.storage_key, item.page, item.sha256


async def _earlier_tasks(conn: AsyncConnection, options: RunOptions) -> list[EarlierTask]:
    model = options.model
    return await read_earlier_tasks(conn, model.name, model.sha256, asdict(options.parameters), options.pixel_size_um)


def _unless_lost(task: EarlierTask | None, store: ImageStore) -> EarlierTask | None:
    """Return `task`, or None if it is completed but its files have been deleted, so that it must be done again."""
    if task is None or task.state != TaskState.COMPLETED:
        return task
    return task if store.require_local_path(f"results/{task.id}/{task.attempt}/mask.tif").exists() else None


def _gets_another_try(task: EarlierTask, only: Only | None) -> bool:
    if task.state != TaskState.FAILED or only == Only.CHANGED:
        return False
    return only == Only.FAILED or task.reason not in PERMANENT
