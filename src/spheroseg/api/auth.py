"""Who is asking: a bearer token, hashed in `api_tokens`."""

import asyncio
from contextlib import suppress
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.accounts import LAST_USE_SECONDS, User, note_use, read_bearer
from spheroseg.database.engine import read_database_time, reading
from spheroseg.errors import Forbidden, Unauthenticated
from spheroseg.resources import Resources

_bearer = HTTPBearer(auto_error=False, description="A token from `spheroseg token create`.")


def get_place(request: Request) -> Resources:
    place: Resources = request.app.state.place
    return place


async def authenticate(engine: AsyncEngine, token: str | None) -> User:
    """Raises Unauthenticated where the token is missing, unknown, revoked or expired."""
    if not token:
        raise Unauthenticated("send a token as `Authorization: Bearer …`; `spheroseg token create` makes one")
    async with reading(engine) as conn:
        found = await read_bearer(conn, token)
        if found is None:
            raise Unauthenticated("this token is unknown, revoked or expired: ask for a new one")
        user, token_id, used_at = found
        now = await read_database_time(conn)
    if used_at is None or (now - used_at).total_seconds() > LAST_USE_SECONDS:
        _note_later(engine, token_id)
    return user


_noting: set[asyncio.Task[None]] = set()


def _note_later(engine: AsyncEngine, token_id: UUID) -> None:
    """Not in the way of the request: one at a time, and who comes meanwhile is noted the next time."""
    if any(not task.done() for task in _noting):
        return
    task = asyncio.create_task(_note(engine, token_id))
    _noting.add(task)
    task.add_done_callback(_noting.discard)


async def finish_notes() -> None:
    """Wait for what is still being noted, before the engine is disposed of."""
    await asyncio.gather(*_noting, return_exceptions=True)


async def _note(engine: AsyncEngine, token_id: UUID) -> None:
    with suppress(SQLAlchemyError, OSError):
        async with engine.begin() as conn:
            await note_use(conn, token_id)


async def current_user(
    place: Annotated[Resources, Depends(get_place)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> User:
    return await authenticate(place.engine, credentials.credentials if credentials else None)


async def current_admin(user: Annotated[User, Depends(current_user)]) -> User:
    if not user.is_admin:
        raise Forbidden("this is for administrators: `spheroseg user set NAME --role admin` makes one")
    return user


ThePlace = Annotated[Resources, Depends(get_place)]
TheUser = Annotated[User, Depends(current_user)]
TheAdmin = Annotated[User, Depends(current_admin)]
