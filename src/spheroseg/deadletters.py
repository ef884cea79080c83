"""What failed for good, and messages that nobody could read: to look at, to try again, to discard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import ROUTES, Message
from spheroseg.submit import retry
from spheroseg.tasks import TaskState


@dataclass(frozen=True)
class Filter:
    """Which dead letters; what is None does not matter. `id` is the failure's, `image` a part of its name."""

    id: int | None = None
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
    """How many there are of each reason; reasons without one are missing."""
    rows = await conn.execute(
        select(f.c.reason, func.count())
        .outerjoin(t, t.c.id == f.c.task_id)
        .where(*_IS_DEAD_LETTER)
        .group_by(f.c.reason)
    )
    return {reason: count for reason, count in rows}


async def list_dead_letters(conn: AsyncConnection, wanted: Filter, limit: int = 1000) -> Sequence[Any]:
    """The last failure of each task that failed for good, and every unreadable message; the newest first."""
    query = (
        select(f, images.c.name.label("image"), images.c.page, t.c.state)
        .outerjoin(t, t.c.id == f.c.task_id)
        .outerjoin(images, images.c.id == t.c.image_id)
        .where(*_IS_DEAD_LETTER)
        .order_by(f.c.id.desc())
        .limit(limit)
    )
    for column, value in (
        (f.c.id, wanted.id),
        (f.c.task_id, wanted.task_id),
        (f.c.reason, wanted.reason),
        (f.c.worker, wanted.worker),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.image is not None:
        query = query.where(images.c.name.contains(wanted.image, autoescape=True))
    if wanted.since is not None:
        query = query.where(f.c.failed_at >= wanted.since)
    return (await conn.execute(query)).all()


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


async def _settle(conn: AsyncConnection, letters: Sequence[Any]) -> None:
    ids = [letter.id for letter in letters]
    await conn.execute(update(f).where(f.c.id.in_(ids)).values(settled_at=DatabaseTime()))
