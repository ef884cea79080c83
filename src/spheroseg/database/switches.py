"""`switches`: what an administrator can switch off and on again. A switch that nobody has used is on."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_into
from spheroseg.database.schema import switches as s

RELAY = "relay"


class Switch(NamedTuple):
    """A switch that somebody has used."""

    name: str
    is_on: bool
    changed_by: str
    changed_at: datetime


async def is_on(conn: AsyncConnection, name: str) -> bool:
    """Return whether the switch is on."""
    switch = await read_switch(conn, name)
    return switch is None or switch.is_on


async def read_switch(conn: AsyncConnection, name: str) -> Switch | None:
    """Return the switch, or None if nobody has ever used it."""
    query = select(*(s.c[field] for field in Switch._fields)).where(s.c.name == name)
    row = (await conn.execute(query)).first()
    return Switch(*row) if row else None


async def set_switch(conn: AsyncConnection, name: str, is_on: bool, changed_by: str) -> None:
    """Switch it on or off."""
    values = {"is_on": is_on, "changed_by": changed_by[:200], "changed_at": DatabaseTime()}
    statement = insert_into(conn, s).values(name=name, **values)
    await conn.execute(statement.on_conflict_do_update(index_elements=[s.c.name], set_=values))
