"""What each process says of itself, so that any of them can tell how the whole stands."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, delete
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_into
from spheroseg.database.schema import components as c

# Silent for longer: the process is gone, or cut off.
SILENT_SECONDS = 30.0
FORGET_SECONDS = 86_400.0


async def tell(
    conn: AsyncConnection, name: str, kind: str, state: str, reason: str | None, detail: Mapping[str, Any]
) -> None:
    """Record that the process called `name` is alive, and how it is: ok, away or paused."""
    told = insert_into(conn, c).values(
        name=name,
        kind=kind,
        state=state,
        reason=reason,
        detail=dict(detail),
        since=DatabaseTime(),
        seen_at=DatabaseTime(),
    )
    await conn.execute(
        told.on_conflict_do_update(
            index_elements=[c.c.name],
            set_={
                "state": told.excluded.state,
                "reason": told.excluded.reason,
                "detail": told.excluded.detail,
                "seen_at": told.excluded.seen_at,
                "since": case((c.c.state == told.excluded.state, c.c.since), else_=told.excluded.since),
            },
        )
    )
    await conn.execute(delete(c).where(c.c.kind == kind, c.c.seen_at < DatabaseTime(-FORGET_SECONDS)))


async def leave(conn: AsyncConnection, name: str) -> None:
    """The process called `name` has ended in good order."""
    await conn.execute(delete(c).where(c.c.name == name))
