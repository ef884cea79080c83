"""For administrators: pause and resume the relay."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import AppResources, CurrentAdmin
from spheroseg.database import audit, switches
from spheroseg.database.accounts import User
from spheroseg.database.engine import reading
from spheroseg.database.figures import read_processes
from spheroseg.resources import Resources

router = APIRouter(prefix="/admin/relay", tags=["admin"])


class ComponentOut(BaseModel):
    """The last heartbeat of a process. state: ok, away (a service that it needs does not answer) or paused."""

    name: str
    state: str
    reason: str | None
    since: datetime
    seen_at: datetime


class RelayOut(BaseModel):
    """is_on: False while the relay is paused. changed_by, changed_at: null if nobody has ever paused it."""

    is_on: bool
    changed_by: str | None
    changed_at: datetime | None
    processes: list[ComponentOut]


@router.get("")
async def read_relay(resources: AppResources, admin: CurrentAdmin) -> RelayOut:
    """Read whether the relay is paused, and which relay processes have sent a heartbeat."""
    async with reading(resources.engine) as conn:
        return await _read_relay(conn)


@router.post("/pause")
async def pause_relay(resources: AppResources, admin: CurrentAdmin) -> RelayOut:
    """Stop moving tasks to RabbitMQ, within a second.

    Use this for maintenance of RabbitMQ: its queues run empty, nothing is lost, and work continues. Workers finish
    the tasks that RabbitMQ has. The other tasks wait in the database, where workers that have a DATABASE_URL take
    them after a few seconds, somewhat more slowly than usual. Workers without a DATABASE_URL are idle. Cancellations
    still reach them. To stop the work itself, stop the workers.
    """
    return await _switch(resources, admin, is_on=False)


@router.post("/resume")
async def resume_relay(resources: AppResources, admin: CurrentAdmin) -> RelayOut:
    """Move tasks to RabbitMQ again."""
    return await _switch(resources, admin, is_on=True)


async def _switch(resources: Resources, admin: User, *, is_on: bool) -> RelayOut:
    async with resources.engine.begin() as conn:
        await switches.set_switch(conn, switches.RELAY, is_on, admin.name)
        await audit.record(conn, admin.name, "relay.resume" if is_on else "relay.pause")
        return await _read_relay(conn)


async def _read_relay(conn: AsyncConnection) -> RelayOut:
    switch = await switches.read_switch(conn, switches.RELAY)
    relays = [process for process in await read_processes(conn) if process.kind == "relay"]
    return RelayOut(
        is_on=switch is None or switch.is_on,
        changed_by=switch.changed_by if switch else None,
        changed_at=switch.changed_at if switch else None,
        processes=[ComponentOut.model_validate(relay, from_attributes=True) for relay in relays],
    )
