"""Authentication: a bearer token, whose hash is in `api_tokens`."""

import asyncio
from contextlib import suppress
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.accounts import LAST_USE_SECONDS, User, read_bearer, record_use
from spheroseg.database.engine import read_database_time, reading
from spheroseg.errors import Forbidden, Unauthenticated
from spheroseg.resources import Resources

_bearer = HTTPBearer(auto_error=False, description="A token from `spheroseg token create`.")


def get_resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def authenticate(engine: AsyncEngine, token: str | None) -> User:
    """Return the user of a token. Raise Unauthenticated if the token is missing, unknown, revoked or expired."""
    if not token:
        raise Unauthenticated("send a token as `Authorization: Bearer …`; `spheroseg token create` makes one")
    async with reading(engine) as conn:
        bearer = await read_bearer(conn, token)
        if bearer is None:
            raise Unauthenticated("this token is unknown, revoked or expired: ask for a new one")
        user, token_id, used_at = bearer
        now = await read_database_time(conn)
    if used_at is None or (now - used_at).total_seconds() > LAST_USE_SECONDS:
        _record_use_later(engine, token_id)
    return user


_recording: set[asyncio.Task[None]] = set()


def _record_use_later(engine: AsyncEngine, token_id: UUID) -> None:
    """Record the use of a token without delaying the request.

    Only one use is recorded at a time. A token that is used meanwhile is recorded at its next use.
    """
    if any(not task.done() for task in _recording):
        return
    task = asyncio.create_task(_record_use(engine, token_id))
    _recording.add(task)
    task.add_done_callback(_recording.discard)


async def finish_recording() -> None:
    """Wait until the last use is recorded. Call this before the engine is disposed of."""
    await asyncio.gather(*_recording, return_exceptions=True)


async def _record_use(engine: AsyncEngine, token_id: UUID) -> None:
    with suppress(SQLAlchemyError, OSError):
        async with engine.begin() as conn:
            await record_use(conn, token_id)


async def current_user(
    resources: Annotated[Resources, Depends(get_resources)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> User:
    return await authenticate(resources.engine, credentials.credentials if credentials else None)


async def current_admin(user: Annotated[User, Depends(current_user)]) -> User:
    if not user.is_admin:
        raise Forbidden("this is for administrators: `spheroseg user set NAME --role admin` makes one")
    return user


AppResources = Annotated[Resources, Depends(get_resources)]
CurrentUser = Annotated[User, Depends(current_user)]
CurrentAdmin = Annotated[User, Depends(current_admin)]
