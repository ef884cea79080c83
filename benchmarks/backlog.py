"""Measures the cost of a longer queue: every operation at several sizes of the backlog, which stay constant."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from benchmarks.databases import Databases
from benchmarks.figures import percentile_99
from spheroseg.broker.table import TableBroker
from spheroseg.database import queue
from spheroseg.database.engine import open_engine, reading
from spheroseg.database.schema import segmentation_queue
from spheroseg.database.tasks import count_states, read_orphans
from spheroseg.messages import Queue
from spheroseg.queueing.sweep import sweep
from spheroseg.tasks import RetryPolicy
from tests.support.lab import submit_images

USERS = [(f"user-{number}", "premium" if number < 2 else "regular") for number in range(8)]
MAX_SUBMIT = 10_000  # images in one submit

CLAIMS = 200  # of each kind in one round at one size
MAX_SCANS = 5  # of each operation that may take seconds, in one round
MAX_SCAN_SECONDS = 2.0  # after which the operation is not repeated in this round


@dataclass(frozen=True)
class FilledDatabase:
    """A database with `size` queued tasks. `per_second`: the rate at which they were submitted."""

    size: int
    url: str
    per_second: float


async def fill(databases: Databases, sizes: Sequence[int]) -> list[FilledDatabase]:
    """Return a database for each size. The smaller ones are copies, made while the largest was filled."""
    url = await databases.create("backlog")
    filled: list[FilledDatabase] = []
    queued, turn = 0, count()
    for size in sizes:
        engine = open_engine(url)
        began = perf_counter()
        missing = size - queued
        while queued < size:
            # Every user has a share even of the smallest backlog.
            images = min(MAX_SUBMIT, -(-missing // len(USERS)), size - queued)
            user, tier = USERS[next(turn) % len(USERS)]
            await submit_images(engine, images, user=user, tier=tier)
            queued += images
        per_second = missing / (perf_counter() - began)
        await engine.dispose()
        copy = url if size == sizes[-1] else await databases.copy("backlog", f"backlog_{size}")
        filled.append(FilledDatabase(size, copy, per_second))
    return filled


Timings = dict[str, list[float]]  # by operation: milliseconds of each repetition


async def measure(engine: AsyncEngine, claims: int = CLAIMS) -> Timings:
    """Run one round at one size, with `claims` claims of each kind."""
    timings: Timings = defaultdict(list)
    for order, low_share in (("highest priority first", 0.0), ("lowest priority first", 1.0)):
        broker = TableBroker(engine, low_share=low_share)
        async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
            for _ in range(claims):
                began = perf_counter()
                (delivery,) = await consumer.take(1, wait=0)
                claimed = perf_counter()
                await consumer.ack([delivery])
                acked = perf_counter()
                # The same user's message again, as their last turn, so that the length of the backlog does not
                # change.
                await broker.publish([delivery.message])
                published = perf_counter()
                timings[f"claim, {order}"].append(claimed - began)
                timings[f"claim and ack, {order}"].append(acked - began)
                timings["publish one more task"].append(published - acked)
        async with broker.consume(Queue.DEAD_LETTERS, prefetch=1) as consumer:
            for _ in range(claims):
                began = perf_counter()
                await consumer.take(1, wait=0)
                timings["idle poll"].append(perf_counter() - began)
    scans: dict[str, Callable[[], Awaitable[Any]]] = {
        "wake_due": lambda: _writing(engine, queue.wake_due),
        "depth of the queue": lambda: TableBroker(engine).depth(Queue.TASKS),
        "progress (count_states)": lambda: _reading(engine, count_states),
        "sweep": lambda: sweep(engine, RetryPolicy()),
    }
    for operation, scan in scans.items():
        while len(timings[operation]) < MAX_SCANS and sum(timings[operation]) < MAX_SCAN_SECONDS:
            began = perf_counter()
            await scan()
            timings[operation].append(perf_counter() - began)
    return {operation: [1000 * seconds for seconds in repetitions] for operation, repetitions in timings.items()}


async def _writing(engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async with engine.begin() as conn:
        return await action(conn)


async def _reading(engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async with reading(engine) as conn:
        return await action(conn)


# The operations whose plans are printed. Their SQL is recorded on its way to the driver.
PLANNED: dict[str, Callable[[AsyncConnection], Awaitable[Any]]] = {
    "claim, highest priority first": lambda conn: queue.claim(conn, Queue.TASKS, 1, "plan", 30.0),
    "claim, lowest priority first": lambda conn: queue.claim(conn, Queue.TASKS, 1, "plan", 30.0, lowest_first=True),
    "turn of one more task": lambda conn: _turn(conn),
    "wake_due": queue.wake_due,
    "sweep": lambda conn: read_orphans(conn, 1000),
}


async def _turn(conn: AsyncConnection) -> None:
    q = segmentation_queue
    entry = (await conn.execute(select(q.c.user_id, q.c.priority).limit(1))).one()
    await queue._next_turn(conn, Queue.TASKS, entry.priority, entry.user_id)


async def plan(engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[Any]]) -> str:
    """Return the database's plan of the last statement of `action`, with its cost, which does not depend on the load.

    The cost is the number of pages read in PostgreSQL, and the number of steps of the virtual machine in SQLite.
    """
    statements: list[tuple[str, Any]] = []

    def record(_c: Any, _u: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    explain = "EXPLAIN (ANALYZE, BUFFERS)" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    async with engine.connect() as conn:
        event.listen(engine.sync_engine, "before_cursor_execute", record)
        await action(conn)
        event.remove(engine.sync_engine, "before_cursor_execute", record)
        await conn.rollback()
        statement, parameters = statements[-1]
        lines = [row[-1] for row in await conn.exec_driver_sql(f"{explain} {statement}", parameters)]
        if engine.dialect.name == "sqlite":
            lines.append(f"{await _count_virtual_steps(conn, statement, parameters):,} steps of the virtual machine")
        await conn.rollback()
    return "\n".join(lines)


async def _count_virtual_steps(conn: AsyncConnection, statement: str, parameters: Any) -> int:
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    driver: Any = (await conn.get_raw_connection()).driver_connection
    await driver.set_progress_handler(step, 1)
    (await conn.exec_driver_sql(statement, parameters)).close()
    await driver.set_progress_handler(None, 0)
    return steps


@dataclass(frozen=True)
class DrainState:
    """The state of PostgreSQL's queue table after `messages` were taken from its front. Times in ms."""

    stage: str
    messages: int
    claim: float
    claim_99: float
    index_mib: float
    dead_rows: int


