"""What failed for good, and messages that nobody could read: to look at, to try again, to discard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.audit import NAMED, record
from spheroseg.database.engine import DatabaseTime, chunks, has_message_queue_tables
from spheroseg.database.revisions import BASE, UPGRADE
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.errors import Conflict, SchemaUnusable
from spheroseg.messages import ROUTES, Message
from spheroseg.queueing.submit import retry
from spheroseg.tasks import TaskState


@dataclass(frozen=True)
class Filter:
    """Which failures; what is None does not matter. `ids` are the failures' own, `image` a part of its name."""

    ids: tuple[int, ...] | None = None
    task_id: UUID | None = None
    reason: str | None = None
    worker: str | None = None
    image: str | None = None
    since: datetime | None = None


# Of a failure outer-joined with its task.
_IS_DEAD_LETTER = (
    or_(
        f.c.task_id.is_(None),
        and_(t.c.state == TaskState.FAILED, f.c.attempt == t.c.attempt, f.c.next_attempt.is_(None)),
    ),
    ~f.c.superseded,
    f.c.settled_at.is_(None),
)


async def count_dead_letters(conn: AsyncConnection) -> dict[str, int]:
    """How many there are of each reason, where failures are on record; reasons without one are missing."""
    rows = await conn.execute(
        select(f.c.reason, func.count())
        .outerjoin(t, t.c.id == f.c.task_id)
        .where(*_IS_DEAD_LETTER)
        .group_by(f.c.reason)
    )
    return {reason: count for reason, count in rows}


async def list_dead_letters(
    conn: AsyncConnection, wanted: Filter, limit: int = 1000, before: int | None = None
) -> Sequence[Any]:
    """The last failure of each task that failed for good, and every unreadable message; the newest first.

    before: only those with a lower id. Before revision 010 there is no record of failures: the tasks that failed for
    good, without an `id` to call them by. Raises SchemaUnusable where some are called by their ids all the same.
    """
    if not has_message_queue_tables(conn):
        return await _list_failed_tasks(conn, wanted, limit)
    query = _failures(wanted, limit, before).where(*_IS_DEAD_LETTER)
    return (await conn.execute(query)).all()


async def list_failures(
    conn: AsyncConnection, wanted: Filter, limit: int = 1000, before: int | None = None
) -> Sequence[Any]:
    """Every attempt that did not finish, whatever came after it; the newest first. before: only with a lower id.

    Raises Conflict before revision 010, which keeps no record of them.
    """
    check_history(conn)
    return (await conn.execute(_failures(wanted, limit, before))).all()


def check_history(conn: AsyncConnection) -> None:
    """Raises Conflict where the database keeps no failures."""
    if not has_message_queue_tables(conn):
        raise Conflict(f"the database is at revision {BASE}, which keeps no failures: {UPGRADE}")


def _failures(wanted: Filter, limit: int, before: int | None) -> Any:
    query = (
        select(f, images.c.name.label("image"), images.c.page, t.c.state)
        .outerjoin(t, t.c.id == f.c.task_id)
        .outerjoin(images, images.c.id == t.c.image_id)
        .order_by(f.c.id.desc())
        .limit(limit)
    )
    query = _narrowed(query, wanted, {"task_id": f.c.task_id, "reason": f.c.reason, "worker": f.c.worker})
    if wanted.ids is not None:
        query = query.where(f.c.id.in_(wanted.ids))
    if before is not None:
        query = query.where(f.c.id < before)
    if wanted.since is not None:
        query = query.where(f.c.failed_at >= wanted.since)
    return query


async def _list_failed_tasks(conn: AsyncConnection, wanted: Filter, limit: int) -> Sequence[Any]:
    if wanted.ids is not None:
        raise SchemaUnusable(f"dead letters have no numbers at revision {BASE} of the database: {UPGRADE}")
    query = (
        select(
            null().label("id"),
            t.c.id.label("task_id"),
            *(t.c.attempt, t.c.reason, t.c.error, t.c.worker, t.c.state),
            t.c.finished_at.label("failed_at"),
            *(images.c.name.label("image"), images.c.page),
        )
        .join(images, images.c.id == t.c.image_id)
        .where(t.c.state == TaskState.FAILED)
        .order_by(t.c.finished_at.desc(), t.c.id.desc())
        .limit(limit)
    )
    query = _narrowed(query, wanted, {"task_id": t.c.id, "reason": t.c.reason, "worker": t.c.worker})
    if wanted.since is not None:
        query = query.where(t.c.finished_at >= wanted.since)
    return (await conn.execute(query)).all()


def _narrowed(query: Any, wanted: Filter, columns: Mapping[str, Any]) -> Any:
    for name, column in columns.items():
        if (value := getattr(wanted, name)) is not None:
            query = query.where(column == value)
    if wanted.image is not None:
        query = query.where(images.c.name.contains(wanted.image, autoescape=True))
    return query


async def retry_dead_letters(conn: AsyncConnection, letters: Sequence[Any]) -> int:
    """Queue the tasks again with fresh tries, and the unreadable messages as they were; how many."""
    again = await retry(conn, [letter.task_id for letter in letters if letter.task_id])
    unreadable = [letter for letter in letters if letter.task_id is None and letter.body is not None]
    settled = await _settle(conn, unreadable) if unreadable else set()
    unreadable = [letter for letter in unreadable if letter.id in settled]
    for letter in unreadable:
        headers = dict(letter.headers or {})
        deaths = headers.get("x-death") or [{}]
        keys = [key for key in deaths[0].get("routing-keys", []) if key in ROUTES]
        message = Message(
            id=f"replay-{letter.id}",
            routing_key=keys[0] if keys else "task.new",
            body=bytes(letter.body),
            content_encoding=letter.content_encoding,
        )
        await queue.enqueue(conn, [message])
    return len(again) + len(unreadable)


async def discard_dead_letters(conn: AsyncConnection, letters: Sequence[Any]) -> int:
    """Take them off the list: their tasks stay failed, and everything stays on record. How many were discarded.

    Raises SchemaUnusable before revision 010, where nothing can be written down about them.
    """
    if not has_message_queue_tables(conn):
        raise SchemaUnusable(f"nothing can be discarded at revision {BASE} of the database: {UPGRADE}")
    return len(await _settle(conn, letters))


async def record_change(
    conn: AsyncConnection, actor: str, action: str, letters: Sequence[Any], wanted: Filter, *, everything: bool
) -> None:
    """Write into the audit trail that `actor` has retried or discarded `letters`, and how they were chosen."""
    chosen = {name: str(value) for name, value in vars(wanted).items() if value is not None and name != "ids"}
    named = [letter.id for letter in letters[:NAMED]]
    await record(conn, actor, action, count=len(letters), ids=named, filter=chosen, all=everything)


async def _settle(conn: AsyncConnection, letters: Sequence[Any]) -> set[int]:
    """The ids of those that nobody else has settled meanwhile."""
    settled: set[int] = set()
    for chunk in chunks(sorted(letter.id for letter in letters)):
        rows = await conn.execute(
            update(f)
            .where(f.c.id.in_(chunk), f.c.settled_at.is_(None))
            .values(settled_at=DatabaseTime())
            .returning(f.c.id)
        )
        settled |= set(rows.scalars())
    return settled
