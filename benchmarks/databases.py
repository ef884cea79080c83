"""Databases for benchmarks: empty ones, and copies of full ones."""

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from spheroseg.database.engine import open_engine
from spheroseg.database.revisions import create_tables
from tests.conftest import Postgres


class Databases(ABC):
    """A server or folder in which databases are created."""

    name: str

    @abstractmethod
    async def create(self, name: str) -> str:
        """Create a database with empty tables and return its URL."""

    @abstractmethod
    async def copy(self, source: str, name: str) -> str:
        """Copy the database called `source`, which must not be open, and return the URL of the copy."""


class Sqlite(Databases):
    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _url(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db"

    async def create(self, name: str) -> str:
        await _create_tables(self._url(name))
        return self._url(name)

    async def copy(self, source: str, name: str) -> str:
        # When its last connection closed, the write-ahead log was moved into the file.
        await asyncio.to_thread(shutil.copy, self.folder / f"{source}.db", self.folder / f"{name}.db")
        return self._url(name)


class PostgreSql(Databases):
    name = "PostgreSQL"

    def __init__(self, server: Postgres) -> None:
        self.server = server

    def _url(self, name: str) -> str:
        return self.server.url.removesuffix("postgres") + name

    async def create(self, name: str) -> str:
        await self._execute(f"CREATE DATABASE {name}")
        await _create_tables(self._url(name))
        return self._url(name)

    async def copy(self, source: str, name: str) -> str:
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
        return self._url(name)

    async def _execute(self, sql: str) -> None:
        url = self.server.url.replace("postgresql:", "postgresql+asyncpg:")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as conn:
            await conn.execute(text(sql))
        await engine.dispose()


async def _create_tables(url: str) -> None:
    engine = open_engine(url)
    await create_tables(engine)
    await engine.dispose()


@contextmanager
def sqlite() -> Iterator[Databases]:
    """Yield SQLite databases in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="spheroseg-benchmark-") as folder:
        yield Sqlite(Path(folder))


@contextmanager
def postgresql() -> Iterator[Databases | None]:
    """Yield a private cluster with default settings, also durable commits and autovacuum; None if not installed."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not binaries:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="spheroseg-benchmark-") as folder:
        # The server runs as another user, who must be able to read it.
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder), binaries[-1].parent)
        server.start()
        try:
            yield PostgreSql(server)
        finally:
            server.stop()
