"""A source of metrics: queried by one task at a time, and no more often than needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from prometheus_client import Metric

log = structlog.get_logger()

# Prometheus waits 10 s for a scrape by default.
READ_TIMEOUT_SECONDS = 4.0
# A query may take longer than a scrape; its answer counts as fresh for this long.
MAX_STALE_SECONDS = 30.0
QUERY_TIMEOUT_SECONDS = 30.0
# After a failed query, the next read may query again this soon.
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class SourceAnswer:
    """The answer of a source. If `metrics` is None there is no fresh answer, and `reason` says why in a sentence."""

    metrics: Sequence[Metric] | None
    reason: str = ""


class Source:
    """Runs `query` when somebody reads and the last answer is older than `max_age` seconds.

    A reader waits for at most `timeout` seconds. A query that takes longer continues, and its answer is for the next
    reader; a second one is never started beside it. Until then readers get the last answer, unless it is older than
    `max_stale` seconds.
    """

    def __init__(
        self,
        name: str,
        query: Callable[[], Awaitable[Sequence[Metric]]],
        *,
        max_age: float,
        timeout: float = READ_TIMEOUT_SECONDS,
        max_stale: float = MAX_STALE_SECONDS,
    ) -> None:
        self.name = name
        self._query = query
        self._max_age = max_age
        self._timeout = timeout
        self._max_stale = max_stale
        self._last = SourceAnswer(None, "not queried yet")
        self._answered_at = -float("inf")
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def last(self) -> SourceAnswer:
        """The last answer, however old it is."""
        return self._last

    async def read(self) -> SourceAnswer:
        """Return an answer within `timeout` seconds. Never raises for an unreachable source."""
        max_age = self._max_age if self._last.metrics is not None else min(self._max_age, RETRY_SECONDS)
        if self._refreshing is None and time.monotonic() - self._answered_at > max_age:
            self._refreshing = asyncio.create_task(self._refresh())
        if self._refreshing is not None:
            # Not awaited directly, because a scrape that is cancelled must not cancel the query.
            await asyncio.wait({self._refreshing}, timeout=self._timeout)
        if self._refreshing is None or time.monotonic() - self._answered_at < self._max_stale:
            return self._last
        return SourceAnswer(None, f"no answer within {self._timeout:g} s")

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing

    async def _refresh(self) -> None:
        was_up = self._last.metrics is not None
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                self._last = SourceAnswer(await self._query())
        # Whatever a client library raises means an unreachable source. It must not stop the exporter.
        except Exception as error:
            self._last = SourceAnswer(None, str(error) or type(error).__name__)
            if was_up or self._answered_at < 0:
                log.warning("a source of metrics does not answer", source=self.name, error=self._last.reason)
        else:
            if not was_up:
                log.info("a source of metrics answers", source=self.name)
        finally:
            self._answered_at = time.monotonic()
            self._refreshing = None
