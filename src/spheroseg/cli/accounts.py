"""`spheroseg user`, `token`: manage users of the backend and their API tokens."""

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

user_app = typer.Typer(help="Add, list and change users of the backend.", no_args_is_help=True)
token_app = typer.Typer(help="Create, list and revoke API tokens.", no_args_is_help=True)


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
            open_resources(settings) as resources,
            reading(resources.engine) if only_reads else resources.engine.begin() as conn,
        ):
            return await work(conn)

    return asyncio.run(working())


@user_app.command("add")
def user_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique name of the new user.")],
    tier: Annotated[Tier, typer.Option(help="Tasks of premium users are processed first.")] = Tier.REGULAR,
    role: Annotated[Role, typer.Option(help="Admins can see the queues and handle dead letters.")] = Role.MEMBER,
) -> None:
    """Add a user."""

    async def add(conn: AsyncConnection) -> User:
        await record(conn, actor(), "user.add", user=name, tier=tier, role=role)
        return await add_user(conn, name, tier, role)

    user = _in_transaction(add)
    print(f"added {user.name} ({user.tier}, {user.role})")
    print("Create a token for this user with `spheroseg token create USER --name NAME`.", file=sys.stderr)


@user_app.command("list")
def user_list(as_json: Json = False) -> None:
    """List all users."""
    rows = [
        {column: getattr(row, column) for column in ("name", "tier", "role", "created_at")}
        for row in _in_transaction(list_users, only_reads=True)
    ]
    columns = ["name", "tier", "role", "created_at"]
    print_rows(
        rows, columns, as_json=as_json, if_empty="There are no users yet. Add one with `spheroseg user add NAME`."
    )


@user_app.command("set")
def user_set(
    name: UserName,
    tier: Annotated[Tier | None, typer.Option(help="New tier. It applies to new batches.")] = None,
    role: Annotated[Role | None, typer.Option(help="New role. It applies from the next request on.")] = None,
) -> None:
    """Change the tier or role of a user."""
    values = {key: str(value) for key, value in (("tier", tier), ("role", role)) if value is not None}
    if not values:
        raise typer.BadParameter("say what to change with --tier, --role, or both")

    async def change(conn: AsyncConnection) -> User:
        await record(conn, actor(), "user.set", user=name, **values)
        return await change_user(conn, name, **values)

    user = _in_transaction(change)
    print(f"{user.name} is {user.tier}, {user.role}")


@token_app.command("create")
def token_create(
    user: UserName,
    name: Annotated[str, typer.Option(help="Name of the token, by which you can revoke it later.")],
    days: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_TOKEN_DAYS, help="Number of days that it is valid. By default until it is revoked."
        ),
    ] = None,
) -> None:
    """Create a token and print it on stdout. Only its hash is stored, so it cannot be shown again."""

    async def create(conn: AsyncConnection) -> str:
        owner = await find_user(conn, user)
        await record(conn, actor(), "token.create", user=user, name=name, days=days)
        token, _ = await create_token(conn, owner.id, name, timedelta(days=days) if days else None)
        return token

    token = _in_transaction(create)
    print(token)
    print("Store it now, because it is not shown again. Send it as `Authorization: Bearer TOKEN`.", file=sys.stderr)


@token_app.command("list")
def token_list(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Only tokens of this user.")] = None,
    as_json: Json = False,
) -> None:
    """List tokens with their user, name and dates, but never the tokens themselves."""
    columns = ["user", "name", "created_at", "expires_at", "revoked_at", "last_used_at"]

    async def read(conn: AsyncConnection) -> list[dict[str, object]]:
        owner = await find_user(conn, user) if user is not None else None
        rows = await list_tokens(conn, owner.id if owner else None)
        return [{column: getattr(row, column) for column in columns} for row in rows]

    if_empty = "There are no tokens yet. Create one with `spheroseg token create USER --name NAME`."
    print_rows(_in_transaction(read, only_reads=True), columns, as_json=as_json, if_empty=if_empty)


@token_app.command("revoke")
def token_revoke(
    user: UserName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the token, see `spheroseg token list`.")],
) -> None:
    """Revoke a token, immediately and permanently."""

    async def revoke(conn: AsyncConnection) -> None:
        owner = await find_user(conn, user)
        await record(conn, actor(), "token.revoke", user=user, name=name)
        await revoke_token(conn, owner.id, await find_token(conn, owner, name))

    _in_transaction(revoke)
    print(f"revoked: {name} of {user}")
