"""The upgrade to revision 010, and the way back, on many tasks while somebody goes on submitting and updating them.

A writer's time is from the beginning of its transaction to its commit. It writes before, during and after, and the
ratio is taken within the run, because a shared machine drifts.
"""

import sys
from pathlib import Path

# Python puts the folder of a script first.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import count
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.databases import postgresql, sqlite
from benchmarks.figures import percentile_99, print_table, spread
from spheroseg.database.engine import open_engine, set_message_queue_tables
from spheroseg.database.revisions import downgrade, upgrade
from spheroseg.logs import log_to
from spheroseg.messages import TaskCompleted, TaskStarted
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.tasks import RetryPolicy
from tests.support.lab import submit_images

DESCRIPTION = (
    "Measure how long a writer waits while the schema goes up and down on many tasks. Prints Markdown tables."
)

SUBMIT = 20_000
# How long the writers write alone, before each step and after it; s.
USUAL_SECONDS = 10.0
STARTED = datetime(2026, 11, 24, 8, tzinfo=UTC)


class Writers:
    """Two that never rest: one submits 10 tasks at a time, one begins and completes them; as before revision 010."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        # Of each transaction: when it began, how long it took; s.
        self.spent: list[tuple[float, float]] = []
        self._fresh: asyncio.Queue[UUID] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._submit()), asyncio.create_task(self._update())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise RuntimeError("a writer has failed") from outcome

    def before(self, moment: float) -> list[float]:
        """Milliseconds of those that had ended by then."""
        return [1000 * seconds for began, seconds in self.spent if began + seconds <= moment]

    def between(self, start: float, end: float) -> list[float]:
        """Milliseconds of those that ran at some moment between the two."""
        return [1000 * seconds for began, seconds in self.spent if began < end and began + seconds > start]

    async def _submit(self) -> None:
        while True:
            began = perf_counter()
            submitted = await submit_images(self.engine, 10, user="writer")
            self.spent.append((began, perf_counter() - began))
            for task_id in submitted.task_ids:
                self._fresh.put_nowait(task_id)
            await asyncio.sleep(0.02)

    async def _update(self) -> None:
        for number in count():
            task_id = await self._fresh.get()
            about: dict[str, Any] = {"task_id": task_id, "attempt": 1, "worker": "w", "at": datetime.now(UTC)}
            reports = (TaskStarted(**about), TaskCompleted(**about, started_at=STARTED, result={"n": number}))
            for report in reports:
                began = perf_counter()
                async with self.engine.begin() as conn:
                    await apply_reports(conn, [report], RetryPolicy())
                self.spent.append((began, perf_counter() - began))


async def fill(engine: AsyncEngine, tasks: int) -> None:
    """Half of them completed, as after some months; the rest queued."""
    for submitted in range(0, tasks, SUBMIT):
        await submit_images(engine, min(SUBMIT, tasks - submitted), user=f"user-{submitted % 7}")
    async with engine.begin() as conn:
        await conn.execute(
            text(
                "UPDATE segmentation_tasks SET state = 'completed', started_at = created_at, finished_at = created_at"
                " WHERE id < (SELECT id FROM segmentation_tasks ORDER BY id LIMIT 1 OFFSET :half)"
            ),
            {"half": tasks // 2},
        )
        await conn.execute(
            text(
                "DELETE FROM segmentation_queue WHERE task_id IN"
                " (SELECT id FROM segmentation_tasks WHERE state = 'completed')"
            )
        )


async def measure(engine: AsyncEngine, name: str, step: Callable[[], Awaitable[Any]]) -> list[str]:
    writers = Writers(engine)
    writers.start()
    await asyncio.sleep(USUAL_SECONDS)
    began = perf_counter()
    await step()
    ended = perf_counter()
    # So that those are seen to their end that began meanwhile.
    await asyncio.sleep(2.0)
    await writers.stop()
    usual, meanwhile = writers.before(began), writers.between(began, ended)
    return [
        name,
        f"{ended - began:.1f}",
        *(spread([figure]) for figure in (median(usual), percentile_99(usual), max(usual))),
        *(spread([figure]) for figure in (median(meanwhile), max(meanwhile))),
        f"{max(meanwhile) / median(usual):.0f}",
        f"{len(meanwhile):,}",
    ]


async def main(arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(postgresql())
        places = [stack.enter_context(sqlite()), *([server] if server else [])]
        for databases in places:
            if arguments.database not in ("both", databases.name.lower()):
                continue
            engine = open_engine(await databases.create("revisions"))
            await fill(engine, arguments.tasks)
            if engine.dialect.name == "postgresql":
                async with engine.begin() as conn:
                    await conn.execute(text("ANALYZE"))
            # Writers that need nothing of revision 010, so that they are the same in both directions.
            set_message_queue_tables(engine, False)
            rows = []
            for _ in range(arguments.repeats):
                rows.append(await measure(engine, "downgrade to 009", partial(downgrade, engine, "009")))
                rows.append(await measure(engine, "upgrade to 010", partial(upgrade, engine)))
            print_table(
                f"{databases.name}, {arguments.tasks:,} tasks",
                [
                    "",
                    "total s",
                    "usual ms",
                    "p99",
                    "longest",
                    "meanwhile ms",
                    "longest wait ms",
                    "to usual",
                    "transactions meanwhile",
                ],
                rows,
            )
            await engine.dispose()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="postgresql")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="tasks that are there (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="times down and up (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    # Otherwise a terminated benchmark would leave its PostgreSQL server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open(os.devnull, "w") as log:
        log_to(log)
        asyncio.run(main(_parse()))
