"""`segmentation_failures`: attempts that did not finish, and messages that nobody could read.

At revision 009 there is no such table, and nothing is recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.revisions import BASE, UPGRADE
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.errors import Conflict
from spheroseg.tasks import Cause


@dataclass(frozen=True)
class NewFailure:
    """An attempt that did not finish, to be recorded.

    task_id, attempt: None if the message was so broken that nobody can tell whose it was.
    failed_at: None means now.
    next_attempt: None if the task failed for good. delay: seconds from now after which the next attempt may begin.
    superseded: it came late and changed nothing.
    body, content_encoding, headers: the message itself, if nobody could read it.
    """

    task_id: UUID | None
    attempt: int | None
    cause: Cause
    reason: str
    error: str
    worker: str | None = None
    started_at: datetime | None = None
    failed_at: datetime | None = None
    next_attempt: int | None = None
    delay: float = 0.0
    superseded: bool = False
    body: bytes | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None


class TaskFailure(NamedTuple):
    """An attempt of one task that did not finish."""

    attempt: int | None
    cause: str
    reason: str
    error: str
    worker: str | None
    started_at: datetime | None
    failed_at: datetime
    next_attempt: int | None
    next_attempt_at: datetime | None
    superseded: bool


async def add_failure(conn: AsyncConnection, failure: NewFailure) -> None:
    """Record `failure`. Does nothing at revision 009: there the task itself keeps the last reason."""
    if not keeps_failures(conn):
        return
    values = {name: value for name, value in vars(failure).items() if name != "delay"}
    values["failed_at"] = failure.failed_at or DatabaseTime()
    values["next_attempt_at"] = DatabaseTime(failure.delay) if failure.next_attempt else None
    values["headers"] = None if failure.headers is None else dict(failure.headers)
    await conn.execute(insert(f).values(values))


async def has_failure(conn: AsyncConnection, task_id: UUID, attempt: int) -> bool:
    """Return whether a failure of that attempt is on record. True at revision 009, where nothing can be added."""
    if not keeps_failures(conn):
        return True
    found = await conn.execute(select(f.c.id).where(f.c.task_id == task_id, f.c.attempt == attempt).limit(1))
    return found.first() is not None


async def read_failures(conn: AsyncConnection, task_id: UUID) -> list[TaskFailure]:
    """Return every attempt of a task that did not finish, the oldest first. Empty at revision 009."""
    if not keeps_failures(conn):
        return []
    query = select(*(f.c[name] for name in TaskFailure._fields)).where(f.c.task_id == task_id).order_by(f.c.id)
    return [TaskFailure(*row) for row in await conn.execute(query)]


def check_failures_kept(conn: AsyncConnection) -> None:
    """Raise Conflict if the database keeps no failures."""
    if not keeps_failures(conn):
        raise Conflict(f"the database is at revision {BASE}, which keeps no failures: {UPGRADE}")
