"""Users, images and batches for the tests of the task system, and what became of them."""

import itertools
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import reading
from spheroseg.database.projects import NewImage, ensure_project, ensure_user
from spheroseg.database.revision_010 import readable_task_columns
from spheroseg.database.schema import segmentation_failures, segmentation_results, segmentation_tasks
from spheroseg.queueing.submit import Submitted, submit

_numbers = itertools.count()


def some_images(count: int) -> list[NewImage]:
    return [
        NewImage(f"image-{next(_numbers)}.png", f"file:///nowhere/{number}.png", f"{number:064d}")
        for number in range(count)
    ]


async def submit_images(
    engine: AsyncEngine,
    images: int | Sequence[NewImage] = 1,
    *,
    user: str = "ada",
    tier: str = "regular",
    key: str | None = None,
    model: str = "test",
    **parameters: Any,
) -> Submitted:
    """Submit a batch for `user`. images: the images, or their number. parameters: see `children.py`."""
    async with engine.begin() as conn:
        user_id = await ensure_user(conn, user, tier)
        project_id = await ensure_project(conn, user_id, "plate")
        return await submit(
            conn,
            user_id=user_id,
            project_id=project_id,
            images=some_images(images) if isinstance(images, int) else images,
            model=model,
            parameters=parameters,
            idempotency_key=key,
        )


async def read_task(engine: AsyncEngine, task_id: UUID) -> Any:
    async with reading(engine) as conn:
        return (
            await conn.execute(select(*readable_task_columns(conn)).where(segmentation_tasks.c.id == task_id))
        ).one()


async def read_failures(engine: AsyncEngine, task_id: UUID | None) -> list[Any]:
    f = segmentation_failures
    async with reading(engine) as conn:
        return list(await conn.execute(select(f).where(f.c.task_id.is_not_distinct_from(task_id)).order_by(f.c.id)))


async def read_results(engine: AsyncEngine, task_id: UUID) -> list[Any]:
    r = segmentation_results
    async with reading(engine) as conn:
        return list(await conn.execute(select(r).where(r.c.task_id == task_id).order_by(r.c.id)))
