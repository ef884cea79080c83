"""`components`: the heartbeat of each process that has a database."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, delete
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_into
from spheroseg.database.schema import components as c

# A process that has been silent for longer is gone, or cut off from the database.
SILENT_SECONDS = 30.0
# After this long its row is deleted.
FORGET_SECONDS = 86_400.0


async def record_heartbeat(
    conn: AsyncConnection, name: str, kind: str, state: str, reason: str | None, detail: Mapping[str, Any]
) -> None:
    """Record that the process called `name` is alive, and its state: `ok`, `away` or `paused`.

    Delete the rows of processes of the same kind that have been silent for `FORGET_SECONDS`.
    """
    new = insert_into(conn, c).values(
        name=name,
        kind=kind,
        state=state,
        reason=reason,
        detail=dict(detail),
        since=DatabaseTime(),
        seen_at=DatabaseTime(),
    )
    await conn.execute(
        new.on_conflict_do_update(
            index_elements=[c.c.name],
            set_={
                "state": new.excluded.state,
                "reason": new.excluded.reason,
                "detail": new.excluded.detail,
                "seen_at": new.excluded.seen_at,
                "since": case((c.c.state == new.excluded.state, c.c.since), else_=new.excluded.since),
            },
        )
    )
    await conn.execute(delete(c).where(c.c.kind == kind, c.c.seen_at < DatabaseTime(-FORGET_SECONDS)))


async def remove_heartbeat(conn: AsyncConnection, name: str) -> None:
    """Delete the row of a process that ends in good order."""
    await conn.execute(delete(c).where(c.c.name == name))
