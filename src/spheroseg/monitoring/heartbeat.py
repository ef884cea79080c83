"""Heartbeats: each process records in the database, every few seconds, that it is alive and what its status is."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.components import record_heartbeat, remove_heartbeat

log = structlog.get_logger()

INTERVAL_SECONDS = 5.0
# A changed status is recorded without waiting for the next interval.
STATUS_CHECK_SECONDS = 1.0
LEAVE_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class ProcessStatus:
    """The status that a process reports about itself.

    state: `ok`, `away` (a service that the process needs does not answer) or `paused`.
    """

    state: str = "ok"
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def heartbeat(
    engine: AsyncEngine,
    kind: str,
    read_status: Callable[[], ProcessStatus] = ProcessStatus,
    *,
    interval: float = INTERVAL_SECONDS,
) -> AsyncIterator[None]:
    """Record the status of this process while the block runs, and remove the record afterwards.

    The status is recorded every `interval` seconds, and within a second of a change.
    """
    name = f"{kind}-{os.uname().nodename}-{os.getpid()}"
    beating = asyncio.create_task(_beat(engine, name, kind, read_status, interval))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS), engine.begin() as conn:
                await remove_heartbeat(conn, name)
        except (SQLAlchemyError, OSError):
            # The record expires by itself once the process has been silent for long enough.
            pass


async def _beat(
    engine: AsyncEngine, name: str, kind: str, read_status: Callable[[], ProcessStatus], interval: float
) -> None:
    clock = asyncio.get_running_loop().time
    recorded: ProcessStatus | None = None
    recorded_at = -interval
    while True:
        status = read_status()
        has_changed = recorded is None or (status.state, status.reason) != (recorded.state, recorded.reason)
        if has_changed or clock() - recorded_at >= interval:
            try:
                async with engine.begin() as conn:
                    await record_heartbeat(conn, name, kind, status.state, status.reason, status.detail)
                recorded, recorded_at = status, clock()
            except (SQLAlchemyError, OSError) as error:
                log.warning("the heartbeat of this process cannot be recorded", kind=kind, error=str(error))
                await asyncio.sleep(interval)
        await asyncio.sleep(min(STATUS_CHECK_SECONDS, interval))
