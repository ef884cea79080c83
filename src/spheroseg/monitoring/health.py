"""The health of the whole site, from the statuses that its processes report: ok, degraded or down."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.database.engine import reading
from spheroseg.database.figures import Process, read_alive_processes
from spheroseg.resources import Resources
from spheroseg.storage import RESERVE_BYTES

log = structlog.get_logger()

DATABASE_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class ComponentHealth:
    """The health of one component: ok, degraded, down or disabled, the reason, and since when."""

    status: str
    reason: str | None = None
    since: datetime | None = None
    instances: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Health:
    """The health of the whole site.

    status: `ok`; `degraded`: something is wrong, see `reason`; `down`: the database does not answer.
    """

    status: str
    reason: str | None
    since: datetime | None
    components: dict[str, ComponentHealth]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def check_health(resources: Resources) -> Health:
    """Read the health from the database, where all processes report their status. Takes a few seconds at most."""
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS), reading(resources.engine) as conn:
            processes = await read_alive_processes(conn)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        # The health can be read without a token, so the driver's text, which names hosts and users, is only logged.
        log.warning("the database does not answer", error=str(error) or type(error).__name__)
        reason = "the database does not answer: run `spheroseg doctor` on the server"
        return Health("down", reason, None, {"database": ComponentHealth("down", reason)})
    components = _check_processes(processes, is_queue_enabled=resources.settings.enable_message_queue)
    components["storage"] = await asyncio.to_thread(_check_storage, resources.settings.resolved_storage_url())
    for status in ("down", "degraded"):
        for component in components.values():
            if component.status == status:
                return Health(status, component.reason, component.since, components)
    return Health("ok", None, None, components)


def _check_processes(processes: Sequence[Process], *, is_queue_enabled: bool) -> dict[str, ComponentHealth]:
    def of_kind(kind: str) -> list[Process]:
        return [process for process in processes if process.kind == kind]

    return {
        "database": ComponentHealth("ok"),
        "message_queue": _check_relays(of_kind("relay")) if is_queue_enabled else ComponentHealth("disabled"),
        "collect": _check_any_alive(
            of_kind("collect"),
            "no collect process is running: results wait and are not lost; start `spheroseg collect`",
        ),
        "workers": _check_workers(of_kind("worker"), is_heartbeat_expected=not is_queue_enabled),
        "backend": ComponentHealth("ok", instances=_instances(of_kind("backend"))),
    }


def _check_relays(relays: Sequence[Process]) -> ComponentHealth:
    """Return whether tasks go through RabbitMQ. One working relay is enough."""
    if not relays:
        return ComponentHealth(
            "degraded",
            "no relay is running: tasks go through the database queue instead of RabbitMQ; start `spheroseg relay`",
        )
    working = [relay for relay in relays if relay.state == "ok"]
    if working:
        return ComponentHealth("ok", since=min(relay.since for relay in working), instances=_instances(relays))
    is_paused = all(relay.state == "paused" for relay in relays)
    cause = "the relay is paused; resume it: POST /api/admin/relay/resume" if is_paused else relays[0].reason
    return ComponentHealth(
        "degraded",
        f"tasks go through the database queue: {cause}",
        min(relay.since for relay in relays),
        _instances(relays),
    )


def _check_workers(workers: Sequence[Process], *, is_heartbeat_expected: bool) -> ComponentHealth:
    if workers and all(worker.state == "away" for worker in workers):
        return ComponentHealth(
            "degraded",
            "no worker can reach its queue: look at the workers' logs",
            min(worker.since for worker in workers),
            _instances(workers),
        )
    if is_heartbeat_expected:
        return _check_any_alive(workers, "no worker is running: tasks wait; start `spheroseg worker`")
    # A worker that has no DATABASE_URL cannot record a heartbeat, so a missing one proves nothing.
    return ComponentHealth("ok", instances=_instances(workers))


def _check_any_alive(processes: Sequence[Process], reason_if_none: str) -> ComponentHealth:
    if not processes:
        return ComponentHealth("degraded", reason_if_none)
    return ComponentHealth("ok", instances=_instances(processes))


def _instances(processes: Sequence[Process]) -> list[dict[str, Any]]:
    return [
        {
            "name": process.name,
            "state": process.state,
            "reason": process.reason,
            "since": process.since,
            "seen_at": process.seen_at,
            "detail": process.detail,
        }
        for process in processes
    ]


def _check_storage(url: str) -> ComponentHealth:
    if "://" in url.removeprefix("file://"):
        return ComponentHealth("ok")
    folder = Path(url.removeprefix("file://"))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < RESERVE_BYTES:
        return ComponentHealth(
            "degraded", f"the disk of the storage is full: only {free // 1024**2} MB are free; free some space"
        )
    return ComponentHealth("ok")
