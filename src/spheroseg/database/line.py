"""The line before the workers: who is next, and how fast it moves."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Subquery, case, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import Queue

# Beyond this nobody counts.
LONGEST = 10_000
RECENT_SECONDS = 300.0
RECENT_TASKS = 1000


@dataclass(frozen=True)
class PlaceInLine:
    """ahead: messages that go before. is_capped: there are more, and nobody has counted them."""

    ahead: int
    is_capped: bool = False


def _line() -> Subquery:
    """The first messages that wait, in their order, each with the number of those before it.

    What RabbitMQ has still waits, since its row goes when a worker begins. Within a priority it comes first, in the
    order in which it came there; the rest in the order of a claim.
    """
    columns = (q.c.task_id, q.c.priority, q.c.visible_at, q.c.turn, q.c.id)
    here = (
        select(*columns, literal(1).label("is_here"))
        .where(q.c.queue == Queue.TASKS, q.c.ready)
        .order_by(q.c.priority.desc(), q.c.turn, q.c.id)
        .limit(LONGEST)
        .subquery()
    )
    there = (
        select(*columns, literal(0).label("is_here"))
        .where(~q.c.ready, q.c.holder == AT_RABBITMQ, q.c.queue == Queue.TASKS)
        .order_by(q.c.priority.desc(), q.c.visible_at, q.c.turn, q.c.id)
        .limit(LONGEST)
        .subquery()
    )
    both = union_all(select(there), select(here)).subquery()
    came = case((both.c.is_here == 0, both.c.visible_at))
    order = (both.c.priority.desc(), both.c.is_here, came, both.c.turn, both.c.id)
    number = func.row_number().over(order_by=order) - 1
    return select(both.c.task_id, number.label("ahead")).subquery("line")


async def read_places(conn: AsyncConnection, task_ids: Collection[UUID]) -> dict[UUID, PlaceInLine]:
    """Of those of `task_ids` that wait in line; delayed ones and those in a worker's hand are missing."""
    found: dict[UUID, PlaceInLine] = {}
    line = _line()
    for chunk in chunks(list(task_ids)):
        rows = await conn.execute(select(line.c.task_id, line.c.ahead).where(line.c.task_id.in_(chunk)))
        found.update({row.task_id: _place(row.ahead) for row in rows})
        waiting = select(q.c.task_id).where(q.c.task_id.in_(chunk), q.c.queue == Queue.TASKS, q.c.ready)
        for task_id in (await conn.execute(waiting)).scalars():
            found.setdefault(task_id, _place(LONGEST))
    return found


async def read_batch_places(conn: AsyncConnection, batch_ids: Collection[UUID]) -> dict[UUID, PlaceInLine]:
    """The place of each batch's next message; batches of which none waits in line are missing."""
    line = _line()
    firsts = (
        select(t.c.batch_id, func.min(line.c.ahead).label("ahead"))
        .join(t, t.c.id == line.c.task_id)
        .where(t.c.batch_id.in_(list(batch_ids)))
        .group_by(t.c.batch_id)
    )
    return {row.batch_id: _place(row.ahead) for row in await conn.execute(firsts)}


async def read_batch_place(conn: AsyncConnection, batch_id: UUID, queued: int) -> tuple[PlaceInLine, int] | None:
    """The place of a batch's next message, and how many messages there are up to its last; None where none waits.

    queued: tasks of the batch in that state. The number is a lower bound where the line is longer than is counted.
    """
    if not queued:
        return None
    line = _line()
    own = t.c.batch_id == batch_id
    ends = select(
        func.min(line.c.ahead).filter(own), func.max(line.c.ahead).filter(own), func.count().label("length")
    ).join(t, t.c.id == line.c.task_id)
    first, last, length = (await conn.execute(ends)).one()
    if first is None:
        return (_place(LONGEST), LONGEST + queued) if length >= LONGEST else None
    return _place(first), max(last + 1, first + queued)


def _place(ahead: int) -> PlaceInLine:
    return PlaceInLine(min(ahead, LONGEST), ahead >= LONGEST)


async def read_pace(conn: AsyncConnection) -> float | None:
    """Tasks a second that have finished lately; None where nothing is known.

    Reckoned over the time in which they were worked on: what was idle before says nothing.
    """
    recent = (
        select(t.c.started_at, t.c.finished_at)
        .where(t.c.finished_at > DatabaseTime(-RECENT_SECONDS), t.c.started_at.is_not(None))
        .order_by(t.c.finished_at.desc())
        .limit(RECENT_TASKS)
        .subquery()
    )
    found = select(func.count(), func.min(recent.c.started_at), func.max(recent.c.finished_at))
    count, began, ended = (await conn.execute(found)).one()
    if not count:
        return None
    return float(count / max((ended - began).total_seconds(), 0.001))
