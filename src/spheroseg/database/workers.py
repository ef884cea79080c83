"""Workers, as their reports and heartbeats show them."""

from collections import defaultdict
from typing import Any

from sqlalchemy import func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import components as c
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.tasks import UNFINISHED, TaskState

SEEN_SECONDS = 3600.0


async def read_workers(conn: AsyncConnection) -> list[dict[str, Any]]:
    """Every worker heard of within the hour, by name: what it has in hand, what it has finished, what it says.

    The slots of a worker report as NAME/NUMBER; they are put together. A worker without a database has no heartbeat.
    """
    seen: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"state": None, "reason": None, "last_seen": None, "current": [], "finished": {}, "detail": {}}
    )
    for row in await conn.execute(_finished()):
        worker = seen[_worker(row.worker)]
        worker["finished"][row.state] = worker["finished"].get(row.state, 0) + row.number
        _note(worker, row.last_seen)
    for row in await conn.execute(_current()):
        worker = seen[_worker(row.worker)]
        worker["current"].append({name: value for name, value in row._mapping.items() if name != "worker"})
        _note(worker, row.started_at)
    for row in await conn.execute(select(c).where(c.c.kind == "worker", c.c.seen_at > DatabaseTime(-SEEN_SECONDS))):
        worker = seen[str(row.detail.get("name", row.name))]
        worker.update(state=row.state, reason=row.reason, detail=row.detail)
        _note(worker, row.seen_at)
    return [{"name": name, **seen[name]} for name in sorted(seen)]


def _current() -> Any:
    return (
        select(
            t.c.worker,
            t.c.id.label("task_id"),
            t.c.batch_id,
            images.c.name.label("image"),
            t.c.attempt,
            t.c.started_at,
        )
        .join(images, images.c.id == t.c.image_id)
        .where(
            # Literal, so that the partial index of the unfinished will do.
            t.c.state.in_([literal_column(f"'{state}'") for state in sorted(UNFINISHED)]),
            t.c.state == TaskState.PROCESSING,
            t.c.worker.is_not(None),
        )
        .order_by(t.c.started_at, t.c.id)
    )


def _finished() -> Any:
    return (
        select(t.c.worker, t.c.state, func.count().label("number"), func.max(t.c.finished_at).label("last_seen"))
        .where(t.c.finished_at > DatabaseTime(-SEEN_SECONDS), t.c.worker.is_not(None))
        .group_by(t.c.worker, t.c.state)
    )


def _worker(slot: str) -> str:
    name, _, number = slot.rpartition("/")
    return name if name and number.isdecimal() else slot


def _note(worker: dict[str, Any], moment: Any) -> None:
    if moment is not None and (worker["last_seen"] is None or moment > worker["last_seen"]):
        worker["last_seen"] = moment
