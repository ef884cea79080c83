"""The revisions of the schema: which one a database is at, and how to bring it to another.

`migrations/versions` holds them. Revision `009` is enough to work with the database queue. Revision `010` adds the
table and the columns that the message queue needs.
"""

import io
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.revision_010 import set_revision_010
from spheroseg.database.schema import metadata
from spheroseg.errors import SchemaUnusable

BASE = "009"
HEAD = "010"
# The revisions that this version works with, the newest last.
REVISIONS = (BASE, HEAD)

UPGRADE = "run `spheroseg db upgrade`"
UNVERSIONED = (
    "the database was made by a version of spheroseg before 0.2, which kept no revision: "
    "use another database or another folder"
)
# SQLSTATE code of PostgreSQL.
LOCK_NOT_AVAILABLE = "55P03"
# SQLSTATE codes of PostgreSQL: no such column, no such table.
MISSING_COLUMN_OR_TABLE = ("42703", "42P01")
# Advisory lock of PostgreSQL for changes of the tables.
TABLES_LOCK = "hashtext('spheroseg tables')"
_MIGRATIONS = Path(__file__).with_name("migrations")


async def prepare(engine: AsyncEngine, *, needs_message_queue: bool = False) -> None:
    """Check that the tables can be used, and remember at which revision they are (`revision_010.py`).

    On SQLite, make the tables or upgrade them first. Raises SchemaUnusable, which names the command to run.
    """
    revision = await current(engine)
    if engine.dialect.name == "sqlite" and revision != HEAD:
        revision = await _create_or_upgrade(engine, revision)
    refuse_unusable(revision, needs_message_queue=needs_message_queue)
    set_revision_010(engine, revision == HEAD)


def refuse_unusable(revision: str | None, *, needs_message_queue: bool) -> None:
    """Raise SchemaUnusable, which names the command to run, if a database at `revision` cannot be used."""
    if revision is None:
        raise SchemaUnusable(f"the database has no tables of spheroseg yet: {UPGRADE}")
    if revision not in REVISIONS:
        raise SchemaUnusable(
            f"the database is at revision {revision}, and this version knows {', '.join(REVISIONS)}: "
            "install the version of spheroseg that made it, or a newer one"
        )
    if needs_message_queue and revision != HEAD:
        raise SchemaUnusable(
            f"the database is at revision {revision}, without what the message queue needs: {UPGRADE}, "
            "or set ENABLE_MESSAGE_QUEUE=false to go on over the database queue"
        )


async def create_tables(engine: AsyncEngine) -> None:
    """Create all tables of an empty database. Several processes may do so at the same moment."""
    async with engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            await conn.execute(text(f"SELECT pg_advisory_xact_lock({TABLES_LOCK})"))
        await conn.run_sync(_create_tables)


def _create_tables(conn: Connection) -> None:
    metadata.create_all(conn)
    context = MigrationContext.configure(conn)
    if context.get_current_revision() is None:
        context._ensure_version_table()
        conn.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})


async def _create_or_upgrade(engine: AsyncEngine, revision: str | None) -> str | None:
    if revision is None:
        await create_tables(engine)
    elif revision in REVISIONS:
        await upgrade(engine)
    return await current(engine)


async def current(engine: AsyncEngine) -> str | None:
    """Return the revision of the database, or None if it is empty.

    Raises SchemaUnusable if it has tables of spheroseg but no revision.
    """
    async with engine.connect() as conn:
        return await conn.run_sync(_read)


def _read(conn: Connection) -> str | None:
    revision = MigrationContext.configure(conn).get_current_revision()
    if revision is None and inspect(conn).has_table("segmentation_tasks"):
        raise SchemaUnusable(UNVERSIONED)
    return revision


def describe(error: Exception) -> str:
    """Return one line that says what the database refused, also if the tables have changed under the program."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) in MISSING_COLUMN_OR_TABLE:
        return f"the tables are not at the revision at which this process found them: restart it ({cause})"
    return str(cause)


async def upgrade(engine: AsyncEngine, revision: str = HEAD) -> tuple[str | None, str | None]:
    """Upgrade the database to `revision`. Return the revisions before and after.

    Raises SchemaUnusable if that is impossible, or if a long transaction blocks it.
    """
    return await _migrate(engine, lambda config: command.upgrade(config, revision))


async def downgrade(engine: AsyncEngine, revision: str) -> tuple[str | None, str | None]:
    """Downgrade the database to `revision`. Return the revisions before and after.

    Raises SchemaUnusable if that is impossible, or if a long transaction blocks it.
    """
    if revision not in REVISIONS:
        raise SchemaUnusable(
            f"the database cannot be brought back to {revision}, only to {BASE}: "
            "to be rid of everything, drop the database"
        )
    return await _migrate(engine, lambda config: command.downgrade(config, revision))


async def _migrate(engine: AsyncEngine, step: Callable[[Config], None]) -> tuple[str | None, str | None]:
    def run(conn: Connection) -> tuple[str | None, str | None]:
        config = alembic_config()
        config.attributes["connection"] = conn
        before = _read(conn)
        if conn.dialect.name == "postgresql":
            # Each revision has its own transactions. SQLite has one for all of them, which keeps others out.
            conn.commit()
        step(config)
        return before, _read(conn)

    async with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            # A lock of the session, because a revision may take several transactions.
            await conn.execute(text(f"SELECT pg_advisory_lock({TABLES_LOCK})"))
            await conn.commit()
        try:
            change = await conn.run_sync(run)
            await conn.commit()
        except CommandError as error:
            raise SchemaUnusable(f"the database cannot be brought there: {error}") from error
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") != LOCK_NOT_AVAILABLE:
                raise
            raise SchemaUnusable(
                "a long transaction keeps the tables busy, and nothing was changed: wait for it to end, "
                "then do the same again"
            ) from error
        finally:
            # Ending the session releases the lock.
            await conn.invalidate()
    return change


def alembic_config(output: io.StringIO | None = None) -> Config:
    """Return the configuration of Alembic. output: where it writes SQL instead of executing it."""
    config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
