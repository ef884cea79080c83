"""What failed for good, and messages that nobody could read: to look at, to try again, to discard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.audit import NAMED, record
from spheroseg.database.engine import DatabaseTime, chunks, has_message_queue_tables
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.errors import Conflict
from spheroseg.messages import ROUTES, Message
from spheroseg.submit import retry
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


async def list_dead_letters(
    conn: AsyncConnection, wanted: Filter, limit: int = 1000, before: int | None = None
) -> Sequence[Any]:
    """The last failure of each task that failed for good, and every unreadable message; the newest first.

    before: only those with a lower id.
    """
    check_history(conn)
    is_dead = or_(
        f.c.task_id.is_(None),
        and_(t.c.state == TaskState.FAILED, f.c.attempt == t.c.attempt, f.c.next_attempt.is_(None)),
    )
    query = _failures(wanted, limit, before).where(is_dead, ~f.c.superseded, f.c.settled_at.is_(None))
    return (await conn.execute(query)).all()


async def list_failures(
    conn: AsyncConnection, wanted: Filter, limit: int = 1000, before: int | None = None
) -> Sequence[Any]:
    """Every attempt that did not finish, whatever came after it; the newest first. before: only with a lower id."""
    check_history(conn)
    return (await conn.execute(_failures(wanted, limit, before))).all()


def check_history(conn: AsyncConnection) -> None:
    """Raises Conflict where the database keeps no failures."""
    if not has_message_queue_tables(conn):
        raise Conflict("the database is at revision 009, which keeps no failures: run `spheroseg db upgrade`")


def _failures(wanted: Filter, limit: int, before: int | None) -> Any:
    query = (
        select(f, images.c.name.label("image"), images.c.page, t.c.state)
        .outerjoin(t, t.c.id == f.c.task_id)
        .outerjoin(images, images.c.id == t.c.image_id)
        .order_by(f.c.id.desc())
        .limit(limit)
    )
    for column, value in ((f.c.task_id, wanted.task_id), (f.c.reason, wanted.reason), (f.c.worker, wanted.worker)):
        if value is not None:
            query = query.where(column == value)
    if wanted.ids is not None:
        query = query.where(f.c.id.in_(wanted.ids))
    if before is not None:
        query = query.where(f.c.id < before)
    if wanted.image is not None:
        query = query.where(images.c.name.contains(wanted.image, autoescape=True))
    if wanted.since is not None:
        query = query.where(f.c.failed_at >= wanted.since)
    return query


async def retry_dead_letters(conn: AsyncConnection, letters: Sequence[Any]) -> int:
    """Queue the tasks again with fresh tries, and the unreadable messages as they were; how many."""
    again = await retry(conn, [letter.task_id for letter in letters if letter.task_id])
    unreadable = [letter for letter in letters if letter.task_id is None and letter.body is not None]
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
    await _settle(conn, unreadable)
    return len(again) + len(unreadable)


async def discard_dead_letters(conn: AsyncConnection, letters: Sequence[Any]) -> int:
    """Take them off the list: their tasks stay failed, and everything stays on record. How many were discarded."""
    await _settle(conn, letters)
    return len(letters)


async def record_change(
    conn: AsyncConnection, actor: str, action: str, letters: Sequence[Any], wanted: Filter, *, everything: bool
) -> None:
    """Write into the audit trail that `actor` has retried or discarded `letters`, and how they were chosen."""
    chosen = {name: str(value) for name, value in vars(wanted).items() if value is not None and name != "ids"}
    named = [letter.id for letter in letters[:NAMED]]
    await record(conn, actor, action, count=len(letters), ids=named, filter=chosen, all=everything)


async def _settle(conn: AsyncConnection, letters: Sequence[Any]) -> None:
    for chunk in chunks([letter.id for letter in letters]):
        await conn.execute(update(f).where(f.c.id.in_(chunk)).values(settled_at=DatabaseTime()))
