"""The audit trail: who has changed what, outside the usual course of tasks."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import audit_log as a

# Of the things that one action has changed, in its record; a count tells of the rest.
MAX_NAMED = 1000


async def record(conn: AsyncConnection, actor: str, action: str, **detail: Any) -> None:
    """Write that `actor` did `action`, in the transaction that does it. `detail` is what JSON can say."""
    await conn.execute(insert(a).values(at=DatabaseTime(), actor=actor[:200], action=action, detail=detail))


async def list_records(
    conn: AsyncConnection,
    limit: int,
    *,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> Sequence[Any]:
    """The newest first; before: only those with a lower id."""
    query = select(a).order_by(a.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(a.c.id < before)
    if actor is not None:
        query = query.where(a.c.actor == actor)
    if action is not None:
        query = query.where(a.c.action == action)
    return (await conn.execute(query)).all()
