"""Backends that listen on a port, and clients that watch them over WebSockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from spheroseg.api.app import create_app
from spheroseg.api.auth import finish_recording
from spheroseg.resources import Resources

from ..conftest import eventually
from .ports import free_port


@asynccontextmanager
async def listening(resources: Resources) -> AsyncIterator[str]:
    """Serve a backend on its own port in this process. Yield its address without the scheme."""
    port = free_port()
    config = uvicorn.Config(create_app(resources), port=port, ws="websockets-sansio", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    try:
        await eventually(lambda: server.started)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        await serving
        await finish_recording()


class Watcher:
    """The state of a client after all messages that it has received."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.tasks: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.health: dict[str, Any] = {}
        self.errors: list[dict[str, Any]] = []
        self.messages = 0

    async def read(self) -> None:
        """Apply all messages until the connection ends."""
        async for text in self.socket:
            self.apply(json.loads(text))

    def apply(self, message: dict[str, Any]) -> None:
        self.messages += 1
        match message["type"]:
            case "tasks":
                self.tasks.update(
                    {task["id"]: {**task, "batch_id": message["batch_id"]} for task in message["tasks"]}
                )
            case "batch":
                self.batches[message["batch"]["id"]] = message["batch"]
            case "health":
                self.health = message["health"]
            case "error":
                self.errors.append(message)

    def knows(self, batch_id: str) -> bool:
        """Return whether the versions of the tasks add up to the version of the batch."""
        known = sum(task["version"] for task in self.tasks.values() if task["batch_id"] == batch_id)
        return batch_id in self.batches and known == self.batches[batch_id]["version"]


@asynccontextmanager
async def watching(address: str, token: str, **watched: str) -> AsyncIterator[Watcher]:
    """Connect a client that watches `watched` (project_id or batch_id) and reads all the time."""
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(f"ws://{address}/api/live", additional_headers=headers, max_size=None) as socket:
        watcher = Watcher(socket)
        for kind, id_ in watched.items():
            await socket.send(json.dumps({"watch": {kind: id_}}))
        reading = asyncio.create_task(watcher.read())
        try:
            yield watcher
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
