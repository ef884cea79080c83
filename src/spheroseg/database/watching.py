"""What the live connections watch: batches, the versions of their tasks, and the tasks themselves.

Every task has a version that grows with each change, so the sum of the versions of a batch's tasks grows with each
change in the batch. The sums come from an index alone, without the tasks.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.tasks import UNFINISHED, TaskState

# Of a watched project. An older finished batch can be watched by its own id.
NEWEST_BATCHES = 200
READ_ROWS = 1000


class WatchedBatch(NamedTuple):
    id: UUID
    project_id: UUID


async def read_watched_batches(conn: AsyncConnection, project_ids: Iterable[UUID]) -> list[WatchedBatch]:
    """Return the newest batches of each project, and older ones that are not finished."""
    number = func.row_number().over(partition_by=b.c.project_id, order_by=b.c.id.desc()).label("number")
    numbered = select(b.c.id, b.c.project_id, number).where(b.c.project_id.in_(list(project_ids))).subquery()
    is_unfinished = exists().where(t.c.batch_id == numbered.c.id, t.c.state.in_(sorted(UNFINISHED)))
    query = select(numbered.c.id, numbered.c.project_id).where(
        or_(numbered.c.number <= NEWEST_BATCHES, is_unfinished)
    )
    return [WatchedBatch(*row) for row in await conn.execute(query)]


async def read_project_id(conn: AsyncConnection, batch_id: UUID) -> UUID | None:
    """Return the project of a batch, or None if there is no such batch."""
    project_id: UUID | None = (await conn.execute(select(b.c.project_id).where(b.c.id == batch_id))).scalar()
    return project_id


@dataclass
class BatchVersion:
    """The sum of the versions of a batch's tasks, and the number of tasks in each state, zeros included."""

    version: int
    counts: dict[TaskState, int]

    @property
    def is_finished(self) -> bool:
        return not any(self.counts[state] for state in UNFINISHED)


async def read_versions(conn: AsyncConnection, batch_ids: Iterable[UUID]) -> dict[UUID, BatchVersion]:
    """Return the version of each of these batches. A batch without tasks has version 0."""
    versions = {batch_id: BatchVersion(0, dict.fromkeys(TaskState, 0)) for batch_id in batch_ids}
    rows = await conn.execute(
        select(t.c.batch_id, t.c.state, func.count().label("tasks"), func.sum(t.c.version).label("version"))
        .where(t.c.batch_id.in_(list(versions)))
        .group_by(t.c.batch_id, t.c.state)
    )
    for row in rows:
        batch = versions[row.batch_id]
        batch.counts[TaskState(row.state)] = row.tasks
        batch.version += int(row.version)
    return versions


class WatchedTask(NamedTuple):
    """A task as a live connection shows it, with the name and page of its image."""

    id: UUID
    image_id: UUID
    image: str
    page: int
    state: str
    version: int
    attempt: int
    reason: str | None
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None


async def stream_tasks(conn: AsyncConnection, batch_id: UUID) -> AsyncIterator[list[WatchedTask]]:
    """Yield the tasks of a batch in the order of their submission, up to `READ_ROWS` at a time."""
    query = (
        select(
            t.c.id,
            t.c.image_id,
            images.c.name,
            images.c.page,
            t.c.state,
            t.c.version,
            t.c.attempt,
            t.c.reason,
            t.c.error,
            t.c.started_at,
            t.c.finished_at,
        )
        .join(images, images.c.id == t.c.image_id)
        .where(t.c.batch_id == batch_id)
        .order_by(t.c.id)
    )
    stream = await conn.stream(query)
    async for rows in stream.partitions(READ_ROWS):
        yield [WatchedTask(*row) for row in rows]
