"""The revisions of the schema: which one a database is at, and whether the program can work with it.

`migrations/versions` holds them, and `migrate.py` brings a database from one to another. Revision `009` is enough to
work with the database queue. Revision `010` adds what the message queue needs: the table `segmentation_failures` and
three columns of `segmentation_tasks`.
"""

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
)
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
# SQLSTATE codes of PostgreSQL: no such column, no such table.
MISSING_COLUMN_OR_TABLE = ("42703", "42P01")
# Advisory lock of PostgreSQL for changes of the tables.
TABLES_LOCK = "hashtext('spheroseg tables')"
# The table in which Alembic keeps the revision. Every process reads it at its start, and loading Alembic takes longer
# than all the rest of that.
ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


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
    if _read_revision(conn) is None:
        ALEMBIC_VERSION.create(conn, checkfirst=True)
        conn.execute(insert(ALEMBIC_VERSION).values(version_num=HEAD))


async def _create_or_upgrade(engine: AsyncEngine, revision: str | None) -> str | None:
    if revision is None:
        await create_tables(engine)
    elif revision in REVISIONS:
        from spheroseg.database.migrate import upgrade

        await upgrade(engine)
    return await current(engine)


async def current(engine: AsyncEngine) -> str | None:
    """Return the revision of the database, or None if it is empty.

    Raises SchemaUnusable if it has tables of spheroseg but no revision.
    """
    async with engine.connect() as conn:
        return await conn.run_sync(read_current)


def read_current(conn: Connection) -> str | None:
    """Do what `current` does, on a connection."""
    revision = _read_revision(conn)
    if revision is None and inspect(conn).has_table("segmentation_tasks"):
        raise SchemaUnusable(UNVERSIONED)
    return revision


def _read_revision(conn: Connection) -> str | None:
    if not inspect(conn).has_table(ALEMBIC_VERSION.name):
        return None
    return conn.execute(select(ALEMBIC_VERSION.c.version_num)).scalar_one_or_none()


def describe(error: Exception) -> str:
    """Return one line that says what the database refused, also if the tables have changed under the program."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) in MISSING_COLUMN_OR_TABLE:
        return f"the tables are not at the revision at which this process found them: restart it ({cause})"
    return str(cause)
