"""The command line: processes and questions."""

import asyncio
import io
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from spheroseg import __version__
from spheroseg.cli.accounts import token_app, user_app
from spheroseg.cli.db import db_app
from spheroseg.cli.doctor import doctor
from spheroseg.cli.evaluate import evaluate
from spheroseg.cli.exporter import exporter
from spheroseg.cli.history import history
from spheroseg.cli.models import model_app
from spheroseg.cli.plate import plate_app
from spheroseg.cli.queues import broker_app, dlq_app, queue_app, task_app
from spheroseg.cli.run import run
from spheroseg.cli.simulate import simulate_app
from spheroseg.cli.stopping import stop_on_signal
from spheroseg.cli.train import train
from spheroseg.cli.web import serve_http
from spheroseg.errors import DatabaseAway, SpherosegError
from spheroseg.logs import log_to
from spheroseg.services import serve_collect, serve_relay, serve_worker
from spheroseg.settings import Settings, read_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(run)
app.command()(history)
app.add_typer(queue_app, name="queue")
app.add_typer(dlq_app, name="dlq")
app.add_typer(task_app, name="task")
app.add_typer(broker_app, name="broker")
app.command()(exporter)
model_app.command()(evaluate)
model_app.command()(train)
app.add_typer(model_app, name="model")
app.add_typer(plate_app, name="plate")
app.add_typer(simulate_app, name="simulate")
app.add_typer(db_app, name="db")
app.add_typer(user_app, name="user")
app.add_typer(token_app, name="token")
app.command()(doctor)


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
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _unwrapped(command: Callable[[], None]) -> None:
    """Several tasks that fail together fail for one reason, as a rule: show that one."""
    try:
        command()
    except* SpherosegError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


@app.command()
def serve() -> None:
    """Answer over HTTP, and run beside it what the settings ask for: collect, relay, workers.

    With no settings at all this is everything in one process, on SQLite, for this machine alone.
    """
    from spheroseg.api.serve import serve_backend

    def announce(address: str, token: str | None) -> None:
        print(f"spheroseg answers at {address}/api", flush=True)
        if token:
            print(f"token of the administrator: {token}", flush=True)
        else:
            print("tokens: `spheroseg token create USER --name NAME`; users: `spheroseg user add NAME`", flush=True)

    _serve(lambda settings, stopping: serve_backend(settings, stopping, announce))


@app.command()
def worker() -> None:
    """Take tasks from the queue and work on them until stopped."""
    _serve(serve_worker)


@app.command(name="worker-http")
def worker_http() -> None:
    """Answer over HTTP for the worker on this machine: /health, /ready, /models, /metrics."""
    settings = read_settings()
    from spheroseg.api.ml import create_ml_app

    app = create_ml_app(settings.worker_status_file(), settings.model_folders)
    # A container's probes come from outside.
    serve_http(app, "0.0.0.0", settings.worker_http_port)  # noqa: S104


@app.command()
def relay() -> None:
    """Move tasks from the database to RabbitMQ until stopped."""
    _serve(serve_relay)


@app.command(name="collect")
def collect_command() -> None:
    """Turn what workers report into the state of tasks until stopped."""
    _serve(serve_collect)


def _serve(service: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    settings = read_settings()
    log_to()

    async def serve() -> None:
        stopping = asyncio.Event()
        stop_on_signal(stopping)
        await service(settings, stopping)

    try:
        asyncio.run(serve())
    except* (SQLAlchemyError, OSError) as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise DatabaseAway(f"the database does not answer ({cause}): check DATABASE_URL") from cause


@app.command(name="settings")
def settings_command() -> None:
    """Show every setting, its value, where it comes from, and what it means."""
    settings = read_settings()
    table = Table(show_edge=False, header_style="bold")
    for column in ("variable", "value", "from", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in Settings.model_fields.items():
        source = "set" if name in settings.model_fields_set else "default"
        value = "" if source == "default" and not getattr(settings, name) else str(getattr(settings, name))
        if not field.repr:
            value = "(hidden)"
        table.add_row(name.upper(), escape(_without_password(value)), source, escape(field.description or ""))
    Console().print(table)


def _without_password(value: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(value).render_as_string(hide_password=True) if "://" in value else value
    except ArgumentError:
        return value


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
