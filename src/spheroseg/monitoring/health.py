"""How the whole stands, from what its processes say of themselves: ok, degraded, or down."""

import asyncio
import shutil
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.components import read_alive
from spheroseg.database.engine import DatabaseTime, reading
from spheroseg.resources import Resources
from spheroseg.storage import RESERVE_BYTES

log = structlog.get_logger()

PATIENCE_SECONDS = 3.0


@dataclass(frozen=True)
class Part:
    """One component: ok, degraded, down or disabled; why, and since when."""

    status: str
    reason: str | None = None
    since: datetime | None = None
    instances: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Health:
    """status: ok, degraded (work goes on, with the reason), or down (it does not)."""

    status: str
    reason: str | None
    since: datetime | None
    components: dict[str, Part]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def look(place: Resources) -> Health:
    """Ask the database, in a few seconds at most; everything else has told it how it is."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), reading(place.engine) as conn:
            parts = await _parts(place, conn)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        # Whoever asks needs no token, and is not told what the driver says of hosts and users.
        log.warning("the database does not answer", error=str(error) or type(error).__name__)
        reason = "the database does not answer"
        return Health("down", reason, None, {"database": Part("down", reason)})
    parts["storage"] = await asyncio.to_thread(_storage, place.settings.resolved_storage_url())
    worst = [part for status in ("down", "degraded") for part in parts.values() if part.status == status]
    if worst:
        return Health(worst[0].status, worst[0].reason, worst[0].since, parts)
    return Health("ok", None, None, parts)


async def _parts(place: Resources, conn: AsyncConnection) -> dict[str, Part]:
    await conn.execute(select(DatabaseTime()))
    alive: dict[str, list[Any]] = {kind: [] for kind in ("relay", "collect", "worker", "backend")}
    for row in await read_alive(conn):
        alive.setdefault(row.kind, []).append(row)
    is_queued = place.settings.enable_message_queue
    parts = {
        "database": Part("ok"),
        "message_queue": _message_queue(alive["relay"]) if is_queued else Part("disabled"),
        "collect": _needed(alive["collect"], "no collect is running: results wait, and are not lost"),
        "workers": _workers(alive["worker"], needed=not is_queued),
        "backend": Part("ok", instances=_instances(alive["backend"])),
    }
    return parts


def _message_queue(relays: list[Any]) -> Part:
    """On the database queue or not: the relays know."""
    if not relays:
        return Part("degraded", "no relay is running: tasks go over the database queue")
    working = [row for row in relays if row.state == "ok"]
    if working:
        return Part("ok", since=min(row.since for row in working), instances=_instances(relays))
    paused = all(row.state == "paused" for row in relays)
    cause = "the relay is paused" if paused else relays[0].reason
    return Part(
        "degraded",
        f"tasks go over the database queue: {cause}",
        min(row.since for row in relays),
        _instances(relays),
    )


def _needed(rows: list[Any], otherwise: str) -> Part:
    return Part("ok", instances=_instances(rows)) if rows else Part("degraded", otherwise)


def _workers(rows: list[Any], *, needed: bool) -> Part:
    if rows and all(row.state == "away" for row in rows):
        return Part("degraded", "no worker reaches its queue", min(row.since for row in rows), _instances(rows))
    if needed:
        return _needed(rows, "no worker is running: tasks wait")
    # A worker that knows only RabbitMQ cannot tell the database that it is there.
    return Part("ok", instances=_instances(rows))


def _instances(rows: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "state": row.state,
            "reason": row.reason,
            "since": row.since,
            "seen_at": row.seen_at,
            "detail": row.detail,
        }
        for row in rows
    ]


def _storage(url: str) -> Part:
    if "://" in url.removeprefix("file://"):
        return Part("ok")
    folder = Path(url.removeprefix("file://"))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < RESERVE_BYTES:
        return Part("degraded", f"the disk of the storage is full: {free // 1024**2} MB are free")
    return Part("ok")
