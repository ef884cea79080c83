"""A process tells the database every few seconds that it is alive, and how it is."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.components import leave, tell

log = structlog.get_logger()

EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Standing:
    """state: ok; away, when what it needs does not answer; or paused."""

    state: str = "ok"
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def heartbeat(
    engine: AsyncEngine, kind: str, look: Callable[[], Standing] = Standing, *, every: float = EVERY_SECONDS
) -> AsyncIterator[None]:
    """Tell how it stands, `look`, every `every` seconds as long as the block runs; a change within a second."""
    name = f"{kind}-{os.uname().nodename}-{os.getpid()}"
    beating = asyncio.create_task(_beat(engine, name, kind, look, every))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        try:
            async with asyncio.timeout(2.0), engine.begin() as conn:
                await leave(conn, name)
        except (SQLAlchemyError, OSError):
            # It will be seen to be silent.
            pass


async def _beat(engine: AsyncEngine, name: str, kind: str, look: Callable[[], Standing], every: float) -> None:
    clock = asyncio.get_running_loop().time
    told: Standing | None = None
    told_at = -every
    while True:
        standing = look()
        is_news = told is None or (standing.state, standing.reason) != (told.state, told.reason)
        if is_news or clock() - told_at >= every:
            try:
                async with engine.begin() as conn:
                    await tell(conn, name, kind, standing.state, standing.reason, standing.detail)
                told, told_at = standing, clock()
            except (SQLAlchemyError, OSError) as error:
                log.warning("the database was not told that this process is alive", kind=kind, error=str(error))
                await asyncio.sleep(every)
        await asyncio.sleep(min(1.0, every))
