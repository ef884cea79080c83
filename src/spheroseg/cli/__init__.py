"""The command line. Each command has its own module, which is loaded when the command is used."""

import io
import logging
import sys
from collections import UserDict
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup
from typer.main import get_group

from spheroseg import __version__
from spheroseg.errors import SpherosegError
from spheroseg.extras import describe_missing, extra_of
from spheroseg.logs import log_to

# The module and attribute of each command. Loading all of them would take a second.
COMMANDS = {
    "run": "run:run",
    "history": "history:history",
    "plate": "plate:plate_app",
    "model": "models:model_app",
    "simulate": "simulate:simulate_app",
    "serve": "processes:serve",
    "worker": "processes:worker",
    "worker-http": "processes:worker_http",
    "relay": "processes:relay",
    "collect": "processes:collect",
    "exporter": "exporter:exporter",
    "doctor": "doctor:doctor",
    "settings": "settings:settings",
    "queue": "queue:queue_app",
    "dlq": "dead_letters:dlq_app",
    "task": "task:task_app",
    "broker": "broker:broker_app",
    "db": "db:db_app",
    "user": "accounts:user_app",
    "token": "accounts:token_app",
}


# The groups of `spheroseg --help`.
PANELS = {
    "On this computer": ("run", "history", "plate", "model", "simulate"),
    "Server processes": ("serve", "worker", "worker-http", "relay", "collect", "exporter"),
    "Server maintenance": ("doctor", "settings", "queue", "dlq", "task", "broker", "db", "user", "token"),
}


class _Loaded(UserDict[str, Any]):
    """The commands by name. Each one is loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if isinstance(command, str):
            module, _, attribute = command.partition(":")
            command = getattr(import_module(f"spheroseg.cli.{module}"), attribute)
            panel = next(panel for panel, names in PANELS.items() if name in names)
            home = typer.Typer()
            if isinstance(command, typer.Typer):
                home.add_typer(command, name=name, rich_help_panel=panel)
            else:
                home.command(name, rich_help_panel=panel)(command)
            command = self[name] = get_group(home).commands[name]
            _join_lines(command)
        return command


def _join_lines(command: Any) -> None:
    """Join the lines of each paragraph of the help, so that it is wrapped at the width of the terminal."""
    if command.help:
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in command.help.split("\n\n"))
    for subcommand in getattr(command, "commands", {}).values():
        _join_lines(subcommand)


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Loaded(COMMANDS)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that can only show ASCII must not stop a run because of a file name.
            stream.reconfigure(errors="backslashreplace")
    # Only answers go to stdout.
    log_to(sys.stderr, logging.WARNING)
    try:
        _unwrapped(app)
    except SpherosegError as error:
        _exit_with(str(error))
    except ModuleNotFoundError as error:
        extra = extra_of(error)
        if extra is None:
            raise
        command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
        _exit_with(describe_missing(extra, f"spheroseg {command}".strip()))


def _exit_with(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _unwrapped(command: Callable[[], None]) -> None:
    """Run `command`. Of several tasks that fail together, raise one error: as a rule they have the same cause."""
    try:
        command()
    except* (SpherosegError, ModuleNotFoundError) as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Segment microscope images of spheroids and measure their growth.

    `spheroseg run` is all that one computer needs. The other commands run and maintain a server with a task queue.
    """
    if show:
        print(__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