async def drain(engine: AsyncEngine, messages: int, steps: int = 5) -> list[DrainState]:
    """Take `messages` from the backlog twice: first alone, then while an old snapshot of the database is open.

    Dead rows and index entries stay at the front of the queue, where every claim starts, until autovacuum removes
    them. It cannot remove any that are newer than the oldest open snapshot.
    """
    rows = [await _measure_state(engine, "before", 0)]
    for step in range(1, steps + 1):
        await _take_messages(engine, messages // steps)
        rows.append(await _measure_state(engine, "drained", step * messages // steps))
    await _vacuum(engine)
    rows.append(await _measure_state(engine, "vacuumed", messages))
    async with _old_snapshot(engine):
        for step in range(1, steps + 1):
            await _take_messages(engine, messages // steps)
            rows.append(
                await _measure_state(engine, "drained, old snapshot open", messages + step * messages // steps)
            )
    rows.append(await _measure_state(engine, "snapshot closed", 2 * messages))
    await _vacuum(engine)
    rows.append(await _measure_state(engine, "vacuumed", 2 * messages))
    return rows


async def _take_messages(engine: AsyncEngine, messages: int) -> None:
    async with TableBroker(engine, low_share=0.0).consume(Queue.TASKS, prefetch=100) as consumer:
        while messages > 0 and (deliveries := await consumer.take(min(100, messages), wait=0)):
            await consumer.ack(deliveries)
            messages -= len(deliveries)


async def _measure_state(engine: AsyncEngine, stage: str, messages: int) -> DrainState:
    claims = []
    broker = TableBroker(engine, low_share=0.0)
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        for _ in range(100):
            began = perf_counter()
            (delivery,) = await consumer.take(1, wait=0)
            claims.append(1000 * (perf_counter() - began))
            await consumer.ack([delivery])
    async with engine.connect() as conn:
        size = await conn.execute(text("SELECT pg_relation_size('ix_segmentation_queue_next')"))
        dead = await conn.execute(
            text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'segmentation_queue'")
        )
        return DrainState(
            stage,
            messages,
            median(claims),
            percentile_99(claims),
            size.scalar_one() / 2**20,
            dead.scalar_one(),
        )


async def _vacuum(engine: AsyncEngine) -> None:
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
        await conn.execute(text("VACUUM segmentation_queue"))


async def analyze(engine: AsyncEngine) -> None:
    """Update the statistics, as autovacuum does within about a minute after many inserts."""
    async with engine.begin() as conn:
        await conn.execute(text("ANALYZE"))


@asynccontextmanager
async def _old_snapshot(engine: AsyncEngine) -> AsyncIterator[None]:
    async with engine.execution_options(isolation_level="REPEATABLE READ").connect() as conn:
        await conn.execute(text("SELECT 1 FROM segmentation_queue LIMIT 1"))
        yield
