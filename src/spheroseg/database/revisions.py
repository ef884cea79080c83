"""The revisions of the schema: which one a database has, and the way from one to another.

`migrations/versions` holds them. `009` is everything but the message queue's own tables and columns, and enough to
work over the database queue; `010` adds them.
"""

import io
import re
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
# The first revision of each that can be used, newest last.
REVISIONS = (BASE, HEAD)

UPGRADE = "run `spheroseg db upgrade`"
_UNVERSIONED = (
    "the database was made by a version of spheroseg before 0.2, which kept no revision: "
    "use another database or another folder"
)
LOCK_NOT_AVAILABLE = "55P03"
# No such column, no such table.
CHANGED_TABLES = ("42703", "42P01")
_LOCK = "hashtext('spheroseg tables')"
_MIGRATIONS = Path(__file__).with_name("migrations")


async def prepare(engine: AsyncEngine, *, needs_message_queue: bool = False) -> None:
    """See that the tables are there and can be used, and let the rest of the program know which they are.

    SQLite is made, and brought up to date, without being asked. Raises SchemaUnusable, naming the command to run.
    """
    found = await current(engine)
    if engine.dialect.name == "sqlite" and found != HEAD:
        found = await _bring_up(engine, found)
    refuse_unusable(found, needs_message_queue=needs_message_queue)
    set_revision_010(engine, found == HEAD)


def refuse_unusable(found: str | None, *, needs_message_queue: bool) -> None:
    """Raises SchemaUnusable where a database at revision `found` cannot be used, naming the command to run."""
    if found is None:
        raise SchemaUnusable(f"the database has no tables of spheroseg yet: {UPGRADE}")
    if found not in REVISIONS:
        raise SchemaUnusable(
            f"the database is at revision {found}, and this version knows {', '.join(REVISIONS)}: "
            "install the version of spheroseg that made it, or a newer one"
        )
    if needs_message_queue and found != HEAD:
        raise SchemaUnusable(
            f"the database is at revision {found}, without what the message queue needs: {UPGRADE}, "
            "or set ENABLE_MESSAGE_QUEUE=false to go on over the database queue"
        )


async def create_tables(engine: AsyncEngine) -> None:
    """Make all tables of an empty database at once; several processes may do so at the same moment."""
    async with engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            await conn.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        await conn.run_sync(_create_tables)


def _create_tables(conn: Connection) -> None:
    metadata.create_all(conn)
    context = MigrationContext.configure(conn)
    if context.get_current_revision() is None:
        context._ensure_version_table()
        conn.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})


async def _bring_up(engine: AsyncEngine, found: str | None) -> str | None:
    if found is None:
        await create_tables(engine)
    elif found in REVISIONS:
        await upgrade(engine)
    return await current(engine)


async def current(engine: AsyncEngine) -> str | None:
    """The revision of the database; None where it is empty.

    Raises SchemaUnusable where it has tables of spheroseg and no revision.
    """

    async with engine.connect() as conn:
        return await conn.run_sync(_read)


def _read(conn: Connection) -> str | None:
    found = MigrationContext.configure(conn).get_current_revision()
    if found is None and inspect(conn).has_table("segmentation_tasks"):
        raise SchemaUnusable(_UNVERSIONED)
    return found


def describe(error: Exception) -> str:
    """Return one line that says what the database refused, also if the tables have changed under the program."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) in CHANGED_TABLES:
        return f"the tables are not at the revision at which this process found them: restart it ({cause})"
    return str(cause)


async def upgrade(engine: AsyncEngine, revision: str = HEAD) -> tuple[str | None, str | None]:
    """Bring the database up to `revision`; where it was, and where it is.

    Raises SchemaUnusable where there is no way, or a long transaction bars it.
    """
    return await _migrate(engine, lambda config: command.upgrade(config, revision))


async def downgrade(engine: AsyncEngine, revision: str) -> tuple[str | None, str | None]:
    """Bring the database down to `revision`; where it was, and where it is.

    Raises SchemaUnusable where there is no way, or a long transaction bars it.
    """
    if revision not in REVISIONS:
        raise SchemaUnusable(
            f"the database cannot be brought back to {revision}, only to {BASE}: "
            "to be rid of everything, drop the database"
        )
    return await _migrate(engine, lambda config: command.downgrade(config, revision))


async def _migrate(engine: AsyncEngine, step: Callable[[Config], None]) -> tuple[str | None, str | None]:
    def run(conn: Connection) -> tuple[str | None, str | None]:
        config = _config()
        config.attributes["connection"] = conn
        before = _read(conn)
        if conn.dialect.name == "postgresql":
            # The revision's transactions are its own. SQLite has one for all, which keeps others out.
            conn.commit()
        step(config)
        return before, _read(conn)

    async with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            # For the session, and not for a transaction: a revision may take several.
            await conn.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            await conn.commit()
        try:
            found = await conn.run_sync(run)
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
            # The lock goes with the session.
            await conn.invalidate()
    return found


def script(source: str | None, target: str) -> str:
    """The SQL for PostgreSQL that leads from revision `source` (None: an empty database) to `target`.

    Raises SchemaUnusable where there is no such way.
    """
    written = io.StringIO()
    config = _config(written)
    try:
        if source is not None and source > target:
            command.downgrade(config, f"{source}:{target}", sql=True)
        else:
            command.upgrade(config, f"{source}:{target}" if source else target, sql=True)
    except CommandError as error:
        raise SchemaUnusable(f"there is no such script: {error}; the revisions are {', '.join(REVISIONS)}") from error
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    steps = re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip())
    return f"{_guard(source, target)}{steps}\n\n\\echo 'The database is at revision {target} now.'\n"


def _guard(source: str | None, target: str) -> str:
    """What psql does first: stop at the first error, do nothing twice, refuse what is not at `source`."""
    start = f"revision {source}" if source else "an empty database"
    expected = f"'{source}'" if source else "NULL"
    return f"""\
-- Generated by `spheroseg db sql {source or ""}:{target}`; apply it with psql.
\\set ON_ERROR_STOP on

-- One at a time, `spheroseg db` included. The lock goes with the session.
SELECT pg_advisory_lock({_LOCK}) \\gset
SELECT to_regclass('alembic_version') IS NOT NULL AS is_known, false AS is_done \\gset
\\if :is_known
SELECT EXISTS (SELECT FROM alembic_version WHERE version_num = '{target}') AS is_done \\gset
\\endif
\\if :is_done
\\echo 'The database is at revision {target} already: nothing to do.'
\\quit
\\endif

DO $$
DECLARE
    found text;
BEGIN
    IF to_regclass('alembic_version') IS NOT NULL THEN
        SELECT version_num INTO found FROM alembic_version;
    ELSIF to_regclass('segmentation_tasks') IS NOT NULL THEN
        RAISE EXCEPTION '{_UNVERSIONED}';
    END IF;
    IF found IS DISTINCT FROM {expected} THEN
        RAISE EXCEPTION 'this script leads from {start} to revision {target}, but the database %: nothing changed',
            coalesce('is at revision ' || found, 'has no tables of spheroseg yet');
    END IF;
END
$$;

"""  # noqa: S608 (revisions, nobody's input)


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
