"""`spheroseg db`: which revision the schema is at, and the way to another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.cli.output import Yes, confirm
from spheroseg.database import revisions
from spheroseg.database.engine import open_engine, raise_if_unreachable
from spheroseg.database.revision_scripts import revision_script
from spheroseg.settings import read_settings

T = TypeVar("T")

db_app = typer.Typer(help="The database's schema: its revision, and the way to another.", no_args_is_help=True)

EMPTY = f"the database has no tables of spheroseg yet: {revisions.UPGRADE}"


def _ask(question: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Without a look at the schema first: it may be one that nothing else can work with."""
    url = read_settings().resolved_database_url()

    async def asking() -> T:
        engine = open_engine(url)
        try:
            with raise_if_unreachable():
                return await question(engine)
        finally:
            await engine.dispose()

    return asyncio.run(asking())


@db_app.command("current")
def db_current() -> None:
    """Show the revision that the database is at."""
    found = _ask(revisions.current)
    if found is None:
        print(EMPTY)
    elif found == revisions.HEAD:
        print(f"{found}: the newest")
    elif found in revisions.REVISIONS:
        print(f"{found}: tasks can be worked on from the database; for the message queue {revisions.UPGRADE}")
    else:
        print(f"{found}: not known to this version, which knows {', '.join(revisions.REVISIONS)}")


@db_app.command("upgrade")
def db_upgrade(
    revision: Annotated[str, typer.Argument(help="Revision to go to; by default the newest.")] = revisions.HEAD,
) -> None:
    """Bring the schema up, or make it. Work may go on meanwhile; restart the processes afterwards."""

    async def go(engine: AsyncEngine) -> tuple[str | None, str | None]:
        return await revisions.upgrade(engine, revision)

    before, after = _ask(go)
    if before == after:
        print(f"The database is at revision {after} already: nothing to do.")
    else:
        print(f"The database is at revision {after} now (before: {before or 'empty'}).")


@db_app.command("downgrade")
def db_downgrade(
    revision: Annotated[str, typer.Argument(help=f"Revision to go back to, such as {revisions.BASE}.")],
    yes: Yes = False,
) -> None:
    """Bring the schema back. The record of failures is kept aside, and found again by the next upgrade.

    Set ENABLE_MESSAGE_QUEUE=false first, and restart the processes afterwards.
    """
    confirm(f"Bring the schema back to revision {revision}?", yes=yes)

    async def go(engine: AsyncEngine) -> tuple[str | None, str | None, bool]:
        before, after = await revisions.downgrade(engine, revision)
        return before, after, engine.dialect.name == "sqlite"

    before, after, is_embedded = _ask(go)
    if before == after:
        print(f"The database is at revision {after} already: nothing to do.")
        return
    print(f"The database is at revision {after} now (before: {before}); its failures are kept aside.")
    if is_embedded:
        print("An embedded database is brought up again by whichever process opens it next.")


@db_app.command("sql")
def db_sql(
    way: Annotated[str, typer.Argument(metavar="SOURCE:TARGET", help="Revisions; no SOURCE: an empty database.")],
) -> None:
    """Print the script for psql that leads from one revision to another, on PostgreSQL."""
    source, colon, target = way.partition(":")
    if not colon or not target:
        raise typer.BadParameter(
            f"name two revisions, as {revisions.BASE}:{revisions.HEAD}, or :{revisions.BASE} for an empty database"
        )
    print(revision_script(source or None, target), end="")
