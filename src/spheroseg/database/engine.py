"""Opens the database and reads its clock."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Float, Table, event, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from spheroseg.database.schema import UTCDateTime
from spheroseg.errors import DatabaseAway

T = TypeVar("T")
BUSY_SECONDS = 60


class DatabaseTime(FunctionElement[Any]):
    """The time of the database's own clock, `seconds` from now.

    Leases and delays use this one clock, so that workers whose clocks disagree do not take each other's tasks. It is
    constant within a statement, so that an index can be searched with it.
    """

    type = UTCDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(literal(float(seconds), Float()))


@compiles(DatabaseTime, "postgresql")
def _postgresql_time(element: DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(DatabaseTime, "sqlite")
def _sqlite_time(element: DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    # The format in which SQLAlchemy stores a datetime, so that the two can be compared.
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', format('%+.6f seconds', {seconds}))"


def open_engine(url: str, *, pool_size: int = 5) -> AsyncEngine:
    """Return an engine for `sqlite:///FILE` or `postgresql://…`, with the asynchronous driver."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+asyncpg")
    if not parsed.drivername.startswith("sqlite"):
        return create_async_engine(parsed, pool_size=pool_size, pool_pre_ping=True)
    parsed = parsed.set(drivername="sqlite+aiosqlite")
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, pool_size=pool_size, connect_args={"timeout": 60})
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


@contextmanager
def raise_if_unreachable() -> Iterator[None]:
    """Raise DatabaseAway, with a text for a person, if the database does not answer."""
    try:
        yield
    except (OSError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseAway(
            f"the database does not answer ({cause}): check DATABASE_URL; `spheroseg doctor` says more"
        ) from error


def reading(engine: AsyncEngine) -> AsyncConnection:
    """Return a connection for reading only. On SQLite it does not wait for a writer."""
    return engine.execution_options(read_only=True).connect()


async def read_database_time(conn: AsyncConnection) -> datetime:
    """Return the current time of the database's own clock."""
    now: datetime = (await conn.execute(select(DatabaseTime()))).scalar_one()
    return now


def insert_into(conn: AsyncConnection, table: Table) -> Any:
    """Return an INSERT in the dialect of the database, which supports ON CONFLICT."""
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def insert_new(conn: AsyncConnection, table: Table) -> Any:
    """Return an INSERT that skips rows that exist already."""
    return insert_into(conn, table).on_conflict_do_nothing()


def chunks(items: Sequence[T], size: int = 5000) -> Iterator[Sequence[T]]:
    """Yield chunks that fit one statement: PostgreSQL takes 32,767 parameters, SQLite 32,766."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself, because _begin_immediate does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _change_to_wal(cursor)
    cursor.close()


def _change_to_wal(cursor: Any) -> None:
    # The change needs the file exclusively, and SQLite does not wait for that, as when two processes open a new file.
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _begin_immediate(connection: Any) -> None:
    # A deferred transaction that reads first and writes later fails with "database is locked" when another
    # writer comes between, and no busy timeout helps there. Taking the write lock first waits its turn.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
