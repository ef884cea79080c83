"""Bring the queue of a run into line with its inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.database import revisions
from spheroseg.database.projects import NewImage, ensure_project, ensure_user
from spheroseg.database.runs import EarlierTask, read_earlier_tasks, read_unfinished_ids, recover_queue
from spheroseg.database.versions import result_versions, version_key
from spheroseg.queueing.submit import cancel, retry, submit
from spheroseg.run.folder import PROJECT, USER
from spheroseg.run.inputs import RunInput
from spheroseg.run.options import Only, RunOptions
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

# Once more for what may be better now; a damaged file is not.
LASTING = frozenset({"bad_image", "unsupported_image", "image_too_large", "bad_parameters", "model_unusable"})


async def prepare(
    engine: AsyncEngine, options: RunOptions, inputs: Sequence[RunInput]
) -> tuple[list[RunInput], list[UUID], int]:
    """Bring the queue into line with `inputs`: those to do, their tasks in the same order, the result version.

    What an earlier run of the same model and parameters has done, or begun, is kept. What failed gets a fresh set
    of tries, unless the file itself is at fault. What is no longer asked for is cancelled. With `options.only`
    failed, what has not failed or completed before is left out.
    """
    await revisions.prepare(engine)
    async with engine.begin() as conn:
        user_id = await ensure_user(conn, USER)
        project_id = await ensure_project(conn, user_id, PROJECT)
        # This process holds the lock of the folder, so that every earlier worker is gone.
        await recover_queue(conn)
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
        await cancel(conn, sorted(await read_unfinished_ids(conn) - set(ids)))
        version = await _version(conn, project_id, options)
    return inputs, ids, version


async def _version(conn: AsyncConnection, project_id: UUID, options: RunOptions) -> int:
    ours = version_key(options.model.name, options.model.sha256, asdict(options.parameters), options.pixel_size_um)
    # There is none where `only` left nothing to do.
    return next((found.number for found in await result_versions(conn, project_id) if found.key == ours), 0)


def _identity(item: RunInput) -> tuple[str, int, str]:
    return item.storage_key, item.page, item.sha256


async def _earlier_tasks(conn: AsyncConnection, options: RunOptions) -> list[EarlierTask]:
    model = options.model
    return await read_earlier_tasks(conn, model.name, model.sha256, asdict(options.parameters), options.pixel_size_um)


def _still_there(task: EarlierTask | None, store: ImageStore) -> EarlierTask | None:
    """A completed task whose files somebody has deleted is no longer done."""
    if task is None or task.state != TaskState.COMPLETED:
        return task
    return task if store.path(f"results/{task.id}/{task.attempt}/mask.tif").exists() else None


def _deserves_another_try(task: EarlierTask, only: Only | None) -> bool:
    if task.state != TaskState.FAILED or only == Only.CHANGED:
        return False
    return only == Only.FAILED or task.reason not in LASTING
