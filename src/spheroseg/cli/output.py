"""Print answers: tables for people, JSON for programs."""

import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]

# Columns that are never wrapped, because people copy their values.
UNBROKEN = frozenset({"queue", "reason", "id", "name"})


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, if_empty: str) -> None:
    """Print `rows` as a table without the columns that are empty in every row, or as JSON.

    if_empty: the sentence to print instead of an empty table.
    """
    rows = list(rows)
    if as_json:
        print_json(rows)
        return
    console = Console(soft_wrap=False)
    if not rows:
        console.print(if_empty)
        return
    table = Table(show_edge=False, header_style="bold")
    columns = [column for column in columns if any(row[column] not in (None, False, "") for row in rows)]
    for column in columns:
        is_number = all(isinstance(row[column], (int, float)) or row[column] is None for row in rows)
        table.add_column(
            column.replace("_", " "),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=column in UNBROKEN,
        )
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console.print(table)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an action that cannot be undone. Without a terminal, refuse and name the option that confirms."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("this needs a confirmation and there is no terminal to ask on: add --yes to confirm")
    typer.confirm(question, abort=True)


def duration(seconds: float) -> str:
    """Return a duration as people read it, such as `45 s`, `3 min 5 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """Return the number with its noun, such as `1 image` or `3 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def actor() -> str:
    """Return the name of the person at the command line, for the audit trail."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        # The user has no name, as often in a container.
        return f"cli:{os.getuid()}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return escape(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(type(value))
