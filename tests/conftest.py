"""Fixtures with private real servers. A test skips if its server is not installed, and fails if CI is set."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import open_engine
from spheroseg.database.migrate import downgrade
from spheroseg.database.revision_010 import set_revision_010
from spheroseg.database.revisions import HEAD, REVISIONS, create_tables
from spheroseg.database.schema import metadata
from tests.support.backend import Backend, backend_on
from tests.support.ports import free_port
from tests.support.rabbitmq import RABBITMQ_3, RABBITMQ_4, RabbitNode
from tests.support.uploading import Plate

# Fixtures that start a server, however a test gets them.
SERVER_FIXTURES = {"postgres", "rabbit", "rabbit_3", "rabbit_4", "own_rabbit", "shipped_rabbit"}


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark the tests that need servers, say which tests have to run in the same process, and put slow ones first.

    A slow test may run in any process, so that no process works through a long file while the others have nothing
    to do. The tests of a file stay together if they are fast, or share what a fixture made for the whole file.
    """
    for item in items:
        assert isinstance(item, pytest.Function)
        is_on_postgres = hasattr(item, "callspec") and item.callspec.params.get("database_url") == "postgres"
        if is_on_postgres or SERVER_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.servers)
        is_alone = item.get_closest_marker("slow") and not _shares_a_fixture(item)
        item.add_marker(pytest.mark.xdist_group(item.nodeid if is_alone else item.path.stem))
    yield
    # At the end of the run, many short tests fill the processes better than a few long ones.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _shares_a_fixture(item: pytest.Function) -> bool:
    """Return whether the test uses a fixture of the project that lives as long as its module."""
    found = (item._fixtureinfo.name2fixturedefs.get(name, ()) for name in item.fixturenames)
    return any(defs[-1].scope == "module" and defs[-1].baseid for defs in found if defs)


def missing_server(what: str) -> None:
    message = f"{what} is not installed: make servers"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


class Postgres:
    """A private PostgreSQL cluster that a test may stop, kill and start again."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.binaries = binaries
        self.port = free_port()
        # The server refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(folder, self.user)
        self._run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, command: str, *arguments: str) -> None:
        subprocess.run(
            [self.binaries / command, *arguments],
            check=True,
            user=self.user if os.geteuid() == 0 else None,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not servers:
        missing_server("postgresql")
    with tempfile.TemporaryDirectory(prefix="spheroseg-postgres-") as folder:
        # Readable for the user of the server, who is not the one that created it.
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder), servers[-1].parent)
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url


@asynccontextmanager
async def new_database(server_url: str) -> AsyncIterator[str]:
    """Create a PostgreSQL database without tables, yield its URL, and drop it at the end."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    server = open_engine(server_url).execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with server.connect() as conn:
            await conn.execute(text(f"CREATE DATABASE {name}"))
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        async with server.connect() as conn:
            await conn.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        await server.dispose()


@asynccontextmanager
async def empty_database(url: str, revision: str = HEAD) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(url)
    if url.startswith("postgresql"):
        async with opened.begin() as conn:
            await conn.execute(text("DROP TABLE IF EXISTS segmentation_failures_kept, alembic_version"))
            await conn.run_sync(metadata.drop_all)
    try:
        await create_tables(opened)
        if revision != HEAD:
            await downgrade(opened, revision)
            set_revision_010(opened, False)
        yield opened
    finally:
        await opened.dispose()


# For behaviour that must be the same without the tables of the message queue.
at_both_revisions = pytest.mark.parametrize("revision", REVISIONS)


@pytest.fixture
def revision() -> str:
    return HEAD


@pytest.fixture
async def engine(database_url: str, revision: str) -> AsyncIterator[AsyncEngine]:
    async with empty_database(database_url, revision) as opened:
        yield opened


@pytest.fixture
async def backend(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Backend]:
    """The backend on an empty database of each kind, called without a server."""
    async with backend_on(engine, tmp_path) as opened:
        yield opened


@pytest.fixture
async def ada(backend: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the backend, signed in as the member ada."""
    async with await backend.client("ada") as client:
        yield client


@pytest.fixture
async def plate(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Plate]:
    """A project to upload into. At the end it must have no temporary files."""
    async with backend_on(engine, tmp_path, max_upload_mb=1) as backend, await backend.client("ada") as client:
        project = (await client.post("/api/projects", json={"name": "plate"})).json()["id"]
        plate = Plate(backend, client, project)
        yield plate
        assert plate.temporary() == []


def started_rabbit_3() -> Iterator[RabbitNode]:
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    with RabbitNode(RABBITMQ_3) as node:
        yield node


@pytest.fixture(scope="session")
def rabbit_3() -> Iterator[RabbitNode]:
    yield from started_rabbit_3()


@pytest.fixture(scope="session")
def rabbit_4() -> Iterator[RabbitNode]:
    # Not every machine can install it, so it may be missing even if CI is set.
    if not RABBITMQ_4.installed:
        pytest.skip("RabbitMQ 4.0 could not be prepared on this machine: make servers says why")
    with RabbitNode(RABBITMQ_4) as node:
        yield node


@pytest.fixture(scope="session", params=["rabbitmq-3.10", "rabbitmq-4.0"])
def rabbit(request: pytest.FixtureRequest) -> RabbitNode:
    """A node of each release that all tests share. Leave it running, and work in a `rabbit_vhost`."""
    node: RabbitNode = request.getfixturevalue("rabbit_3" if request.param == "rabbitmq-3.10" else "rabbit_4")
    return node


@pytest.fixture
def rabbit_vhost(rabbit: RabbitNode) -> Iterator[str]:
    with rabbit.fresh_vhost() as vhost:
        yield vhost


@pytest.fixture
def rabbit_url(rabbit: RabbitNode, rabbit_vhost: str) -> str:
    """The URL of an empty virtual host on a node of each release."""
    return rabbit.vhost_url(rabbit_vhost)


@pytest.fixture
def own_rabbit() -> Iterator[RabbitNode]:
    """A running node of 3.10 for one test, which may kill, pause and wipe it."""
    yield from started_rabbit_3()


@pytest.fixture
def restored_rabbit(rabbit_3: RabbitNode) -> Iterator[RabbitNode]:
    """The shared node of 3.10 for a test that may kill, pause and fill it: it is restored afterwards."""
    yield rabbit_3
    rabbit_3.resume()
    rabbit_3.start()
    rabbit_3.memory_alarm(False)
    rabbit_3.disk_alarm(False)


@pytest.fixture(scope="module")
def shipped_rabbit() -> Iterator[RabbitNode]:
    """A node of 3.10 with the configuration in `deploy/`."""
    if not RABBITMQ_3.installed:
        missing_server("RabbitMQ 3.10")
    folder = Path(__file__).parents[1] / "deploy" / "rabbitmq"
    with RabbitNode(RABBITMQ_3, shipped=folder, password="spheroseg_secret") as node:  # noqa: S106
        yield node


async def eventually(
    is_true: Callable[[], Awaitable[bool]] | Callable[[], bool], within: float = 10.0, what: str = ""
) -> None:
    """Wait until `is_true` returns True, and fail after `within` seconds with the message `what`.

    The longer it takes, the less often it is asked: the processes that are waited for need the processor.
    """
    deadline = asyncio.get_running_loop().time() + within
    pause = 0.02
    while True:
        answer = is_true()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert asyncio.get_running_loop().time() < deadline, what or f"not true within {within} s"
        await asyncio.sleep(pause)
        pause = min(0.25, 1.2 * pause)


async def execute(engine: AsyncEngine, sql: str) -> None:
    async with engine.begin() as conn:
        await conn.execute(text(sql))
