"""Cumulative counters and histograms of the tasks that ended since the exporter started.

Each row that is added to `segmentation_results` or `segmentation_failures` is counted once.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.added_rows import AddedFailure, AddedResult, added_failures, added_results
from spheroseg.database.revision_010 import keeps_failures

WAITING_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 28_800)
PROCESSING_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

# rate() cannot see the first event of a counter that appears with it, so the counters of these reasons begin at zero.
KNOWN_REASONS = (
    "bad_image", "unsupported_image", "image_too_large", "bad_parameters", "input_changed", "unreadable",
    "model_unusable", "out_of_memory", "disk_full", "io_error", "timeout", "killed", "crashed", "not_started",
    "worker_lost", "handed_back", "expired", "maxlen", "message_missing", "bad_message",
)  # fmt: skip


class Histogram:
    """Durations in seconds, counted by the bucket they fall into."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        """bounds: upper bounds of the buckets in seconds, ascending; the bucket +Inf is added."""
        self.name = name
        self.documentation = documentation
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        # A duration that is measured with the clocks of two machines may come out negative.
        seconds = max(0.0, seconds)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def metric(self) -> Metric:
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self.counts)), strict=True))
        return HistogramMetricFamily(self.name, self.documentation, buckets=buckets, sum_value=self.sum)


class TaskCounters:
    """The exporter's own counts. They begin at zero when the exporter starts, as Prometheus expects of a counter."""

    def __init__(self) -> None:
        self._waiting = Histogram(
            "spheroseg_task_waiting_seconds",
            "Time from submit to the start of the attempt that completed the task, "
            "for tasks completed since the exporter started.",
            WAITING_BUCKETS,
        )
        self._processing = Histogram(
            "spheroseg_task_processing_seconds",
            "Time from the start of the attempt that completed the task to its report.",
            PROCESSING_BUCKETS,
        )
        self._retries: Counter[str] = Counter(dict.fromkeys(KNOWN_REASONS, 0))
        self._failed_for_good: Counter[str] = Counter(dict.fromkeys(KNOWN_REASONS, 0))
        self._results = added_results()
        self._failures = added_failures()

    async def update(self, conn: AsyncConnection) -> None:
        """Count the rows that were added since the last update."""
        async for results in self._results.read_new(conn):
            self._count_results(results)
        if not keeps_failures(conn):
            self._failures.reset()
            return
        async for failures in self._failures.read_new(conn):
            self._count_failures(failures)

    def metrics(self, *, with_failures: bool) -> list[Metric]:
        """with_failures: False at revision 009 of the database, which records no failures."""
        metrics = [self._waiting.metric(), self._processing.metric()]
        if with_failures:
            metrics.append(
                _by_reason(
                    "spheroseg_retries",
                    "Attempts that did not finish and after which the task was queued again.",
                    self._retries.items(),
                )
            )
            metrics.append(
                _by_reason("spheroseg_failed_for_good", "Tasks that failed for good.", self._failed_for_good.items())
            )
        return metrics

    def _count_results(self, results: Sequence[AddedResult]) -> None:
        for result in results:
            if not result.superseded and result.created_at and result.started_at and result.finished_at:
                self._waiting.observe((result.started_at - result.created_at).total_seconds())
                self._processing.observe((result.finished_at - result.started_at).total_seconds())

    def _count_failures(self, failures: Sequence[AddedFailure]) -> None:
        for failure in failures:
            if failure.superseded:
                continue
            if failure.next_attempt is not None:
                self._retries[failure.reason] += 1
            elif failure.task_id is not None:
                self._failed_for_good[failure.reason] += 1


def _by_reason(name: str, documentation: str, counts: Iterable[tuple[str, int]]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=["reason"])
    for reason, count in sorted(counts):
        family.add_metric([reason], count)
    return family
