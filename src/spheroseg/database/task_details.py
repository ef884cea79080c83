"""Tasks with their images, as people see them."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.projects import visible_to
from spheroseg.database.schema import RETRIES, images
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.errors import NotFound
from spheroseg.tasks import TaskState


class TaskDetails(NamedTuple):
    """A task. retries, lost_count: used in the present set of tries. image, page: name of the image, page from 0."""

    id: UUID
    batch_id: UUID
    image_id: UUID
    state: TaskState
    attempt: int
    retries: int
    lost_count: int
    reason: str | None
    error: str | None
    worker: str | None
    version: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    image: str
    page: int
    project_id: UUID


# Columns of other tables, and computed ones. All others are columns of the task that exist at both revisions.
_OTHER_COLUMNS: dict[str, Any] = {
    "retries": RETRIES.label("retries"),
    "image": images.c.name.label("image"),
    "page": images.c.page,
    "project_id": b.c.project_id,
}
_COLUMNS = [_OTHER_COLUMNS[name] if name in _OTHER_COLUMNS else t.c[name] for name in TaskDetails._fields]


async def list_tasks(
    conn: AsyncConnection, batch_id: UUID, limit: int, *, state: TaskState | None = None, after: UUID | None = None
) -> list[TaskDetails]:
    """Return up to `limit` tasks of a batch, in the order of the submit. after: only those with a higher id."""
    query = _tasks().where(t.c.batch_id == batch_id).order_by(t.c.id).limit(limit)
    if state is not None:
        query = query.where(t.c.state == state)
    if after is not None:
        query = query.where(t.c.id > after)
    return [TaskDetails(*row) for row in await conn.execute(query)]


async def read_task(conn: AsyncConnection, task_id: UUID, user_id: UUID | None = None) -> TaskDetails:
    """Return a task. Raises NotFound, also if `user_id` is given and is no member of its project."""
    query = _tasks().where(t.c.id == task_id)
    if user_id is not None:
        query = query.where(visible_to(user_id, b.c.project_id))
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return TaskDetails(*row)


def _tasks() -> Any:
    return select(*_COLUMNS).join(images, images.c.id == t.c.image_id).join(b, b.c.id == t.c.batch_id)
