"""The command line: processes and questions."""

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

# Where the code of each command is. It is loaded when it is asked for, as all of it together takes a second to load.
COMMANDS = {
    "run": "run:run",
    "history": "history:history",
    "exporter": "exporter:exporter",
    "doctor": "doctor:doctor",
    "serve": "processes:serve",
    "worker": "processes:worker",
    "worker-http": "processes:worker_http",
    "relay": "processes:relay",
    "collect": "processes:collect",
    "settings": "settings:settings",
    "queue": "queues:queue_app",
    "dlq": "queues:dlq_app",
    "task": "queues:task_app",
    "broker": "queues:broker_app",
    "model": "models:model_app",
    "plate": "plate:plate_app",
    "simulate": "simulate:simulate_app",
    "db": "db:db_app",
    "user": "accounts:user_app",
    "token": "accounts:token_app",
}


class _Loaded(UserDict[str, Any]):
    """The commands by name, each loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            command = getattr(import_module(f"spheroseg.cli.{module}"), attribute)
            home = typer.Typer()
            if isinstance(command, typer.Typer):
                home.add_typer(command, name=name)
            else:
                home.command(name)(command)
            found = self[name] = get_group(home).commands[name]
        return found


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
            # A terminal that knows only ASCII must not stop a run over a file name.
            stream.reconfigure(errors="backslashreplace")
    # Answers go to stdout, and only they.
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
    """Segment microscope images of spheroids; look after the queue that does it."""
    if show:
        print(__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
