"""`audit_log`: who has changed what, outside the usual course of tasks."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import audit_log as a

# How many of the things that one action has changed are named in its record. All of them are counted.
MAX_NAMED = 1000


class AuditRecord(NamedTuple):
    """One action. actor: a user's name, or `cli:` and the name of the operating system's user."""

    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]


async def record(conn: AsyncConnection, actor: str, action: str, **detail: Any) -> None:
    """Record that `actor` did `action`, in the transaction that does it. `detail` must be representable in JSON."""
    await conn.execute(insert(a).values(at=DatabaseTime(), actor=actor[:200], action=action, detail=detail))


async def list_records(
    conn: AsyncConnection,
    limit: int,
    *,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> list[AuditRecord]:
    """Return up to `limit` records, the newest first. before: only those with a lower id."""
    query = select(*(a.c[name] for name in AuditRecord._fields)).order_by(a.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(a.c.id < before)
    if actor is not None:
        query = query.where(a.c.actor == actor)
    if action is not None:
        query = query.where(a.c.action == action)
    return [AuditRecord(*row) for row in await conn.execute(query)]
