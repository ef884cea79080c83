"""What an administrator can switch off and on again. What nobody has switched is on."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_into
from spheroseg.database.schema import switches as s

RELAY = "relay"


async def is_on(conn: AsyncConnection, name: str) -> bool:
    found = await read_switch(conn, name)
    return found is None or bool(found.is_on)


async def read_switch(conn: AsyncConnection, name: str) -> Any:
    """Its row, with who changed it and when; None where nobody ever has."""
    return (await conn.execute(select(s).where(s.c.name == name))).first()


async def set_switch(conn: AsyncConnection, name: str, is_on: bool, changed_by: str) -> None:
    values = {"is_on": is_on, "changed_by": changed_by[:200], "changed_at": DatabaseTime()}
    switched = insert_into(conn, s).values(name=name, **values)
    await conn.execute(switched.on_conflict_do_update(index_elements=[s.c.name], set_=values))
