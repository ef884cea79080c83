"""What has happened since the exporter started, as cumulative counters, from the rows that were added meanwhile.

Each new row of `segmentation_results` and `segmentation_failures` is counted once. Ids are given before a transaction
commits, so a lower one may appear after a higher one: those that were skipped are looked for again for a while.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import chunks, has_message_queue_tables
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_results as r
from spheroseg.database.schema import segmentation_tasks as t

CHUNK = 5000
# No transaction of collect takes this long.
GAP_SECONDS = 300.0
MOST_GAPS = 10_000

WAITING_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 28_800)
PROCESSING_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

# A counter that appears with its first event hides that event from rate(): these begin at zero.
REASONS = (
    "bad_image", "unsupported_image", "image_too_large", "bad_parameters", "input_changed", "unreadable",
    "model_unusable", "out_of_memory", "disk_full", "io_error", "timeout", "killed", "crashed", "not_started",
    "worker_lost", "handed_back", "expired", "maxlen", "message_missing", "bad_message",
)  # fmt: skip


class Follower:
    """The rows that are added to a table, each once, from the first look on; `query` selects its `id` too."""

    def __init__(self, table: Any, query: Select[Any]) -> None:
        self._id = table.c.id
        self._query = query
        self._newest: int | None = None
        # When each id that was skipped was first missed.
        self._gaps: dict[int, float] = {}

    def forget(self) -> None:
        """The table is not there any more: what comes in its place is followed from its own beginning."""
        self._newest = None
        self._gaps.clear()

    async def new(self, conn: AsyncConnection) -> AsyncIterator[Sequence[Any]]:
        """What has come since the last time, in pieces; a piece that was given is not given again."""
        newest = (await conn.execute(select(func.max(self._id)))).scalar_one() or 0
        if self._newest is None or newest < self._newest:
            self._newest = newest
            self._gaps.clear()
            return
        for some in chunks(list(self._gaps), CHUNK):
            rows = (await conn.execute(self._query.where(self._id.in_(some)))).all()
            for row in rows:
                del self._gaps[row.id]
            yield rows
        while rows := (
            await conn.execute(self._query.where(self._id > self._newest).order_by(self._id).limit(CHUNK))
        ).all():
            self._remember_gaps([row.id for row in rows])
            yield rows

    def _remember_gaps(self, ids: Sequence[int]) -> None:
        assert self._newest is not None
        now = time.monotonic()
        for id_ in ids:
            self._gaps.update(dict.fromkeys(range(max(self._newest + 1, id_ - MOST_GAPS), id_), now))
            self._newest = id_
        kept = [(gap, since) for gap, since in self._gaps.items() if now - since < GAP_SECONDS]
        self._gaps = dict(kept[-MOST_GAPS:])


class Histogram:
    """Values in seconds, counted by the bucket they fall into."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.documentation = documentation
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        # The clocks of two machines may say that an end came before its beginning.
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def metric(self) -> Metric:
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self.counts)), strict=True))
        return HistogramMetricFamily(self.name, self.documentation, buckets=buckets, sum_value=self.sum)


class Histories:
    def __init__(self) -> None:
        self._waiting = Histogram(
            "spheroseg_task_waiting_seconds",
            "From submit to the start of the attempt that completed; tasks completed since the exporter started.",
            WAITING_BUCKETS,
        )
        self._processing = Histogram(
            "spheroseg_task_processing_seconds",
            "The attempt that completed, from its start to its report.",
            PROCESSING_BUCKETS,
        )
        self._retries: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._failed_for_good: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._results = Follower(
            r,
            select(r.c.id, r.c.superseded, t.c.created_at, t.c.started_at, t.c.finished_at).outerjoin(
                t, t.c.id == r.c.task_id
            ),
        )
        self._failures = Follower(f, select(f.c.id, f.c.task_id, f.c.reason, f.c.next_attempt, f.c.superseded))

    async def update(self, conn: AsyncConnection) -> None:
        async for rows in self._results.new(conn):
            self._count_results(rows)
        if not has_message_queue_tables(conn):
            self._failures.forget()
            return
        async for rows in self._failures.new(conn):
            self._count_failures(rows)

    def metrics(self, *, with_failures: bool) -> list[Metric]:
        """with_failures: False before revision 010, where nobody records them."""
        found = [self._waiting.metric(), self._processing.metric()]
        if with_failures:
            found.append(
                _by_reason(
                    "spheroseg_retries",
                    "Attempts that did not finish and after which the task was queued again.",
                    self._retries.items(),
                )
            )
            found.append(
                _by_reason("spheroseg_failed_for_good", "Tasks that failed for good.", self._failed_for_good.items())
            )
        return found

    def _count_results(self, rows: Sequence[Any]) -> None:
        for row in rows:
            if not row.superseded and row.started_at and row.finished_at:
                self._waiting.observe((row.started_at - row.created_at).total_seconds())
                self._processing.observe((row.finished_at - row.started_at).total_seconds())

    def _count_failures(self, rows: Sequence[Any]) -> None:
        for row in rows:
            if row.superseded:
                continue
            if row.next_attempt is not None:
                self._retries[row.reason] += 1
            elif row.task_id is not None:
                self._failed_for_good[row.reason] += 1


def _by_reason(name: str, documentation: str, counts: Iterable[tuple[str, int]]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=["reason"])
    for reason, count in sorted(counts):
        family.add_metric([reason], count)
    return family
