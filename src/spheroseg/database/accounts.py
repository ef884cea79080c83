"""Users and their API tokens."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_into
from spheroseg.database.schema import api_tokens as k
from spheroseg.database.schema import users as u
from spheroseg.errors import BadRequest, Conflict, NotFound

# So that a leaked token is recognised by those who scan for such things.
TOKEN_PREFIX = "spheroseg_"  # noqa: S105 (not the secret part)
TOKEN_BYTES = 32
USED_SECONDS = 60.0
MAX_NAME = 200
MAX_TOKEN_DAYS = 3650


@dataclass(frozen=True)
class User:
    """tier: regular or premium. role: member, or admin."""

    id: UUID
    name: str
    tier: str
    role: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


async def add_user(conn: AsyncConnection, name: str, tier: str = "regular", role: str = "member") -> User:
    """Raises Conflict where there is one of that name, BadRequest where the name cannot be one."""
    if not name.strip() or name != name.strip() or len(name) > MAX_NAME or "/" in name or not name.isprintable():
        raise BadRequest(
            f"{name!r} cannot be a user's name: 1 to {MAX_NAME} printable characters, without a slash and without "
            "a space at either end"
        )
    user = User(uuid.uuid7(), name, tier, role)
    new = insert_into(conn, u).values(**vars(user), created_at=DatabaseTime()).on_conflict_do_nothing()
    if not (await conn.execute(new)).rowcount:
        raise Conflict(f"there is a user {name!r} already; `spheroseg user set` changes tier and role")
    return user


async def change_user(conn: AsyncConnection, name: str, **values: str) -> User:
    """Give a user another `tier` or `role`. Raises NotFound."""
    if values:
        await conn.execute(update(u).where(u.c.name == name).values(**values))
    return await find_user(conn, name)


async def find_user(conn: AsyncConnection, name: str) -> User:
    """Raises NotFound."""
    row = (await conn.execute(select(u.c.id, u.c.name, u.c.tier, u.c.role).where(u.c.name == name))).first()
    if row is None:
        raise NotFound(f"there is no user {name!r}; `spheroseg user list` shows those there are")
    return User(**row._mapping)


async def list_users(conn: AsyncConnection) -> Sequence[Any]:
    return (await conn.execute(select(u).order_by(u.c.name))).all()


async def create_token(
    conn: AsyncConnection, user_id: UUID, name: str, lifetime: timedelta | None = None
) -> tuple[str, UUID]:
    """A new token, which is shown once and kept nowhere, and its id.

    Raises Conflict where the user has, or had, a token of that name, BadRequest where the name cannot be one.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise BadRequest(f"{name!r} cannot be a token's name: 1 to {MAX_NAME} printable characters")
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    id_ = uuid.uuid7()
    values = {
        "id": id_,
        "user_id": user_id,
        "name": name,
        "token_sha256": _hashed(token),
        "created_at": DatabaseTime(),
        "expires_at": DatabaseTime(lifetime.total_seconds()) if lifetime else None,
    }
    try:
        async with conn.begin_nested():
            await conn.execute(insert(k).values(values))
    except IntegrityError:
        raise Conflict(
            f"that user has a token {name!r} already, or had one that was revoked: choose another name"
        ) from None
    return token, id_


async def list_tokens(conn: AsyncConnection, user_id: UUID | None = None) -> Sequence[Any]:
    """Tokens with the name of their user; never the tokens themselves."""
    columns = (k.c.id, k.c.user_id, k.c.name, k.c.created_at, k.c.expires_at, k.c.revoked_at, k.c.last_used_at)
    query = select(*columns, u.c.name.label("user")).join(u, u.c.id == k.c.user_id).order_by(u.c.name, k.c.id)
    if user_id is not None:
        query = query.where(k.c.user_id == user_id)
    return (await conn.execute(query)).all()


async def page_of_tokens(conn: AsyncConnection, user_id: UUID, limit: int, after: UUID | None) -> Sequence[Any]:
    """The user's tokens with an id above `after`, at most `limit` of them."""
    query = select(k).where(k.c.user_id == user_id).order_by(k.c.id).limit(limit)
    return (await conn.execute(query.where(k.c.id > after) if after else query)).all()


async def read_token(conn: AsyncConnection, token_id: UUID) -> Any:
    """Return the row of a token that exists."""
    return (await conn.execute(select(k).where(k.c.id == token_id))).one()


async def find_token(conn: AsyncConnection, user: User, name: str) -> UUID:
    """The id of that user's token. Raises NotFound."""
    found: UUID | None = (
        await conn.execute(select(k.c.id).where(k.c.user_id == user.id, k.c.name == name))
    ).scalar_one_or_none()
    if found is None:
        raise NotFound(f"{user.name} has no token {name!r}; `spheroseg token list` shows those there are")
    return found


async def revoke_token(conn: AsyncConnection, user_id: UUID, token_id: UUID) -> None:
    """At once and for good; when it was first revoked is kept. Raises NotFound where that user has no such token."""
    result = await conn.execute(
        update(k)
        .where(k.c.user_id == user_id, k.c.id == token_id)
        .values(revoked_at=func.coalesce(k.c.revoked_at, DatabaseTime()))
    )
    if not result.rowcount:
        raise NotFound("there is no such token")


async def read_bearer(conn: AsyncConnection, token: str) -> tuple[User, UUID, datetime | None] | None:
    """Whose valid token it is, its id, and when it was last used; None where it is unknown, revoked or expired."""
    row = (
        await conn.execute(
            select(u.c.id, u.c.name, u.c.tier, u.c.role, k.c.id.label("token_id"), k.c.last_used_at)
            .join(u, u.c.id == k.c.user_id)
            .where(
                k.c.token_sha256 == _hashed(token),
                k.c.revoked_at.is_(None),
                or_(k.c.expires_at.is_(None), k.c.expires_at > DatabaseTime()),
            )
        )
    ).first()
    return row and (User(row.id, row.name, row.tier, row.role), row.token_id, row.last_used_at)


async def note_use(conn: AsyncConnection, token_id: UUID) -> None:
    """Remember that a token was used; to the minute is enough."""
    await conn.execute(
        update(k)
        .where(k.c.id == token_id, or_(k.c.last_used_at.is_(None), k.c.last_used_at < DatabaseTime(-USED_SECONDS)))
        .values(last_used_at=DatabaseTime())
    )


def _hashed(token: str) -> str:
    # A token is 256 random bits: nobody guesses it from its hash, so no slow hash is needed.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
