"""Brings a database from one revision of the schema to another, with Alembic."""

import io
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.revisions import BASE, HEAD, REVISIONS, TABLES_LOCK, read_current
from spheroseg.errors import SchemaUnusable

# SQLSTATE code of PostgreSQL.
LOCK_NOT_AVAILABLE = "55P03"
_MIGRATIONS = Path(__file__).with_name("migrations")


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
        before = read_current(conn)
        if conn.dialect.name == "postgresql":
            # Each revision has its own transactions. SQLite has one for all of them, which keeps others out.
            conn.commit()
        step(config)
        return before, read_current(conn)

    async with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            # A lock of the session, because a revision may take several transactions.
            await conn.execute(text(f"SELECT pg_advisory_lock({TABLES_LOCK})"))
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
            # Ending the session releases the lock.
            await conn.invalidate()
    return found


def alembic_config(output: io.StringIO | None = None) -> Config:
    """Return the configuration of Alembic. output: where it writes SQL instead of executing it."""
    config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
