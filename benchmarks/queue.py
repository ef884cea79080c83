"""Measures the task system with a model that does nothing: tasks per second, and the cost of a longer queue.

Prints medians (minimum to maximum) of the rounds. Sizes and databases alternate within a round, and a ratio is taken
within its round, because the speed of a shared machine drifts.
"""

import sys
from pathlib import Path

# Python puts the folder of a script first on its path, where this file would hide the standard library's `queue`.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from benchmarks import backlog, throughput
from benchmarks.databases import Databases, postgresql, sqlite
from benchmarks.figures import percentile_99, print_table, spread
from benchmarks.throughput import Workers
from spheroseg.database.engine import open_engine
from spheroseg.logs import log_to

DESCRIPTION = """Measure submit -> table -> worker -> collect with a model that does nothing, on SQLite and on a
private PostgreSQL server, and the cost of a longer queue. Prints Markdown tables."""

STEP_TASKS = 200
FRESH_CLAIMS = 30
ONE, FOUR, FOUR_PROCESSES = Workers(1), Workers(4), Workers(4, processes=True)


async def compare_throughput(databases: Sequence[Databases], tasks: int, repeats: int) -> None:
    """Print tasks per second by database and number of workers."""
    cases = [(database, workers) for database in databases for workers in (ONE, FOUR, FOUR_PROCESSES)]
    rates: dict[tuple[str, str], list[float]] = {(database.name, str(workers)): [] for database, workers in cases}
    for repeat in range(repeats):
        for number, (database, workers) in enumerate(cases):
            url = await database.create(f"throughput_{repeat}_{number}")
            rates[database.name, str(workers)].append(await throughput.measure(url, workers, tasks))
    print_table(
        f"Tasks per second, first submit to last finished task, {tasks:,} tasks",
        ["database", "workers", "tasks/s"],
        [[*case, spread(values)] for case, values in rates.items()],
    )


async def compare_steps(databases: Sequence[Databases], repeats: int) -> None:
    """Print the time of each step of a task by database."""
    rounds: dict[str, list[dict[str, float]]] = {database.name: [] for database in databases}
    for repeat in range(repeats):
        for database in databases:
            url = await database.create(f"steps_{repeat}")
            rounds[database.name].append(await throughput.measure_steps(url, STEP_TASKS))
    columns = {name: throughput.step_rows(database_rounds) for name, database_rounds in rounds.items()}
    print_table(
        "Milliseconds per task in each step, one step after the other",
        ["step", *columns],
        [[step, *(spread(rows[step]) for rows in columns.values())] for step in next(iter(columns.values()))],
    )


async def compare_backlogs(databases: Databases, sizes: Sequence[int], repeats: int, drain: int) -> None:
    """Print the time of each operation by size of the backlog, the plans, and the effect of dead rows."""
    filled = await backlog.fill(databases, sizes)
    engines = {full.size: open_engine(full.url) for full in filled}
    if databases.name == "PostgreSQL":
        # The planner has no statistics yet about the tasks that were just submitted.
        fresh = {size: await backlog.measure(engine, FRESH_CLAIMS) for size, engine in engines.items()}
        _print_backlogs("PostgreSQL, in the first moments, before ANALYZE", filled, [fresh])
        for engine in engines.values():
            await backlog.analyze(engine)
    rounds: list[dict[int, backlog.Timings]] = []
    for repeat in range(repeats):
        # Each round starts with another size.
        order = [*sizes[repeat % len(sizes) :], *sizes[: repeat % len(sizes)]]
        rounds.append({size: await backlog.measure(engines[size]) for size in order})
    _print_backlogs(databases.name, filled, rounds)
    for operation, action in backlog.PLANNED.items():
        for size in dict.fromkeys((sizes[0], sizes[-1])):
            print(f"\n{databases.name}, {size:,} queued, {operation}:\n")
            print(await backlog.plan(engines[size], action), flush=True)
    if drain and databases.name == "PostgreSQL":
        # `drain` messages are taken twice, and the rest must still be a backlog.
        rows = await backlog.drain(engines[sizes[-1]], min(drain, sizes[-1] // 3))
        print_table(
            f"{databases.name}, {sizes[-1]:,} queued, then drained with autovacuum at its defaults",
            ["", "messages", "claim ms", "p99", "index MiB", "dead rows"],
            [
                [
                    row.stage,
                    f"{row.messages:,}",
                    spread([row.claim]),
                    spread([row.claim_99]),
                    f"{row.index_mib:.1f}",
                    f"{row.dead_rows:,}",
                ]
                for row in rows
            ],
        )
    for engine in engines.values():
        await engine.dispose()


def _print_backlogs(
    name: str, filled: Sequence[backlog.FilledDatabase], rounds: Sequence[dict[int, backlog.Timings]]
) -> None:
    sizes = [full.size for full in filled]
    rows = [["submit, tasks/s on the way there", *(spread([full.per_second]) for full in filled), ""]]
    for operation in rounds[0][sizes[0]]:
        medians = {size: [median(timings[size][operation]) for timings in rounds] for size in sizes}
        ratios = [largest / smallest for smallest, largest in zip(medians[sizes[0]], medians[sizes[-1]], strict=True)]
        rows.append([f"{operation}, ms", *(spread(medians[size]) for size in sizes), spread(ratios)])
        if operation.startswith("claim,"):
            pooled = {size: [ms for timings in rounds for ms in timings[size][operation]] for size in sizes}
            rows.append([f"{operation}, p99", *(spread([percentile_99(pooled[size])]) for size in sizes), ""])
    print_table(
        f"{name}: what a longer queue costs",
        ["queued tasks", *(f"{size:,}" for size in sizes), f"ratio {sizes[-1]:,} to {sizes[0]:,}"],
        rows,
    )


async def main(arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        databases: list[Databases] = []
        if arguments.database in ("sqlite", "both"):
            databases.append(stack.enter_context(sqlite()))
        if arguments.database in ("postgres", "both"):
            if server := stack.enter_context(postgresql()):
                databases.append(server)
            else:
                print("PostgreSQL is not installed here and is left out: make servers")
        if not databases:
            return
        if arguments.tasks:
            await compare_throughput(databases, arguments.tasks, arguments.repeats)
            await compare_steps(databases, arguments.repeats)
        for database in databases:
            await compare_backlogs(database, arguments.backlogs, arguments.repeats, arguments.drain)


def _sizes(argument: str) -> list[int]:
    sizes = sorted({int(size) for size in argument.split(",")})
    if sizes[0] < 1000:
        raise argparse.ArgumentTypeError("a backlog is at least 1000 tasks")
    return sizes


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--tasks", type=int, default=200, help="tasks of a throughput run (%(default)s); 0: none")
    parser.add_argument(
        "--backlogs",
        type=_sizes,
        default="1000,10000,100000",
        help="sizes of the queue (%(default)s); 1000000 takes about 15 minutes and 4 GB of disk more",
    )
    parser.add_argument(
        "--drain",
        type=int,
        default=10_000,
        help="messages to take off PostgreSQL's longest queue (%(default)s); 0: none",
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    # Otherwise, a terminated benchmark would leave its PostgreSQL server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open(os.devnull, "w") as log:
        # Log entries are rendered as usual and then discarded.
        log_to(log)
        asyncio.run(main(_parse()))
