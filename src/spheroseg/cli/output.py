"""Tables for people, JSON for programs."""

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

Json = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


# People copy these.
WHOLE = frozenset({"queue", "reason", "id", "name"})


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, nothing: str) -> None:
    """`nothing` is what a person reads where there are no rows."""
    rows = list(rows)
    if as_json:
        print_json(rows)
        return
    console = Console(soft_wrap=False)
    if not rows:
        console.print(nothing)
        return
    table = Table(show_edge=False, header_style="bold")
    # What says nothing in any row takes room from what does.
    columns = [column for column in columns if any(row[column] not in (None, False, "") for row in rows)]
    for column in columns:
        is_number = all(isinstance(row[column], (int, float)) or row[column] is None for row in rows)
        table.add_column(
            column.replace("_", " "),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=column in WHOLE,
        )
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console.print(table)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone; without a terminal to ask on, refuse and say how to go on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to ask: add --yes if you mean it")
    typer.confirm(question, abort=True)


def actor() -> str:
    """Who sits at the command line, for the audit trail."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        # In a container, as a user without a name.
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
