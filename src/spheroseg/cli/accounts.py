"""`spheroseg user`, `token`: who may use the backend, and with which tokens."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.cli.output import Json, actor, print_rows
from spheroseg.database.accounts import (
    MAX_TOKEN_DAYS,
    User,
    add_user,
    change_user,
    create_token,
    find_token,
    find_user,
    list_tokens,
    list_users,
    revoke_token,
)
from spheroseg.database.audit import record
from spheroseg.database.engine import reading
from spheroseg.resources import open_resources
from spheroseg.settings import read_settings

T = TypeVar("T")

user_app = typer.Typer(help="Users of the backend: who there is, their tier and role.", no_args_is_help=True)
token_app = typer.Typer(help="API tokens: make one, list them, revoke one.", no_args_is_help=True)


class Tier(StrEnum):
    REGULAR = "regular"
    PREMIUM = "premium"


class Role(StrEnum):
    MEMBER = "member"
    ADMIN = "admin"


UserName = Annotated[str, typer.Argument(metavar="USER", help="Name of the user.")]


def _in_transaction(work: Callable[[AsyncConnection], Awaitable[T]], *, only_reads: bool = False) -> T:
    settings = read_settings()

    async def working() -> T:
        async with (
            open_resources(settings) as place,
            reading(place.engine) if only_reads else place.engine.begin() as conn,
        ):
            return await work(conn)

    return asyncio.run(working())


@user_app.command("add")
def user_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the user is called, and known by.")],
    tier: Annotated[Tier, typer.Option(help="A premium user's tasks go first.")] = Tier.REGULAR,
    role: Annotated[Role, typer.Option(help="An admin sees the queues and deals with dead letters.")] = Role.MEMBER,
) -> None:
    """Add a user."""

    async def add(conn: AsyncConnection) -> User:
        await record(conn, actor(), "user.add", user=name, tier=tier, role=role)
        return await add_user(conn, name, tier, role)

    user = _in_transaction(add)
    print(f"added {user.name} ({user.tier}, {user.role})")
    print("`spheroseg token create USER --name NAME` makes a token to work with.", file=sys.stderr)


@user_app.command("list")
def user_list(as_json: Json = False) -> None:
    """All users."""
    rows = [
        {column: getattr(row, column) for column in ("name", "tier", "role", "created_at")}
        for row in _in_transaction(list_users, only_reads=True)
    ]
    columns = ["name", "tier", "role", "created_at"]
    print_rows(rows, columns, as_json=as_json, nothing="No users yet: `spheroseg user add NAME` adds one.")


@user_app.command("set")
def user_set(
    name: UserName,
    tier: Annotated[Tier | None, typer.Option(help="For the batches from now on.")] = None,
    role: Annotated[Role | None, typer.Option(help="From the next request on.")] = None,
) -> None:
    """Give a user another tier or role."""
    values = {key: str(value) for key, value in (("tier", tier), ("role", role)) if value is not None}
    if not values:
        raise typer.BadParameter("say what is to change: --tier, --role, or both")

    async def change(conn: AsyncConnection) -> User:
        await record(conn, actor(), "user.set", user=name, **values)
        return await change_user(conn, name, **values)

    user = _in_transaction(change)
    print(f"{user.name} is {user.tier}, {user.role}")


@token_app.command("create")
def token_create(
    user: UserName,
    name: Annotated[str, typer.Option(help="What it is for, to know it by when it is to be revoked.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=MAX_TOKEN_DAYS, help="How long it is valid; by default until revoked.")
    ] = None,
) -> None:
    """Make a token. It is printed once, on stdout alone, and kept nowhere."""

    async def create(conn: AsyncConnection) -> str:
        owner = await find_user(conn, user)
        await record(conn, actor(), "token.create", user=user, name=name, days=days)
        token, _ = await create_token(conn, owner.id, name, timedelta(days=days) if days else None)
        return token

    token = _in_transaction(create)
    print(token)
    print("Keep it now: it is not shown again. Send it as `Authorization: Bearer TOKEN`.", file=sys.stderr)


@token_app.command("list")
def token_list(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Only this user's.")] = None,
    as_json: Json = False,
) -> None:
    """Tokens: whose, what for, how long; never the tokens themselves."""
    columns = ["user", "name", "created_at", "expires_at", "revoked_at", "last_used_at"]

    async def read(conn: AsyncConnection) -> list[dict[str, object]]:
        owner = await find_user(conn, user) if user is not None else None
        rows = await list_tokens(conn, owner.id if owner else None)
        return [{column: getattr(row, column) for column in columns} for row in rows]

    nothing = "No tokens yet: `spheroseg token create USER --name NAME` makes one."
    print_rows(_in_transaction(read, only_reads=True), columns, as_json=as_json, nothing=nothing)


@token_app.command("revoke")
def token_revoke(
    user: UserName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the token, see `spheroseg token list`.")],
) -> None:
    """Make a token useless, at once and for good."""

    async def revoke(conn: AsyncConnection) -> None:
        owner = await find_user(conn, user)
        await record(conn, actor(), "token.revoke", user=user, name=name)
        await revoke_token(conn, owner.id, await find_token(conn, owner, name))

    _in_transaction(revoke)
    print(f"revoked: {name} of {user}")
