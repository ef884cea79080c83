"""What a longer queue costs: every operation at several sizes of the backlog, which stays what it is meanwhile."""

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
SUBMIT = 10_000  # images in one submit, at most

CLAIMS = 200  # of each kind in one round at one size
SCANS = 5  # of each operation that may take seconds
SCAN_SECONDS = 2.0  # then no more of them in this round


@dataclass(frozen=True)
class Filled:
    size: int
    url: str
    per_second: float


async def fill(databases: Databases, sizes: Sequence[int]) -> list[Filled]:
    """A database for each size, the smaller ones being copies from on the way to the largest."""
    url = await databases.create("backlog")
    filled: list[Filled] = []
    queued, turn = 0, count()
    for size in sizes:
        engine = open_engine(url)
        began = perf_counter()
        missing = size - queued
        while queued < size:
            # Every user has a share of even the smallest backlog.
            images = min(SUBMIT, -(-missing // len(USERS)), size - queued)
            user, tier = USERS[next(turn) % len(USERS)]
            await submit_images(engine, images, user=user, tier=tier)
            queued += images
        per_second = missing / (perf_counter() - began)
        await engine.dispose()
        copy = url if size == sizes[-1] else await databases.copy("backlog", f"backlog_{size}")
        filled.append(Filled(size, copy, per_second))
    return filled


Timings = dict[str, list[float]]  # operation: milliseconds of each time


async def measure(engine: AsyncEngine, claims: int = CLAIMS) -> Timings:
    """One round at one size."""
    spent: Timings = defaultdict(list)
    for order, low_share in (("highest priority first", 0.0), ("lowest priority first", 1.0)):
        broker = TableBroker(engine, low_share=low_share)
        async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
            for _ in range(claims):
                began = perf_counter()
                (delivery,) = await consumer.take(1, wait=0)
                claimed = perf_counter()
                await consumer.ack([delivery])
                acked = perf_counter()
                # The same user's message again, at the end of their turns: the backlog stays as long as it was.
                await broker.publish([delivery.message])
                published = perf_counter()
                spent[f"claim, {order}"].append(claimed - began)
                spent[f"claim and ack, {order}"].append(acked - began)
                spent["publish one more task"].append(published - acked)
        async with broker.consume(Queue.DEAD_LETTERS, prefetch=1) as consumer:
            for _ in range(claims):
                began = perf_counter()
                await consumer.take(1, wait=0)
                spent["idle poll"].append(perf_counter() - began)
    scans: dict[str, Callable[[], Awaitable[Any]]] = {
        "wake_due": lambda: _writing(engine, queue.wake_due),
        "depth of the queue": lambda: TableBroker(engine).depth(Queue.TASKS),
        "progress (count_states)": lambda: _reading(engine, count_states),
        "sweep": lambda: sweep(engine, RetryPolicy()),
    }
    for operation, scan in scans.items():
        while len(spent[operation]) < SCANS and sum(spent[operation]) < SCAN_SECONDS:
            began = perf_counter()
            await scan()
            spent[operation].append(perf_counter() - began)
    return {operation: [1000 * seconds for seconds in all_] for operation, all_ in spent.items()}


async def _writing(engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async with engine.begin() as conn:
        return await action(conn)


async def _reading(engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async with reading(engine) as conn:
        return await action(conn)


# The operations whose plans are printed. Compiled from the code and caught on their way to the driver.
PLANNED: dict[str, Callable[[AsyncConnection], Awaitable[Any]]] = {
    "claim, highest priority first": lambda conn: queue.claim(conn, Queue.TASKS, 1, "plan", 30.0),
    "claim, lowest priority first": lambda conn: queue.claim(conn, Queue.TASKS, 1, "plan", 30.0, lowest_first=True),
    "turn of one more task": lambda conn: _turn(conn),
    "wake_due": queue.wake_due,
    "sweep": lambda conn: read_orphans(conn, 1000),
}


async def _turn(conn: AsyncConnection) -> None:
    q = segmentation_queue
    somebody = (await conn.execute(select(q.c.user_id, q.c.priority).limit(1))).one()
    await queue._next_turn(conn, Queue.TASKS, somebody.priority, somebody.user_id)


async def plan(engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[Any]]) -> str:
    """The database's plan of the last statement of `action`, with what it costs: no clock, so no noise.

    PostgreSQL tells the pages that it looked at; for SQLite the steps of its virtual machine are counted.
    """
    caught: list[tuple[str, Any]] = []

    def catch(_c: Any, _u: Any, statement: str, parameters: Any, *_: Any) -> None:
        caught.append((statement, parameters))

    explain = "EXPLAIN (ANALYZE, BUFFERS)" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    async with engine.connect() as conn:
        event.listen(engine.sync_engine, "before_cursor_execute", catch)
        await action(conn)
        event.remove(engine.sync_engine, "before_cursor_execute", catch)
        await conn.rollback()
        statement, parameters = caught[-1]
        lines = [row[-1] for row in await conn.exec_driver_sql(f"{explain} {statement}", parameters)]
        if engine.dialect.name == "sqlite":
            lines.append(f"{await _virtual_steps(conn, statement, parameters):,} steps of the virtual machine")
        await conn.rollback()
    return "\n".join(lines)


async def _virtual_steps(conn: AsyncConnection, statement: str, parameters: Any) -> int:
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
class Drained:
    """State of PostgreSQL's queue table after `messages` were taken from its front; times in ms."""

    what: str
    messages: int
    claim: float
    claim_99: float
    index_mib: float
    dead_rows: int


async def drain(engine: AsyncEngine, messages: int, steps: int = 5) -> list[Drained]:
    """Take `messages` off the backlog, twice: alone, and while somebody reads an old state of the database.

    Dead rows and index entries stay at the front of the queue, where every claim begins, until autovacuum comes.
    It never comes past the oldest snapshot that is still open.
    """
    rows = [await _drained(engine, "before", 0)]
    for step in range(1, steps + 1):
        await _take_away(engine, messages // steps)
        rows.append(await _drained(engine, "drained", step * messages // steps))
    await _vacuum(engine)
    rows.append(await _drained(engine, "vacuumed", messages))
    async with _old_snapshot(engine):
        for step in range(1, steps + 1):
            await _take_away(engine, messages // steps)
            rows.append(await _drained(engine, "drained, old snapshot open", messages + step * messages // steps))
    rows.append(await _drained(engine, "snapshot closed", 2 * messages))
    await _vacuum(engine)
    rows.append(await _drained(engine, "vacuumed", 2 * messages))
    return rows


async def _take_away(engine: AsyncEngine, messages: int) -> None:
    async with TableBroker(engine, low_share=0.0).consume(Queue.TASKS, prefetch=100) as consumer:
        while messages > 0 and (deliveries := await consumer.take(min(100, messages), wait=0)):
            await consumer.ack(deliveries)
            messages -= len(deliveries)


async def _drained(engine: AsyncEngine, what: str, messages: int) -> Drained:
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
        return Drained(
            what,
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
    """What autovacuum does within a minute or so after many rows have come."""
    async with engine.begin() as conn:
        await conn.execute(text("ANALYZE"))


@asynccontextmanager
async def _old_snapshot(engine: AsyncEngine) -> AsyncIterator[None]:
    async with engine.execution_options(isolation_level="REPEATABLE READ").connect() as conn:
        await conn.execute(text("SELECT 1 FROM segmentation_queue LIMIT 1"))
        yield
