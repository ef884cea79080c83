"""Queries of `spheroseg run` on the database in its output folder, which belongs to that run alone."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import images, projects
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_results as r
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.database.tasks import requeue_processing
from spheroseg.messages import Queue
from spheroseg.segmentation.parameters import with_defaults
from spheroseg.tasks import UNFINISHED, TaskState


class EarlierTask(NamedTuple):
    """A task of an earlier run, and the image that it is about."""

    id: UUID
    state: TaskState
    reason: str | None
    attempt: int
    storage_key: str
    page: int
    sha256: str


class RunTask(NamedTuple):
    """A task, as the manifest shows it."""

    id: UUID
    state: TaskState
    reason: str | None
    error: str | None
    attempt: int
    processing_time_ms: int | None
    finished_at: datetime | None


class RunFailure(NamedTuple):
    """An attempt that did not finish, as the manifest shows it."""

    task_id: UUID
    attempt: int
    cause: str
    reason: str
    error: str
    worker: str | None
    failed_at: datetime
    next_attempt: int | None
    superseded: bool


@dataclass(frozen=True)
class RunOutcomes:
    """What became of some tasks, by task id. A task without a result or a failure is missing from that mapping."""

    tasks: Mapping[UUID, RunTask]
    results: Mapping[UUID, dict[str, Any]]
    failures: Mapping[UUID, Sequence[RunFailure]]


async def recover_queue(conn: AsyncConnection) -> None:
    """Make the messages ready again that workers of an earlier run held. Call it only if those are surely gone."""
    await _remove_reported(conn)
    await _release_all(conn)
    await requeue_processing(conn)


async def _remove_reported(conn: AsyncConnection) -> None:
    """Delete task messages whose attempt was reported, but which their worker could not acknowledge any more."""
    reported = select(q.c.task_id).where(
        q.c.queue == Queue.RESULTS, q.c.routing_key.in_(["task.completed", "task.failed"])
    )
    await conn.execute(delete(q).where(q.c.queue == Queue.TASKS, q.c.task_id.in_(reported)))


async def _release_all(conn: AsyncConnection) -> None:
    """Make every claimed message ready, as if it had never been delivered."""
    await conn.execute(
        update(q)
        .where(~q.c.ready, q.c.holder.is_not(None))
        .values(ready=true(), holder=None, deliveries=0, visible_at=DatabaseTime())
    )


async def find_project(conn: AsyncConnection, name: str) -> UUID | None:
    """Return the id of the project called `name`, or None if there is none."""
    query = select(projects.c.id).where(projects.c.name == name)
    project_id: UUID | None = (await conn.execute(query)).scalar_one_or_none()
    return project_id


async def read_earlier_tasks(
    conn: AsyncConnection,
    model: str,
    model_sha256: str | None,
    parameters: Mapping[str, Any],
    pixel_size_um: float | None,
) -> list[EarlierTask]:
    """Return the tasks, except cancelled ones, that were submitted with this model, parameters and pixel size (µm).

    parameters: with every default filled in.
    """
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
            b.c.model == model,
            b.c.model_sha256 == model_sha256,
            b.c.pixel_size_um.is_not_distinct_from(pixel_size_um),
            t.c.state != TaskState.CANCELLED,
        )
        .order_by(t.c.id)
    )
    return [EarlierTask._make(row[:-1]) for row in rows if with_defaults(row.parameters) == parameters]


async def read_unfinished_ids(conn: AsyncConnection) -> set[UUID]:
    """Return the ids of all tasks that are queued or processing."""
    return set((await conn.execute(select(t.c.id).where(t.c.state.in_(sorted(UNFINISHED))))).scalars())


async def count_finished_except(conn: AsyncConnection, task_ids: Collection[UUID]) -> Counter[TaskState]:
    """Return the number of finished tasks in each state, without those of `task_ids`."""
    left_out = set(task_ids)
    rows = await conn.execute(select(t.c.id, t.c.state).where(t.c.state.not_in(sorted(UNFINISHED))))
    return Counter(row.state for row in rows if row.id not in left_out)


async def read_outcomes(conn: AsyncConnection, task_ids: Collection[UUID]) -> RunOutcomes:
    """Return `task_ids` with their results and with every attempt that did not finish, the oldest first."""
    tasks = select(*(t.c[name] for name in RunTask._fields)).where(t.c.id.in_(task_ids))
    results = select(r.c.task_id, r.c.result).where(r.c.task_id.in_(task_ids), ~r.c.superseded)
    failed = select(*(f.c[name] for name in RunFailure._fields)).where(f.c.task_id.in_(task_ids)).order_by(f.c.id)
    failures: dict[UUID, list[RunFailure]] = defaultdict(list)
    for failure in [RunFailure(*row) for row in await conn.execute(failed)]:
        failures[failure.task_id].append(failure)
    return RunOutcomes(
        tasks={row.id: RunTask(*row) for row in await conn.execute(tasks)},
        results={row.task_id: row.result for row in await conn.execute(results)},
        failures=failures,
    )
