"""Workers, as their reports and heartbeats show them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import components as c
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.tasks import UNFINISHED, TaskState

RECENT_SECONDS = 3600.0


class CurrentTask(NamedTuple):
    """A task that a worker has begun."""

    task_id: UUID
    batch_id: UUID
    image: str
    attempt: int
    started_at: datetime | None


@dataclass
class WorkerRecord:
    """A worker that was active in the last `RECENT_SECONDS`.

    state, reason, detail: from its heartbeat. None and empty if the worker has no database.
    current: the tasks that it has begun, the oldest first. finished: number of tasks that it finished, by state.
    """

    name: str
    state: str | None = None
    reason: str | None = None
    last_seen: datetime | None = None
    current: list[CurrentTask] = field(default_factory=list)
    finished: dict[TaskState, int] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)

    def note_seen(self, at: datetime | None) -> None:
        if at is not None and (self.last_seen is None or at > self.last_seen):
            self.last_seen = at


class _Workers(dict[str, WorkerRecord]):
    def __missing__(self, name: str) -> WorkerRecord:
        self[name] = worker = WorkerRecord(name)
        return worker


async def read_workers(conn: AsyncConnection) -> list[WorkerRecord]:
    """Return every worker that was active in the last `RECENT_SECONDS`, sorted by name.

    The slots of a worker report as NAME/NUMBER and are put together.
    """
    workers = _Workers()
    await _add_finished(conn, workers)
    await _add_current(conn, workers)
    await _add_heartbeats(conn, workers)
    return [workers[name] for name in sorted(workers)]


async def _add_finished(conn: AsyncConnection, workers: _Workers) -> None:
    rows = await conn.execute(
        select(t.c.worker, t.c.state, func.count().label("number"), func.max(t.c.finished_at).label("last_seen"))
        .where(t.c.finished_at > DatabaseTime(-RECENT_SECONDS), t.c.worker.is_not(None))
        .group_by(t.c.worker, t.c.state)
    )
    for row in rows:
        worker = workers[_worker_of_slot(row.worker)]
        worker.finished[row.state] = worker.finished.get(row.state, 0) + row.number
        worker.note_seen(row.last_seen)


async def _add_current(conn: AsyncConnection, workers: _Workers) -> None:
    rows = await conn.execute(
        select(t.c.worker, t.c.id, t.c.batch_id, images.c.name, t.c.attempt, t.c.started_at)
        .join(images, images.c.id == t.c.image_id)
        .where(
            # Literal, so that SQLite uses the partial index of unfinished tasks.
            t.c.state.in_([literal_column(f"'{state}'") for state in sorted(UNFINISHED)]),
            t.c.state == TaskState.PROCESSING,
            t.c.worker.is_not(None),
        )
        .order_by(t.c.started_at, t.c.id)
    )
    for slot, *task in rows:
        worker = workers[_worker_of_slot(slot)]
        current = CurrentTask(*task)
        worker.current.append(current)
        worker.note_seen(current.started_at)


async def _add_heartbeats(conn: AsyncConnection, workers: _Workers) -> None:
    query = select(c).where(c.c.kind == "worker", c.c.seen_at > DatabaseTime(-RECENT_SECONDS))
    for row in await conn.execute(query):
        worker = workers[str(row.detail.get("name", row.name))]
        worker.state, worker.reason, worker.detail = row.state, row.reason, row.detail
        worker.note_seen(row.seen_at)


def _worker_of_slot(slot: str) -> str:
    name, _, number = slot.rpartition("/")
    return name if name and number.isdecimal() else slot
