"""`spheroseg doctor`: check a site and give advice."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spheroseg.cli.output import Json, print_json
from spheroseg.logs import log_to
from spheroseg.monitoring.doctor import CheckResult, Verdict, run_checks

COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red", Verdict.SKIPPED: "dim"}


def doctor(as_json: Json = False) -> None:
    """Check everything that this site needs and say what to do. Nothing is changed.

    Checks settings, database, processes, storage, model, RabbitMQ, queues, policies and clocks.

    Exit codes: 0 no problems, 1 at least one problem.
    """
    # The results report what goes wrong in a check.
    log_to(sys.stderr, logging.CRITICAL)
    console = Console()
    if as_json or not console.is_terminal:
        results = asyncio.run(run_checks())
    else:
        with console.status("Checking …"):
            results = asyncio.run(run_checks())
    if as_json:
        print_json(_plain(results))
    else:
        _show(console, results)
    if any(result.verdict == Verdict.PROBLEM for result in results):
        raise typer.Exit(1)


def _plain(results: Iterable[CheckResult]) -> list[dict[str, Any]]:
    return [
        {
            "check": result.check,
            "verdict": result.verdict,
            "what": result.message,
            "what_to_do": result.advice or None,
        }
        for result in results
    ]


def _show(console: Console, results: list[CheckResult]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(max_width=max(8, console.width // 4), overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    lines = list(_group(results))
    next_steps = [*(result.advice for _, result in lines[1:]), ""]
    for (names, result), next_step in zip(lines, next_steps, strict=True):
        colour = COLOURS[result.verdict]
        quiet = "dim" if result.verdict == Verdict.SKIPPED else ""
        name, others = names[0], f"[dim] (also {', '.join(names[1:])})[/]" if names[1:] else ""
        table.add_row(f"[{colour}]{result.verdict}[/]", escape(name), escape(result.message) + others, style=quiet)
        # Advice that applies to several lines in a row is printed once, after the last one.
        if result.advice and result.advice != next_step:
            table.add_row("", "", f"[cyan]→[/] {escape(result.advice)}", style=quiet)
    console.print(table, highlight=False)
    counts = Counter(result.verdict for result in results)
    words = [
        _count(counts[Verdict.PROBLEM], "problem"),
        _count(counts[Verdict.WARNING], "warning"),
        f"{counts[Verdict.OK]} ok",
        f"{counts[Verdict.SKIPPED]} skipped" if counts[Verdict.SKIPPED] else "",
    ]
    console.print("\n" + ", ".join(filter(None, words)), highlight=False)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _group(results: Iterable[CheckResult]) -> Iterator[tuple[list[str], CheckResult]]:
    """Yield results with the same verdict and message as one line, with the names of their checks."""
    for _, group in groupby(results, lambda result: (result.verdict, result.message)):
        same = list(group)
        yield list(dict.fromkeys(result.check for result in same)), same[0]
