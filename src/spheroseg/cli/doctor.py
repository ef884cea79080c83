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
    # What the checks meet is told by their findings.
    log_to(sys.stderr, logging.CRITICAL)
    console = Console()
    if as_json or not console.is_terminal:
        findings = asyncio.run(run_checks())
    else:
        with console.status("Checking …"):
            findings = asyncio.run(run_checks())
    if as_json:
        print_json(_plain(findings))
    else:
        _show(console, findings)
    if any(finding.verdict == Verdict.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _plain(findings: Iterable[CheckResult]) -> list[dict[str, Any]]:
    return [
        {"check": found.check, "verdict": found.verdict, "what": found.message, "what_to_do": found.advice or None}
        for found in findings
    ]


def _show(console: Console, findings: list[CheckResult]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(max_width=max(8, console.width // 4), overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    lines = list(_gathered(findings))
    next_steps = [*(found.advice for _, found in lines[1:]), ""]
    for (names, found), next_step in zip(lines, next_steps, strict=True):
        colour = COLOURS[found.verdict]
        quiet = "dim" if found.verdict == Verdict.SKIPPED else ""
        name, others = names[0], f"[dim] (so too {', '.join(names[1:])})[/]" if names[1:] else ""
        table.add_row(f"[{colour}]{found.verdict}[/]", escape(name), escape(found.message) + others, style=quiet)
        # The same advice is given once, below the last line that it is for.
        if found.advice and found.advice != next_step:
            table.add_row("", "", f"[cyan]→[/] {escape(found.advice)}", style=quiet)
    console.print(table, highlight=False)
    counts = Counter(found.verdict for found in findings)
    words = [
        _count(counts[Verdict.PROBLEM], "problem"),
        _count(counts[Verdict.WARNING], "warning"),
        f"{counts[Verdict.OK]} ok",
        f"{counts[Verdict.SKIPPED]} skipped" if counts[Verdict.SKIPPED] else "",
    ]
    console.print("\n" + ", ".join(filter(None, words)), highlight=False)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _gathered(findings: Iterable[CheckResult]) -> Iterator[tuple[list[str], CheckResult]]:
    """One line for what was skipped for the same reason."""
    for _, group in groupby(findings, lambda found: (found.verdict, found.message)):
        same = list(group)
        yield list(dict.fromkeys(found.check for found in same)), same[0]
