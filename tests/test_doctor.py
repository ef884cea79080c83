"""`spheroseg doctor` on settings, database, storage and models: each fault is caused and must be reported."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database import migrate, revisions
from spheroseg.database.components import record_heartbeat
from spheroseg.database.engine import open_engine
from spheroseg.errors import BadSettings
from spheroseg.messages import Message, TaskFailed
from spheroseg.monitoring.doctor import CHAINS, CheckResult, machine, models, run_checks
from spheroseg.monitoring.doctor.checks import Check, CheckContext, ok
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.undelivered import apply_dead_letter
from spheroseg.settings import Settings
from spheroseg.tasks import RetryPolicy

from .conftest import Postgres, empty_database, eventually, execute
from .support.diagnosis import diagnose, expect, expect_no_faults, is_reported
from .support.lab import submit_images
from .support.networks import model_folder
from .support.ports import free_port

pytestmark = pytest.mark.slow


def doctor(*arguments: str, code: int, cwd: Path, **env: str) -> str:
    """Run the command as a person does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", "doctor", *arguments],
        env={**os.environ, "COLUMNS": "100", "SPHEROSEG_DATA_DIR": str(cwd / "data"), **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def test_a_fresh_machine_has_no_faults_and_nothing_is_created(tmp_path: Path) -> None:
    said = doctor(code=0, cwd=tmp_path)
    assert "no problems, no warnings" in said
    assert "will be made by the first command" in said
    assert list(tmp_path.iterdir()) == []


def test_invalid_settings_are_reported_as_problems_also_as_json(tmp_path: Path) -> None:
    found = json.loads(doctor("--json", code=1, cwd=tmp_path, TASK_MAX_RETRIES="-1", BACKEND_PORT="x"))
    problems = [finding for finding in found if finding["verdict"] == "problem"]
    assert [finding["check"] for finding in problems] == ["settings", "settings"]
    assert "TASK_MAX_RETRIES" in problems[0]["what"]
    assert "spheroseg settings" in problems[0]["what_to_do"]
    assert {finding["verdict"] for finding in found} == {"problem", "skipped"}


async def test_a_check_that_fails_or_hangs_is_reported_and_stops_no_other() -> None:
    async def fails(_: CheckContext) -> AsyncIterator[CheckResult]:
        yield ok("fails", "so far")
        raise KeyError("surprise")

    async def hangs(_: CheckContext) -> AsyncIterator[CheckResult]:
        await asyncio.sleep(3600)
        yield ok("hangs", "never")

    async def cancels(_: CheckContext) -> AsyncIterator[CheckResult]:
        yield ok("cancels", "so far")
        raise asyncio.CancelledError

    async def works(_: CheckContext) -> AsyncIterator[CheckResult]:
        yield ok("works", "fine")

    chains = [
        [Check("fails", fails), Check("behind", works)],
        [Check("hangs", hangs, limit=0.1)],
        [Check("cancels", cancels)],
        [Check("works", works)],
    ]
    found = await run_checks(lambda: Settings(_env_file=None), chains=chains)
    expect(found, "ok", "so far")
    expect(found, "problem", "KeyError: 'surprise'")
    expect(found, "problem", "no answer within 0.1 s")
    expect(found, "problem", "CancelledError")
    expect(found, "ok", "fine")
    assert next(finding for finding in found if finding.check == "behind").verdict == "skipped"


async def test_every_weak_secret_is_named_in_production() -> None:
    found = await diagnose(
        "secrets",
        spheroseg_env="production",
        secret_key="short",  # noqa: S106
        enable_message_queue=True,
        database_url="postgresql://postgres@db/spheroseg",
    )
    expect(found, "problem", "SECRET_KEY", "openssl rand -hex 32")
    expect(found, "problem", "RABBITMQ_URL has no password")
    expect(found, "problem", "DATABASE_URL has no password", "its own")
    found = await diagnose("secrets", spheroseg_env="production", secret_key="x" * 40)
    expect_no_faults(found)


async def test_the_caller_decides_how_settings_are_read() -> None:
    def refuse() -> Settings:
        raise BadSettings("no settings at all")

    found = await run_checks(refuse)
    expect(found, "problem", "no settings at all")
    assert len(found) == 1 + sum(len(chain) for chain in CHAINS)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never sends anything."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


async def test_an_unusable_storage_is_reported(
    tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect(
        await diagnose("storage", storage_url=str(tmp_path / "nowhere")), "problem", "does not exist", "STORAGE_URL"
    )
    (tmp_path / "file").write_text("")
    expect(await diagnose("storage", storage_url=str(tmp_path / "file")), "problem", "is a file, not a folder")
    # Even root may not write there.
    expect(await diagnose("storage", storage_url="/sys"), "problem", "/sys cannot be written to", "ls -ld")
    folder = tmp_path / "storage"
    folder.mkdir()
    expect(await diagnose("storage", storage_url=str(folder)), "ok", "written, read back and deleted", "free")
    assert list(folder.iterdir()) == []
    expect(await diagnose("storage", storage_url="memory://doctor"), "ok", "written, read back and deleted")
    expect(await diagnose("storage", storage_url="nonsense://x"), "problem", "nonsense://x cannot be written to")
    expect(
        await diagnose("storage", storage_url=f"ftp://127.0.0.1:{free_port()}/x"), "problem", "cannot be written to"
    )
    monkeypatch.setattr(machine, "LOW_DISK_BYTES", 1 << 60)
    expect(await diagnose("storage", storage_url=str(folder)), "warning", "nearly full", "GB are free")
    monkeypatch.setattr(machine, "RESERVE_BYTES", 1 << 60)
    expect(await diagnose("storage", storage_url=str(folder)), "problem", "is full", "free some space")
    hangs = [[Check("storage", machine.check_storage, limit=0.5)]]
    url = f"ftp://127.0.0.1:{silent_port}/x"
    found = await run_checks(lambda: Settings(_env_file=None, storage_url=url), chains=hangs)
    expect(found, "problem", "no answer within 0.5 s", "network")


async def test_the_models_and_the_child_process_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = await diagnose("model")
    expect(found, "ok", "classical-contrast", "sha256")
    expect(found, "ok", "found the one object")
    found = await diagnose("model", model="unheard-of")
    expect(found, "problem", "unheard-of", "set MODEL")
    model_folder(tmp_path, "mine")
    model_folder(tmp_path, "broken", b"no network")
    dirs = f"{tmp_path}{os.pathsep}{tmp_path / 'nowhere'}"
    found = await diagnose("model", model_dirs=dirs)
    expect(found, "ok", "mine 1, sha256")
    expect(found, "warning", "broken", "cannot be loaded", "spheroseg model check")
    expect(found, "warning", "nowhere, which is no folder")
    expect(found, "ok", "found the one object")
    expect(await diagnose("model", model_dirs=dirs, model="broken"), "problem", "cannot be loaded")
    dying = [sys.executable, "-c", "import sys; sys.exit('no such library')"]
    monkeypatch.setattr(models, "child_command", lambda *_: dying)
    expect(await diagnose("model"), "problem", "exit code 1", "no such library")


@asynccontextmanager
async def temporary_database(server: Postgres) -> AsyncIterator[str]:
    """Create an empty database for one test, and drop it afterwards."""
    name = f"doctor_{uuid.uuid4().hex[:8]}"
    engine = open_engine(server.url).execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as conn:
        await conn.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield urlsplit(server.url)._replace(path=f"/{name}").geturl()
    finally:
        async with engine.connect() as conn:
            await conn.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        await engine.dispose()


async def test_an_unreachable_database_is_reported_with_advice(
    postgres: Postgres, silent_port: int, tmp_path: Path
) -> None:
    port = postgres.port
    for url, words in (
        (f"postgresql://postgres@127.0.0.1:{free_port()}/x", ("Connection refused", "docker-compose up -d db")),
        ("postgresql://postgres@nowhere.invalid/x", ("no host has the name nowhere.invalid", "DATABASE_URL")),
        (f"postgresql://postgres@127.0.0.1:{port}/nope", ("there is no database nope", "createdb nope")),
        (f"postgresql://postgres@127.0.0.1:{silent_port}/x", ("does not answer", "firewalls")),
        ("nonsense", ("DATABASE_URL cannot be used", "postgresql://")),
        ("oracle://x@y/z", ("DATABASE_URL cannot be used", "postgresql://")),
    ):
        found = await diagnose("database", database_url=url)
        expect(found, "problem", *words)
        assert {finding.verdict for finding in found[2:]} == {"skipped"}
    (tmp_path / "broken.db").write_text("this is no database, whatever its name may say" * 100)
    found = await diagnose("database", database_url=f"sqlite:///{tmp_path / 'broken.db'}")
    expect(found, "problem", "not a database", "DATABASE_URL")


async def test_a_wrong_password_of_the_database_is_reported_as_such(postgres: Postgres) -> None:
    engine = open_engine(postgres.url)
    await execute(engine, "CREATE ROLE guarded LOGIN PASSWORD 'right'")
    rules = postgres.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    try:
        rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{before}")
        await execute(engine, "SELECT pg_reload_conf()")
        url = f"postgresql://guarded:wrong@127.0.0.1:{postgres.port}/postgres"

        async def is_refused() -> bool:
            return is_reported(
                await diagnose("database", database_url=url), "problem", "the user guarded is refused", "password"
            )

        await eventually(is_refused)
    finally:
        rules.write_text(before)
        await execute(engine, "SELECT pg_reload_conf()")
        await execute(engine, "DROP ROLE guarded")
        await engine.dispose()


async def test_an_unusable_schema_is_reported_with_the_command_to_run(postgres: Postgres) -> None:
    async with temporary_database(postgres) as url:
        found = await diagnose("database", database_url=url)
        expect(found, "problem", "has no tables of spheroseg yet", "spheroseg db upgrade")
        engine = open_engine(url)
        assert await revisions.current(engine) is None, "nothing was made"
        await migrate.upgrade(engine, revisions.BASE)
        found = await diagnose("database", database_url=url, enable_message_queue=True)
        expect(found, "problem", "revision 009", "spheroseg db upgrade", "ENABLE_MESSAGE_QUEUE=false")
        found = await diagnose("database", database_url=url)
        expect(found, "ok", "revision 009", "enough for the database queue")
        assert await revisions.current(engine) == revisions.BASE, "nothing was upgraded"
        await migrate.upgrade(engine)
        expect(await diagnose("database", database_url=url), "ok", "revision 010, the newest")
        await execute(engine, "UPDATE alembic_version SET version_num = '999'")
        expect(await diagnose("database", database_url=url), "problem", "revision 999", "install the version")
        await execute(engine, "DROP TABLE alembic_version")
        expect(await diagnose("database", database_url=url), "problem", "kept no revision", "another database")
        await engine.dispose()


@pytest.fixture
async def here(postgres: Postgres) -> AsyncIterator[tuple[AsyncEngine, dict[str, Any]]]:
    """A database with its tables, and the settings that point to it."""
    async with temporary_database(postgres) as url, empty_database(url) as engine:
        yield engine, {"database_url": url}


async def report_alive(engine: AsyncEngine, *kinds: str) -> None:
    async with engine.begin() as conn:
        for kind in kinds:
            await record_heartbeat(conn, f"{kind}-1", kind, "ok", None, {})


async def test_missing_silent_unreachable_and_paused_processes_are_reported(
    here: tuple[AsyncEngine, dict[str, Any]],
) -> None:
    engine, settings = here
    found = await diagnose("database", **settings)
    expect(found, "warning", "no worker process is running", "spheroseg worker")
    await report_alive(engine, "worker", "collect", "relay")
    expect_no_faults(await diagnose("database", **settings))
    await execute(engine, "UPDATE components SET seen_at = now() - interval '10 minutes' WHERE kind = 'collect'")
    found = await diagnose("database", **settings)
    expect(found, "warning", "collect-1 has sent no heartbeat since", "start it again")
    expect(found, "warning", "no collect process is running", "SERVE_COLLECT")
    queued = {**settings, "enable_message_queue": True}
    async with engine.begin() as conn:
        await record_heartbeat(conn, "relay-1", "relay", "away", "RabbitMQ did not answer in time", {})
    expect(
        await diagnose("database", **queued),
        "warning",
        "relay-1 has been waiting since",
        "RabbitMQ did not answer in time",
    )
    async with engine.begin() as conn:
        await record_heartbeat(conn, "relay-1", "relay", "paused", "work on the broker", {})
    await execute(engine, "INSERT INTO switches VALUES ('relay', false, 'ada', now())")
    found = await diagnose("database", **queued)
    expect(found, "warning", "the relay is paused by ada since", "work on the broker", "/api/admin/relay/resume")


async def test_waiting_work_is_reported_with_the_process_to_start(here: tuple[AsyncEngine, dict[str, Any]]) -> None:
    engine, settings = here
    await submit_images(engine, 3)
    await execute(engine, "UPDATE segmentation_queue SET visible_at = now() - interval '1 minute'")
    found = await diagnose("database", **settings)
    expect(found, "problem", "3 tasks wait", "no worker takes them", "spheroseg worker")
    queued = {**settings, "enable_message_queue": True}
    found = await diagnose("database", **queued)
    expect(found, "problem", "3 tasks wait", "no relay moves them to RabbitMQ", "spheroseg relay")
    await report_alive(engine, "worker")
    found = await diagnose("database", **queued)
    expect(found, "warning", "no relay moves them to RabbitMQ")
    await execute(engine, "UPDATE segmentation_queue SET queue = 'segmentation.results'")
    expect(await diagnose("database", **settings), "problem", "3 results wait", "spheroseg collect")
    await execute(engine, "UPDATE segmentation_queue SET queue = 'segmentation.tasks', holder = 'rabbitmq'")
    expect(await diagnose("database", **settings), "problem", "still held for RabbitMQ", "takes them back")
    await report_alive(engine, "collect")
    await execute(
        engine,
        "UPDATE segmentation_tasks SET state = 'processing', worker = 'w1/0', started_at = now() - interval '1 hour'",
    )
    expect(
        await diagnose("database", **settings), "problem", "3 attempts run for longer than 360 s", "w1/0", "restart"
    )


async def test_the_most_frequent_failures_of_the_last_hour_are_reported_with_an_example(
    here: tuple[AsyncEngine, dict[str, Any]],
) -> None:
    engine, settings = here
    expect(await diagnose("database", **settings), "ok", "none in the last hour")
    tasks = (await submit_images(engine, 3)).task_ids
    reports = [
        TaskFailed(
            task_id=task_id, attempt=1, worker="w", at=datetime.now(UTC), reason=reason, error=f"it was {reason}"
        )
        for task_id, reason in zip(tasks, ("killed", "killed", "timeout"), strict=True)
    ]
    async with engine.begin() as conn:
        await apply_reports(conn, reports, RetryPolicy())
        await apply_dead_letter(conn, Message("p", "task.new", b'{"schema_version": 2}'), RetryPolicy())
    found = await diagnose("database", **settings)
    expect(found, "warning", "2 attempts", "killed, for example: it was killed", "memory")
    expect(found, "warning", "1 attempt of", "timeout", "TASK_TIMEOUT_SECONDS")
    expect(found, "problem", "1 message of the last hour could not be read", "schema_version", "different versions")
    await execute(engine, "UPDATE segmentation_failures SET failed_at = now() - interval '2 hours'")
    expect(await diagnose("database", **settings), "ok", "none in the last hour")


async def test_a_wrong_clock_is_reported_with_the_consequences(here: tuple[AsyncEngine, dict[str, Any]]) -> None:
    _, settings = here
    chosen = [chain for chain in CHAINS if chain[0].name == "database"]

    def read() -> Settings:
        return Settings(_env_file=None, **settings)

    found = await run_checks(read, chains=chosen, now=lambda: datetime.now(UTC) - timedelta(hours=1))
    expect(found, "warning", "the clock of the database is 3600 s ahead of this machine's", "leases")
