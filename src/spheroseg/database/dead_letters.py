"""Lists of failures, and of the dead letters among them.

A failure is a dead letter while its task has failed for good, or nobody can tell whose message it was, and no person
has retried or discarded it. At revision 009, which records no failures, the dead letters are the tasks that failed
for good.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, literal, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.failures import check_failures_kept
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.revisions import BASE, UPGRADE
from spheroseg.database.schema import images
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.errors import SchemaUnusable
from spheroseg.tasks import TaskState


class FailureRecord(NamedTuple):
    """An attempt that did not finish, or an unreadable message, with the image and the state of its task.

    At revision 009 it stands for a task that failed for good, and `id` and `cause` are None.
    """

    id: int | None
    task_id: UUID | None
    attempt: int | None
    cause: str | None
    reason: str | None
    error: str | None
    worker: str | None
    started_at: datetime | None
    failed_at: datetime | None
    next_attempt: int | None
    next_attempt_at: datetime | None
    superseded: bool
    settled_at: datetime | None
    body: bytes | None
    content_encoding: str | None
    headers: dict[str, Any] | None
    image: str | None
    page: int | None
    state: TaskState | None


@dataclass(frozen=True)
class FailureFilter:
    """Which failures to list. None means any. `ids` are the failures' own, `image` is a part of the image's name."""

    ids: tuple[int, ...] | None = None
    task_id: UUID | None = None
    reason: str | None = None
    worker: str | None = None
    image: str | None = None
    since: datetime | None = None


# Conditions on a failure that is outer-joined with its task.
_IS_DEAD_LETTER = (
    or_(
        f.c.task_id.is_(None),
        and_(t.c.state == TaskState.FAILED, f.c.attempt == t.c.attempt, f.c.next_attempt.is_(None)),
    ),
    ~f.c.superseded,
    f.c.settled_at.is_(None),
)


async def count_dead_letters(conn: AsyncConnection) -> dict[str, int]:
    """Return the number of dead letters for each reason that has any. Empty at revision 009."""
    if not keeps_failures(conn):
        return {}
    rows = await conn.execute(
        select(f.c.reason, func.count())
        .outerjoin(t, t.c.id == f.c.task_id)
        .where(*_IS_DEAD_LETTER)
        .group_by(f.c.reason)
    )
    return {reason: count for reason, count in rows}


async def list_dead_letters(
    conn: AsyncConnection, wanted: FailureFilter, limit: int = 1000, before: int | None = None
) -> list[FailureRecord]:
    """Return the last failure of each task that failed for good, and every unreadable message, the newest first.

    before: only those with a lower id. At revision 009 these are the tasks that failed for good, without ids. Raises
    SchemaUnusable if `wanted` names ids there.
    """
    if not keeps_failures(conn):
        return await _list_failed_tasks(conn, wanted, limit)
    query = _failures(wanted, limit, before).where(*_IS_DEAD_LETTER)
    return [FailureRecord(*row) for row in await conn.execute(query)]


async def list_failures(
    conn: AsyncConnection, wanted: FailureFilter, limit: int = 1000, before: int | None = None
) -> list[FailureRecord]:
    """Return every attempt that did not finish, also those that were retried since, the newest first.

    before: only those with a lower id. Raises Conflict at revision 009, which records none.
    """
    check_failures_kept(conn)
    return [FailureRecord(*row) for row in await conn.execute(_failures(wanted, limit, before))]


async def settle_failures(conn: AsyncConnection, ids: Collection[int]) -> set[int]:
    """Mark failures as dealt with by a person. Return the ids of those that nobody has settled before.

    Raises SchemaUnusable at revision 009, where this cannot be recorded.
    """
    if not keeps_failures(conn):
        raise SchemaUnusable(f"nothing can be discarded at revision {BASE} of the database: {UPGRADE}")
    settled: set[int] = set()
    for chunk in chunks(sorted(ids)):
        rows = await conn.execute(
            update(f)
            .where(f.c.id.in_(chunk), f.c.settled_at.is_(None))
            .values(settled_at=DatabaseTime())
            .returning(f.c.id)
        )
        settled |= set(rows.scalars())
    return settled


def _failures(wanted: FailureFilter, limit: int, before: int | None) -> Any:
    own = [f.c[name] for name in FailureRecord._fields if name in f.c]
    query = (
        select(*own, images.c.name.label("image"), images.c.page, t.c.state)
        .outerjoin(t, t.c.id == f.c.task_id)
        .outerjoin(images, images.c.id == t.c.image_id)
        .order_by(f.c.id.desc())
        .limit(limit)
    )
    query = _filtered(query, wanted, {"task_id": f.c.task_id, "reason": f.c.reason, "worker": f.c.worker})
    if wanted.ids is not None:
        query = query.where(f.c.id.in_(wanted.ids))
    if before is not None:
        query = query.where(f.c.id < before)
    if wanted.since is not None:
        query = query.where(f.c.failed_at >= wanted.since)
    return query


async def _list_failed_tasks(conn: AsyncConnection, wanted: FailureFilter, limit: int) -> list[FailureRecord]:
    if wanted.ids is not None:
        raise SchemaUnusable(f"dead letters have no numbers at revision {BASE} of the database: {UPGRADE}")
    known = {
        "task_id": t.c.id,
        "attempt": t.c.attempt,
        "reason": t.c.reason,
        "error": t.c.error,
        "worker": t.c.worker,
        "failed_at": t.c.finished_at,
        "superseded": literal(False),
        "image": images.c.name,
        "page": images.c.page,
        "state": t.c.state,
    }
    query = (
        select(*(known.get(name, null()).label(name) for name in FailureRecord._fields))
        .join(images, images.c.id == t.c.image_id)
        .where(t.c.state == TaskState.FAILED)
        .order_by(t.c.finished_at.desc(), t.c.id.desc())
        .limit(limit)
    )
    query = _filtered(query, wanted, {"task_id": t.c.id, "reason": t.c.reason, "worker": t.c.worker})
    if wanted.since is not None:
        query = query.where(t.c.finished_at >= wanted.since)
    return [FailureRecord(*row) for row in await conn.execute(query)]


def _filtered(query: Any, wanted: FailureFilter, columns: Mapping[str, ColumnElement[Any]]) -> Any:
    for name, column in columns.items():
        if (value := getattr(wanted, name)) is not None:
            query = query.where(column == value)
    if wanted.image is not None:
        query = query.where(images.c.name.contains(wanted.image, autoescape=True))
    return query
