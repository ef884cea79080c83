"""`spheroseg serve`, `worker`, `worker-http`, `relay`, `collect`: the long-running processes of a server."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from spheroseg.cli.stopping import stop_on_signal
from spheroseg.cli.web import serve_http
from spheroseg.errors import DatabaseAway
from spheroseg.logs import log_to
from spheroseg.services import serve_collect, serve_relay, serve_worker
from spheroseg.settings import Settings, read_settings


def serve() -> None:
    """Run the HTTP backend, with the collect process, relay and workers that the settings ask for.

    Without any settings, this one process does everything, with an SQLite database, for this machine only.
    """
    from spheroseg.api.serve import serve_backend

    def announce(address: str, token: str | None) -> None:
        print(f"spheroseg answers at {address}/api", flush=True)
        if token:
            print(f"token of the administrator: {token}", flush=True)
        else:
            print("tokens: `spheroseg token create USER --name NAME`; users: `spheroseg user add NAME`", flush=True)

    run_until_stopped(lambda settings, stopping: serve_backend(settings, stopping, announce))


def worker() -> None:
    """Segment the images of the queue until stopped."""
    run_until_stopped(serve_worker)


def worker_http() -> None:
    """Serve the status of the worker on this machine over HTTP: /health, /ready, /models, /metrics."""
    settings = read_settings()
    from spheroseg.api.ml import create_ml_app

    app = create_ml_app(settings.worker_status_file(), settings.model_folders)
    # The health probes of a container come from outside it.
    serve_http(app, "0.0.0.0", settings.worker_http_port)  # noqa: S104


def relay() -> None:
    """Move tasks from the database to RabbitMQ until stopped."""
    run_until_stopped(serve_relay)


def collect() -> None:
    """Apply the reports of workers to the tasks in the database until stopped."""
    run_until_stopped(serve_collect)


def run_until_stopped(service: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `service` with the settings until SIGINT or SIGTERM sets its event. Logs go to stderr as JSON lines."""
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
