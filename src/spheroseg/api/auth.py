"""Who is asking: a bearer token, hashed in `api_tokens`."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.accounts import USED_SECONDS, User, note_use, read_bearer
from spheroseg.database.engine import DatabaseTime, reading
from spheroseg.errors import Forbidden, Unauthenticated
from spheroseg.services import Place

_bearer = HTTPBearer(auto_error=False, description="A token from `spheroseg token create`.")


def get_place(request: Request) -> Place:
    place: Place = request.app.state.place
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
        now = (await conn.execute(select(DatabaseTime()))).scalar_one()
    if used_at is None or (now - used_at).total_seconds() > USED_SECONDS:
        async with engine.begin() as conn:
            await note_use(conn, token_id)
    return user


async def current_user(
    place: Annotated[Place, Depends(get_place)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> User:
    return await authenticate(place.engine, credentials.credentials if credentials else None)


async def current_admin(user: Annotated[User, Depends(current_user)]) -> User:
    if not user.is_admin:
        raise Forbidden("this is for administrators: `spheroseg user set NAME --role admin` makes one")
    return user


ThePlace = Annotated[Place, Depends(get_place)]
TheUser = Annotated[User, Depends(current_user)]
TheAdmin = Annotated[User, Depends(current_admin)]
