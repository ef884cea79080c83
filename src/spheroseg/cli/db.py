"""`spheroseg db`: show or change the revision of the database schema."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.cli.output import Yes, confirm
from spheroseg.database import migrate, revisions
from spheroseg.database.engine import open_engine, raise_if_unreachable
from spheroseg.database.revision_scripts import revision_script
from spheroseg.settings import read_settings

T = TypeVar("T")

db_app = typer.Typer(help="Show or change the revision of the database schema.", no_args_is_help=True)

EMPTY = f"the database has no tables of spheroseg yet: {revisions.UPGRADE}"


def _ask(question: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Ask the database without checking its schema first, because it may be one that nothing else can work with."""
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
    revision = _ask(revisions.current)
    if revision is None:
        print(EMPTY)
    elif revision == revisions.HEAD:
        print(f"{revision}: the newest")
    elif revision in revisions.REVISIONS:
        print(f"{revision}: tasks are processed through the database. For the message queue, {revisions.UPGRADE}")
    else:
        print(f"{revision}: this version of spheroseg does not know it. It knows {', '.join(revisions.REVISIONS)}")


@db_app.command("upgrade")
def db_upgrade(
    revision: Annotated[str, typer.Argument(help="Target revision. By default the newest.")] = revisions.HEAD,
) -> None:
    """Create the schema or upgrade it. Processes may keep working; restart them afterwards."""

    async def go(engine: AsyncEngine) -> tuple[str | None, str | None]:
        return await migrate.upgrade(engine, revision)

    before, after = _ask(go)
    if before == after:
        print(f"The database is at revision {after} already. Nothing to do.")
    else:
        print(f"The database is at revision {after} now (before: {before or 'empty'}).")


@db_app.command("downgrade")
def db_downgrade(
    revision: Annotated[str, typer.Argument(help=f"Target revision, such as {revisions.BASE}.")],
    yes: Yes = False,
) -> None:
    """Downgrade the schema. The records of failures are set aside, and restored by the next upgrade.

    Set ENABLE_MESSAGE_QUEUE=false first, and restart the processes afterwards.
    """
    confirm(f"Downgrade the schema to revision {revision}?", yes=yes)

    async def go(engine: AsyncEngine) -> tuple[str | None, str | None, bool]:
        before, after = await migrate.downgrade(engine, revision)
        return before, after, engine.dialect.name == "sqlite"

    before, after, is_embedded = _ask(go)
    if before == after:
        print(f"The database is at revision {after} already. Nothing to do.")
        return
    print(f"The database is at revision {after} now (before: {before}); its failures are set aside.")
    if is_embedded:
        print("An embedded database is upgraded again by the next process that opens it.")


@db_app.command("sql")
def db_sql(
    way: Annotated[
        str, typer.Argument(metavar="SOURCE:TARGET", help="Revisions. Without SOURCE: from an empty database.")
    ],
) -> None:
    """Print the psql script that migrates PostgreSQL from one revision to another."""
    source, colon, target = way.partition(":")
    if not colon or not target:
        raise typer.BadParameter(
            f"name two revisions, such as {revisions.BASE}:{revisions.HEAD}, "
            f"or :{revisions.BASE} for an empty database"
        )
    print(revision_script(source or None, target), end="")
