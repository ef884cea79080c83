"""The WebSocket `/api/live`: tasks, batches and the health of the whole, as they are now.

A client sends JSON: `{"token": "…"}` first, where it cannot send an Authorization header; then
`{"watch": {"project_id": "…"}}` or `{"watch": {"batch_id": "…"}}`, and `unwatch` likewise. It receives messages of
the types `tasks`, `batch`, `health` and `error`. A batch's `version` is the sum of its tasks' versions, so a client
can tell that it has the true state. Nothing is sent twice in the same state, and intermediate states may be left out.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any
from uuid import UUID

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.api.auth import authenticate
from spheroseg.api.hub import Client, Hub
from spheroseg.database.accounts import User
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible
from spheroseg.database.watching import read_project_id
from spheroseg.errors import BadRequest, NotFound, SpherosegError, Unauthenticated
from spheroseg.resources import Resources

router = APIRouter()

TOKEN_SECONDS = 10.0
RIGHTS_SECONDS = 30.0
# A client that takes nothing for so long is gone, or might as well be: it can come again.
SEND_SECONDS = 60.0
MOST_WATCHES = 1000

UNAUTHENTICATED = 4401
TOO_SLOW = 4408


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    resources: Resources = socket.app.state.resources
    hub: Hub = socket.app.state.hub
    await socket.accept()
    try:
        token = await _token(socket)
        user = await authenticate(resources.engine, token)
    except SpherosegError as error:
        await _close(socket, error)
        return
    except (SQLAlchemyError, OSError):
        await socket.close(1013, "the database does not answer: try again in a moment")
        return
    connection = _Connection(socket, resources, hub, user, token)
    hub.join(connection.client)
    try:
        await connection.run()
    finally:
        hub.leave(connection.client)


async def _token(socket: WebSocket) -> str:
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    try:
        async with asyncio.timeout(TOKEN_SECONDS):
            message = json.loads(await socket.receive_text())
    except (TimeoutError, ValueError, KeyError, RecursionError, WebSocketDisconnect):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("token"), str):
        raise Unauthenticated('send a token: in the Authorization header, or as the first message {"token": "…"}')
    return str(message["token"])


async def _close(socket: WebSocket, error: SpherosegError) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_json({"type": "error", "code": error.code, "detail": str(error)})
        await socket.close(UNAUTHENTICATED, error.code)


class _Connection:
    def __init__(self, socket: WebSocket, resources: Resources, hub: Hub, user: User, token: str) -> None:
        self.socket = socket
        self.resources = resources
        self.hub = hub
        self.user = user
        self.token = token
        self.client = Client()
        self.watched: dict[tuple[str, UUID], UUID] = {}

    async def run(self) -> None:
        """Until the client goes, or loses its rights, or takes nothing any more."""
        parts = [asyncio.create_task(part()) for part in (self._listen, self._tell, self._check_rights)]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    # A client that has gone is no error.
                    with suppress(WebSocketDisconnect, RuntimeError):
                        part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            text = await self.socket.receive_text()
            try:
                await self._obey(text)
            except SpherosegError as error:
                await self._send(json.dumps({"type": "error", "code": error.code, "detail": str(error)}))
            except (SQLAlchemyError, OSError):
                detail = "the database does not answer: watch again in a moment"
                await self._send(json.dumps({"type": "error", "code": "database_away", "detail": detail}))

    async def _obey(self, text: str) -> None:
        verb, kind, id_ = _read(text)
        if verb == "unwatch":
            self._forget(kind, id_)
            return
        if len(self.watched) >= MOST_WATCHES:
            raise BadRequest(f"{MOST_WATCHES} things are watched already: watch a project instead of its batches")
        project_id = self.watched[kind, id_] = await self._project(kind, id_)
        if kind == "project_id":
            self.hub.watch_project(self.client, project_id)
        else:
            self.hub.watch_batch(self.client, id_, project_id)

    def _forget(self, kind: str, id_: UUID) -> None:
        self.watched.pop((kind, id_), None)
        if kind == "batch_id":
            self.hub.unwatch_batch(self.client, id_)
            return
        self.hub.unwatch_project(self.client, id_)
        # What is watched by its own id goes on.
        for (kept, batch_id), project_id in self.watched.items():
            if kept == "batch_id" and project_id == id_:
                self.hub.watch_batch(self.client, batch_id, project_id)

    def _lose(self, kind: str, id_: UUID) -> None:
        lost = self.watched.get((kind, id_))
        for key in [key for key, project_id in self.watched.items() if project_id == lost]:
            del self.watched[key]
            self._forget(*key)

    async def _project(self, kind: str, id_: UUID) -> UUID:
        """The project that it belongs to. Raises NotFound where the user may not see it."""
        async with reading(self.resources.engine) as conn:
            project_id: UUID | None = id_
            if kind == "batch_id":
                project_id = await read_project_id(conn, id_)
            if project_id is None:
                raise NotFound("there is no such batch")
            await check_visible(conn, self.user.id, project_id)
            return project_id

    async def _tell(self) -> None:
        while True:
            await self.client.wake.wait()
            self.client.wake.clear()
            while (message := self.client.next_message(self.hub)) is not None:
                await self._send(message)

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.socket.send_text(text)
        except TimeoutError:
            await self.socket.close(TOO_SLOW, "nothing was read for too long: connect again")
            raise WebSocketDisconnect(TOO_SLOW) from None

    async def _check_rights(self) -> None:
        """A token that is revoked, and a member who is removed, see nothing more."""
        while True:
            await asyncio.sleep(RIGHTS_SECONDS)
            try:
                await authenticate(self.resources.engine, self.token)
                for kind, id_ in list(self.watched):
                    try:
                        await self._project(kind, id_)
                    except NotFound:
                        self._lose(kind, id_)
            except Unauthenticated as error:
                await _close(self.socket, error)
                return
            except (SQLAlchemyError, OSError):
                continue


def _read(text: str) -> tuple[str, str, UUID]:
    """What a client asks: (watch or unwatch, project_id or batch_id, the id). Raises BadRequest."""
    try:
        asked: Any = json.loads(text)
        ((verb, what),) = asked.items()
        ((kind, id_),) = what.items()
        if verb in ("watch", "unwatch") and kind in ("project_id", "batch_id"):
            return verb, kind, UUID(id_)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise BadRequest('not understood: send {"watch": {"project_id": "…"}} or {"watch": {"batch_id": "…"}}')
