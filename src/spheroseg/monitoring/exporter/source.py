"""What the exporter asks: never twice at the same time, and not more often than needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from prometheus_client import Metric

log = structlog.get_logger()

# Prometheus gives a scrape 10 s, unless it is told otherwise.
PATIENCE_SECONDS = 4.0
# A question that takes longer than a scrape is no blindness, as long as it is answered.
STALE_SECONDS = 30.0
GIVE_UP_SECONDS = 30.0
AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """`figures` is None where there is no fresh answer; `reason` then says why, in words."""

    figures: Sequence[Metric] | None
    reason: str = ""


class Source:
    """`ask` is run when somebody reads and the last answer is older than `max_age` seconds.

    A reader waits `patience` seconds for it at most. A question that takes longer goes on, and no second one is begun
    beside it; its answer is for whoever reads next. Until then the last one does, if it is not older than `stale`.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[Sequence[Metric]]],
        *,
        max_age: float,
        patience: float = PATIENCE_SECONDS,
        stale: float = STALE_SECONDS,
    ) -> None:
        self.name = name
        self._ask = ask
        self._max_age = max_age
        self._patience = patience
        self._stale = stale
        self._last = Answer(None, "not asked yet")
        self._answered_at = -float("inf")
        self._asking: asyncio.Task[None] | None = None

    @property
    def last(self) -> Answer:
        """What was found last, however long ago."""
        return self._last

    async def read(self) -> Answer:
        max_age = self._max_age if self._last.figures is not None else min(self._max_age, AGAIN_SECONDS)
        if self._asking is None and time.monotonic() - self._answered_at > max_age:
            self._asking = asyncio.create_task(self._refresh())
        if self._asking is not None:
            # Not awaited itself: a scrape that is broken off must not take the question with it.
            await asyncio.wait({self._asking}, timeout=self._patience)
        if self._asking is None or time.monotonic() - self._answered_at < self._stale:
            return self._last
        return Answer(None, f"no answer within {self._patience:g} s")

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    async def _refresh(self) -> None:
        was_up = self._last.figures is not None
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                self._last = Answer(await self._ask())
        # Whatever a client library raises is a source that is away, and never the end of the exporter.
        except Exception as error:
            self._last = Answer(None, str(error) or type(error).__name__)
            if was_up or self._answered_at < 0:
                log.warning("exporter is blind", source=self.name, error=self._last.reason)
        else:
            if not was_up:
                log.info("exporter sees", source=self.name)
        finally:
            self._answered_at = time.monotonic()
            self._asking = None
