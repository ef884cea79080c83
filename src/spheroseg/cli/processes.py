"""`spheroseg serve`, `worker`, `worker-http`, `relay`, `collect`: the processes of a site."""

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

    run_until_stopped(lambda settings, stopping: serve_backend(settings, stopping, announce))


def worker() -> None:
    """Take tasks from the queue and work on them until stopped."""
    run_until_stopped(serve_worker)


def worker_http() -> None:
    """Answer over HTTP for the worker on this machine: /health, /ready, /models, /metrics."""
    settings = read_settings()
    from spheroseg.api.ml import create_ml_app

    app = create_ml_app(settings.worker_status_file(), settings.model_folders)
    # A container's probes come from outside.
    serve_http(app, "0.0.0.0", settings.worker_http_port)  # noqa: S104


def relay() -> None:
    """Move tasks from the database to RabbitMQ until stopped."""
    run_until_stopped(serve_relay)


def collect() -> None:
    """Turn what workers report into the state of tasks until stopped."""
    run_until_stopped(serve_collect)


def run_until_stopped(service: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
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
