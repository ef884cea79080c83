"""Users and their API tokens."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, insert_into
from spheroseg.database.schema import api_tokens as k
from spheroseg.database.schema import users as u
from spheroseg.errors import BadRequest, Conflict, NotFound

# With this prefix, secret scanners recognise a leaked token.
TOKEN_PREFIX = "spheroseg_"  # noqa: S105 (not the secret part)
TOKEN_BYTES = 32
LAST_USE_SECONDS = 60.0
MAX_NAME = 200
MAX_TOKEN_DAYS = 3650


@dataclass(frozen=True)
class User:
    """tier: `regular` or `premium`. role: `member` or `admin`."""

    id: UUID
    name: str
    tier: str
    role: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


class StoredUser(NamedTuple):
    """A user, and when it was added."""

    id: UUID
    name: str
    tier: str
    role: str
    created_at: datetime


class StoredToken(NamedTuple):
    """An API token without its secret. user: the name of its user."""

    id: UUID
    user_id: UUID
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    user: str


class Bearer(NamedTuple):
    """The user of a valid token."""

    user: User
    token_id: UUID
    last_used_at: datetime | None


async def add_user(conn: AsyncConnection, name: str, tier: str = "regular", role: str = "member") -> User:
    """Add a user. Raises Conflict if the name is taken, BadRequest if it is no valid name."""
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
    """Change the `tier` or the `role` of a user. Raises NotFound."""
    if values:
        await conn.execute(update(u).where(u.c.name == name).values(**values))
    return await find_user(conn, name)


async def find_user(conn: AsyncConnection, name: str) -> User:
    """Return the user called `name`. Raises NotFound."""
    row = (await conn.execute(select(u.c.id, u.c.name, u.c.tier, u.c.role).where(u.c.name == name))).first()
    if row is None:
        raise NotFound(f"there is no user {name!r}; `spheroseg user list` shows those there are")
    return User(**row._mapping)


async def list_users(conn: AsyncConnection) -> list[StoredUser]:
    """Return all users, sorted by name."""
    query = select(*(u.c[name] for name in StoredUser._fields)).order_by(u.c.name)
    return [StoredUser(*row) for row in await conn.execute(query)]


async def create_token(
    conn: AsyncConnection, user_id: UUID, name: str, lifetime: timedelta | None = None
) -> tuple[str, UUID]:
    """Create a token. Return it, because only its hash is stored, and its id.

    Raises Conflict if the user has, or had, a token of that name, and BadRequest if it is no valid name.
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


async def list_tokens(conn: AsyncConnection, user_id: UUID | None = None) -> list[StoredToken]:
    """Return the tokens of one user, or of all, sorted by user name and id."""
    query = _tokens().order_by(u.c.name, k.c.id)
    if user_id is not None:
        query = query.where(k.c.user_id == user_id)
    return [StoredToken(*row) for row in await conn.execute(query)]


async def page_of_tokens(conn: AsyncConnection, user_id: UUID, limit: int, after: UUID | None) -> list[StoredToken]:
    """Return up to `limit` tokens of a user, sorted by id. after: only those with a higher id."""
    query = _tokens().where(k.c.user_id == user_id).order_by(k.c.id).limit(limit)
    if after is not None:
        query = query.where(k.c.id > after)
    return [StoredToken(*row) for row in await conn.execute(query)]


async def read_token(conn: AsyncConnection, token_id: UUID) -> StoredToken:
    """Return a token that exists."""
    return StoredToken(*(await conn.execute(_tokens().where(k.c.id == token_id))).one())


def _tokens() -> Any:
    own = [k.c[name] for name in StoredToken._fields if name != "user"]
    return select(*own, u.c.name).join(u, u.c.id == k.c.user_id)


async def find_token(conn: AsyncConnection, user: User, name: str) -> UUID:
    """Return the id of the user's token called `name`. Raises NotFound."""
    query = select(k.c.id).where(k.c.user_id == user.id, k.c.name == name)
    token_id: UUID | None = (await conn.execute(query)).scalar_one_or_none()
    if token_id is None:
        raise NotFound(f"{user.name} has no token {name!r}; `spheroseg token list` shows those there are")
    return token_id


async def revoke_token(conn: AsyncConnection, user_id: UUID, token_id: UUID) -> None:
    """Revoke a token for good. The time of the first revocation is kept.

    Raises NotFound if the user has no such token.
    """
    result = await conn.execute(
        update(k)
        .where(k.c.user_id == user_id, k.c.id == token_id)
        .values(revoked_at=func.coalesce(k.c.revoked_at, DatabaseTime()))
    )
    if not result.rowcount:
        raise NotFound("there is no such token")


async def read_bearer(conn: AsyncConnection, token: str) -> Bearer | None:
    """Return the user of `token`, or None if the token is unknown, revoked or expired."""
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
    if row is None:
        return None
    return Bearer(User(row.id, row.name, row.tier, row.role), row.token_id, row.last_used_at)


async def record_use(conn: AsyncConnection, token_id: UUID) -> None:
    """Record that a token was used, to within `LAST_USE_SECONDS`."""
    await conn.execute(
        update(k)
        .where(
            k.c.id == token_id,
            or_(k.c.last_used_at.is_(None), k.c.last_used_at < DatabaseTime(-LAST_USE_SECONDS)),
        )
        .values(last_used_at=DatabaseTime())
    )


def _hashed(token: str) -> str:
    # A token has 256 random bits and cannot be guessed from its hash, so that no slow hash is needed.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
