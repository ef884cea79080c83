"""The WebSocket `/api/live`: tasks, batches and the health of the site in their current state.

A client sends JSON. If it cannot send an Authorization header, its first message is `{"token": "…"}`. Then it sends
`{"watch": {"project_id": "…"}}` or `{"watch": {"batch_id": "…"}}`, and `unwatch` in the same way. It receives
messages of the types `tasks`, `batch`, `health` and `error`. The version of a batch is the sum of the versions of its
tasks, so a client can tell that it has the current state. The same state is never sent twice, and intermediate states
may be left out.
"""

import asyncio
import json
from contextlib import suppress
from uuid import UUID

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.api.auth import authenticate
from spheroseg.api.hub import Hub
from spheroseg.api.live_state import LiveClient
from spheroseg.database.accounts import User
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible
from spheroseg.database.watching import read_project_id
from spheroseg.errors import BadRequest, NotFound, SpherosegError, Unauthenticated
from spheroseg.resources import Resources

router = APIRouter()

TOKEN_TIMEOUT_SECONDS = 10.0
RIGHTS_CHECK_SECONDS = 30.0
# A client that receives nothing for this long is gone, or should connect again.
SEND_TIMEOUT_SECONDS = 60.0
MAX_WATCHED = 1000

# Close codes: 1013 is registered with IANA, 4000 to 4999 are for applications.
TRY_AGAIN_LATER = 1013
UNAUTHENTICATED = 4401
TOO_SLOW = 4408


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    resources: Resources = socket.app.state.resources
    hub: Hub = socket.app.state.hub
    await socket.accept()
    try:
        token = await _receive_token(socket)
        user = await authenticate(resources.engine, token)
    except SpherosegError as error:
        await _close(socket, error)
        return
    except (SQLAlchemyError, OSError):
        await socket.close(TRY_AGAIN_LATER, "the database does not answer: try again in a moment")
        return
    connection = _Connection(socket, resources, hub, user, token)
    hub.join(connection.client)
    try:
        await connection.run()
    finally:
        hub.leave(connection.client)


async def _receive_token(socket: WebSocket) -> str:
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    try:
        async with asyncio.timeout(TOKEN_TIMEOUT_SECONDS):
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
    """One client. watched: the project of everything that it watches, by kind (project_id or batch_id) and id."""

    def __init__(self, socket: WebSocket, resources: Resources, hub: Hub, user: User, token: str) -> None:
        self.socket = socket
        self.resources = resources
        self.hub = hub
        self.user = user
        self.token = token
        self.client = LiveClient()
        self.watched: dict[tuple[str, UUID], UUID] = {}

    async def run(self) -> None:
        """Serve the client until it disconnects, loses its rights, or no longer receives anything."""
        loops = [asyncio.create_task(loop()) for loop in (self._receive, self._send_changes, self._check_rights)]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    # A client that has disconnected is no error.
                    with suppress(WebSocketDisconnect, RuntimeError):
                        loop.result()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            text = await self.socket.receive_text()
            try:
                await self._handle(text)
            except SpherosegError as error:
                await self._send_error(error.code, str(error))
            except (SQLAlchemyError, OSError):
                await self._send_error("database_away", "the database does not answer: watch again in a moment")

    async def _handle(self, text: str) -> None:
        verb, kind, id_ = _parse(text)
        if verb == "unwatch":
            self._unwatch(kind, id_)
            return
        if len(self.watched) >= MAX_WATCHED:
            raise BadRequest(f"you watch {MAX_WATCHED} things already: watch a project instead of its batches")
        project_id = self.watched[kind, id_] = await self._read_visible_project(kind, id_)
        if kind == "project_id":
            self.hub.watch_project(self.client, project_id)
        else:
            self.hub.watch_batch(self.client, id_, project_id)

    def _unwatch(self, kind: str, id_: UUID) -> None:
        self.watched.pop((kind, id_), None)
        if kind == "batch_id":
            self.hub.unwatch_batch(self.client, id_)
            return
        self.hub.unwatch_project(self.client, id_)
        # Batches of the project that are watched by their own ids stay watched.
        for (other_kind, batch_id), project_id in self.watched.items():
            if other_kind == "batch_id" and project_id == id_:
                self.hub.watch_batch(self.client, batch_id, project_id)

    def _unwatch_all_of_project(self, lost_project_id: UUID) -> None:
        for key in [key for key, project_id in self.watched.items() if project_id == lost_project_id]:
            del self.watched[key]
            self._unwatch(*key)

    async def _read_visible_project(self, kind: str, id_: UUID) -> UUID:
        """Return the project that `id_` belongs to. Raise NotFound if the user may not see it."""
        async with reading(self.resources.engine) as conn:
            project_id = await read_project_id(conn, id_) if kind == "batch_id" else id_
            if project_id is None:
                raise NotFound("there is no such batch")
            await check_visible(conn, self.user.id, project_id)
            return project_id

    async def _send_changes(self) -> None:
        while True:
            await self.client.wake.wait()
            self.client.wake.clear()
            while (message := self.hub.next_message(self.client)) is not None:
                await self._send(message)

    async def _send_error(self, code: str, detail: str) -> None:
        await self._send(json.dumps({"type": "error", "code": code, "detail": detail}))

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await self.socket.send_text(text)
        except TimeoutError:
            await self.socket.close(TOO_SLOW, "nothing was read for too long: connect again")
            raise WebSocketDisconnect(TOO_SLOW) from None

    async def _check_rights(self) -> None:
        """Stop sending to a client whose token is revoked, or whose user was removed from the project."""
        while True:
            await asyncio.sleep(RIGHTS_CHECK_SECONDS)
            try:
                await authenticate(self.resources.engine, self.token)
                for (kind, id_), project_id in list(self.watched.items()):
                    try:
                        await self._read_visible_project(kind, id_)
                    except NotFound:
                        self._unwatch_all_of_project(project_id)
            except Unauthenticated as error:
                await _close(self.socket, error)
                return
            except (SQLAlchemyError, OSError):
                continue


def _parse(text: str) -> tuple[str, str, UUID]:
    """Return verb (watch or unwatch), kind (project_id or batch_id) and id of a request. Raise BadRequest."""
    try:
        request: object = json.loads(text)
        if isinstance(request, dict):
            ((verb, target),) = request.items()
            ((kind, id_),) = target.items()
            if verb in ("watch", "unwatch") and kind in ("project_id", "batch_id"):
                return verb, kind, UUID(id_)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise BadRequest('not understood: send {"watch": {"project_id": "…"}} or {"watch": {"batch_id": "…"}}')
