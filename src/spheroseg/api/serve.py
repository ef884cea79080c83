"""The backend process: HTTP and, as the settings say, collect, relay and workers beside it."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from spheroseg.api.app import create_app
from spheroseg.database.accounts import add_user, create_token, list_users, read_bearer
from spheroseg.errors import BadSettings, Conflict
from spheroseg.monitoring.heartbeat import heartbeat
from spheroseg.resources import Resources, open_resources
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.services import serve_collect, serve_relay, serve_worker
from spheroseg.settings import Settings

# Time for running requests to finish at shutdown. Then their connections are closed, and clients try again.
SHUTDOWN_SECONDS = 10
# A WebSocket client sends only its token and what it watches.
MAX_MESSAGE_BYTES = 64 * 1024
FIRST_USER = "admin"
FIRST_TOKEN = "serve"  # noqa: S105 (the name of a token)


class _Server(uvicorn.Server):
    def __init__(self, announce: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process handles its signals itself.
        yield


async def serve_backend(
    settings: Settings, stopping: asyncio.Event, announce: Callable[[str, str | None], None]
) -> None:
    """Serve until `stopping` is set. Call `announce` with the address and, in development, a token for it.

    Raise BadSettings if the secrets are weak in production or the port is in use, and ModelUnusable if there is no
    model of the name MODEL.
    """
    settings.refuse_weak_secrets()
    find_model(settings.model or DEFAULT_MODEL, settings.model_folders)
    async with (
        open_resources(settings) as resources,
        heartbeat(resources.engine, "backend"),
        asyncio.TaskGroup() as group,
    ):
        token = None if settings.in_production else await first_token(resources)
        server = _Server(
            lambda: announce(f"http://{settings.backend_host}:{settings.backend_port}", token),
            uvicorn.Config(
                create_app(resources),
                host=settings.backend_host,
                port=settings.backend_port,
                log_config=None,
                ws="websockets-sansio",
                ws_max_size=MAX_MESSAGE_BYTES,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                proxy_headers=False,
            ),
        )
        group.create_task(_serve_http(server, settings))
        if settings.serve_collect:
            group.create_task(serve_collect(settings, stopping))
        if settings.serve_relay and settings.enable_message_queue:
            group.create_task(serve_relay(settings, stopping))
        if settings.works_on_tasks:
            group.create_task(serve_worker(settings, stopping))
        await stopping.wait()
        server.should_exit = True


async def _serve_http(server: uvicorn.Server, settings: Settings) -> None:
    try:
        await server.serve()
    except SystemExit:
        raise BadSettings(
            f"cannot listen on {settings.backend_host}:{settings.backend_port}: another program may use it; "
            "set BACKEND_PORT to a free one"
        ) from None


async def first_token(resources: Resources) -> str | None:
    """Return the first administrator's token from its file in the data folder. Create both if there are no users.

    Return None if there are users and the file is missing or no longer valid, or if another backend creates them at
    the same moment.
    """
    file = resources.settings.spheroseg_data_dir.expanduser() / "token"
    async with resources.engine.begin() as conn:
        if file.exists() and await read_bearer(conn, file.read_text().strip()):
            return file.read_text().strip()
        if await list_users(conn):
            return None
        try:
            admin = await add_user(conn, FIRST_USER, role="admin")
        except Conflict:
            return None
        token, _ = await create_token(conn, admin.id, FIRST_TOKEN)
        _write_secret(file, token)
    return token


def _write_secret(file: Path, secret: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(f"{secret}\n")
