"""The revisions of the schema on real databases: by Alembic and by psql, with data, and several at once."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database import revisions
from spheroseg.database.engine import open_engine, reading
from spheroseg.database.migrate import downgrade, upgrade
from spheroseg.database.projects import NewImage
from spheroseg.database.revision_scripts import revision_script
from spheroseg.database.revisions import create_tables, current
from spheroseg.database.schema import metadata, segmentation_failures, segmentation_tasks
from spheroseg.errors import SchemaUnusable
from spheroseg.messages import TaskCompleted, TaskFailed, TaskStarted
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.submit import cancel, retry
from spheroseg.tasks import RetryPolicy

from .conftest import Postgres, execute, new_database
from .support.lab import submit_images
from .support.schemas import BACK_SQL, BASE_SQL, FORWARD_SQL, catalogue, psql

pytestmark = pytest.mark.slow

BUSY = "a long transaction keeps the tables busy, and nothing was changed: wait for it to end, then do the same again"


@asynccontextmanager
async def nothing_there(request: pytest.FixtureRequest, kind: str, folder: Path) -> AsyncIterator[AsyncEngine]:
    if kind == "sqlite":
        engine = open_engine(f"sqlite:///{folder / 'new.db'}")
        yield engine
        await engine.dispose()
        return
    async with new_database(request.getfixturevalue("postgres").url) as url:
        engine = open_engine(url)
        yield engine
        await engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database without tables: SQLite and PostgreSQL."""
    async with nothing_there(request, request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
async def pg(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A PostgreSQL database without tables."""
    async with nothing_there(request, "postgres", tmp_path) as engine:
        yield engine


def url_of(engine: AsyncEngine) -> str:
    return engine.url.set(drivername=engine.dialect.name).render_as_string(hide_password=False)


def spheroseg(engine: AsyncEngine, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", *arguments],
        env={**os.environ, "DATABASE_URL": url_of(engine)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize(
    ("path", "source", "target"), [(BASE_SQL, None, "009"), (FORWARD_SQL, "009", "010"), (BACK_SQL, "010", "009")]
)
def test_the_scripts_are_generated_from_the_migrations(path: Path, source: str | None, target: str) -> None:
    assert path.read_text() == revision_script(source, target), "run: make sql"


async def test_every_way_to_a_revision_gives_the_same_tables(either: AsyncEngine) -> None:
    await create_tables(either)
    made_at_once = await catalogue(either)
    async with either.begin() as conn:
        await conn.run_sync(metadata.drop_all)
        await conn.execute(text("DROP TABLE alembic_version"))
    assert await upgrade(either) == (None, "010")
    assert await catalogue(either) == made_at_once
    async with either.connect() as conn:
        assert await conn.run_sync(lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)) == []
    assert await downgrade(either, "009") == ("010", "009")
    assert await upgrade(either) == ("009", "010")
    assert await catalogue(either) == made_at_once


async def test_psql_gives_the_same_tables_as_alembic(pg: AsyncEngine) -> None:
    await upgrade(pg, "009")
    base = await catalogue(pg)
    await upgrade(pg)
    newest = await catalogue(pg)
    await downgrade(pg, "009")
    back = await catalogue(pg)
    async with new_database(url_of(pg)) as url:
        other = open_engine(url)
        for script, expected in ((BASE_SQL, base), (FORWARD_SQL, newest), (BACK_SQL, back), (FORWARD_SQL, newest)):
            said = await psql(url, script)
            assert await catalogue(other) == expected
            assert f"The database is at revision {await current(other)} now." in said
        await other.dispose()


async def test_a_script_that_was_applied_already_does_nothing(pg: AsyncEngine) -> None:
    for script in (BASE_SQL, FORWARD_SQL, BACK_SQL):
        await psql(url_of(pg), script)
        before = await catalogue(pg)
        said = await psql(url_of(pg), script)
        assert f"The database is at revision {await current(pg)} already: nothing to do." in said
        assert await catalogue(pg) == before


@pytest.mark.parametrize(
    ("at", "script", "sentence"),
    [
        (None, FORWARD_SQL, "from revision 009 to revision 010, but the database has no tables of spheroseg yet"),
        (None, BACK_SQL, "from revision 010 to revision 009, but the database has no tables of spheroseg yet"),
        ("010", BASE_SQL, "from an empty database to revision 009, but the database is at revision 010"),
        ("011", FORWARD_SQL, "from revision 009 to revision 010, but the database is at revision 011"),
        ("unknown", BASE_SQL, "before 0.2, which kept no revision"),
    ],
    ids=["forward without a base", "back without a base", "base on the newest", "a newer one", "no revision"],
)
async def test_a_script_for_another_revision_stops_and_changes_nothing(
    pg: AsyncEngine, at: str | None, script: Path, sentence: str
) -> None:
    if at is not None:
        await create_tables(pg)
        await execute(pg, f"UPDATE alembic_version SET version_num = '{at}'")  # noqa: S608
    if at == "unknown":
        await execute(pg, "DROP TABLE alembic_version")
    before = await catalogue(pg)
    assert sentence in await psql(url_of(pg), script, code=3)
    assert await catalogue(pg) == before


async def lead_a_life(engine: AsyncEngine) -> None:
    """Make tasks in every state and with every history, by means of the program."""
    policy = RetryPolicy(max_retries=1)
    locked = NewImage("locked", "file:///locked", "", problem=("unreadable", "no right to read"))
    ids = [*(await submit_images(engine, [locked])).task_ids, *(await submit_images(engine, 40)).task_ids]
    chance = random.Random(9)
    begin = datetime(2026, 11, 24, 8, tzinfo=UTC)

    def ended(spent: timedelta, task_id: Any, attempt: int) -> TaskCompleted:
        facts = {"task_id": task_id, "attempt": attempt, "worker": "w", "result": {}}
        return TaskCompleted(**facts, started_at=begin, at=begin + spent)

    def failed(task_id: Any, attempt: int, **facts: Any) -> TaskFailed:
        facts = {"reason": "crashed", "error": "it broke", **facts}
        return TaskFailed(task_id=task_id, attempt=attempt, worker="w", at=begin, started_at=begin, **facts)

    async def apply(*reports: Any) -> None:
        async with engine.begin() as conn:
            await apply_reports(conn, reports, policy)

    # Halves of a millisecond, a clock that was set back, and random times.
    odd = [500, 1500, 2500, 499, 501, 1_000_500, -3_000_000, 86_400_000_500]
    spent = [timedelta(microseconds=us) for us in [*odd, *(chance.randrange(10**8) for _ in range(12))]]
    await apply(*(ended(each, task_id, 1) for each, task_id in zip(spent, ids[1:], strict=False)))
    again, for_good, persons, lost, lost_and_done, back, running = ids[21:28]
    await apply(*(failed(task_id, 1) for task_id in (again, for_good, persons)))
    await apply(failed(for_good, 2), failed(persons, 2))
    await apply(*(failed(task_id, 1, cause="lost", reason="worker_lost") for task_id in (lost, lost_and_done)))
    await apply(ended(timedelta(seconds=1.2345), lost_and_done, 2))
    await apply(failed(back, 1, cause="handed_back", reason="handed_back"))
    await apply(TaskStarted(task_id=running, attempt=1, worker="w", at=begin))
    async with engine.begin() as conn:
        assert await retry(conn, [ids[0], persons]) == [ids[0], persons]
        await cancel(conn, ids[28:30])
    await apply(failed(persons, 3), failed(ids[0], 1))


async def told(engine: AsyncEngine) -> tuple[dict[Any, Any], list[Any]]:
    """Return all tasks with the columns that revision 010 adds, and all failures."""
    async with reading(engine) as conn:
        tasks = {row.id: dict(row._mapping) for row in await conn.execute(select(segmentation_tasks))}
        failures = [tuple(row) for row in await conn.execute(select(segmentation_failures).order_by("id"))]
    return tasks, failures


async def by_alembic_back(engine: AsyncEngine) -> None:
    await downgrade(engine, "009")


async def by_alembic(engine: AsyncEngine) -> None:
    await upgrade(engine)


async def by_psql_back(engine: AsyncEngine) -> None:
    await psql(url_of(engine), BACK_SQL)


async def by_psql(engine: AsyncEngine) -> None:
    await psql(url_of(engine), FORWARD_SQL)


Step = Callable[[AsyncEngine], Awaitable[None]]
WAYS = [
    pytest.param("sqlite", by_alembic_back, by_alembic, id="sqlite"),
    pytest.param("postgres", by_alembic_back, by_alembic, id="alembic"),
    pytest.param("postgres", by_psql_back, by_psql, id="psql"),
]


@pytest.mark.parametrize(("kind", "back", "forward"), WAYS)
async def test_a_downgrade_and_an_upgrade_lose_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, back: Step, forward: Step
) -> None:
    async with nothing_there(request, kind, tmp_path) as engine:
        await create_tables(engine)
        await lead_a_life(engine)
        tasks, failures = await told(engine)
        assert len(failures) == 11
        assert len({task["message_queue_id"] for task in tasks.values()}) == 41
        await back(engine)
        await forward(engine)
        assert await told(engine) == (tasks, failures), "as the program itself wrote it"
        await lead_a_life(engine)
        assert len((await told(engine))[1]) == 22, "new failures have numbers of their own"


async def test_an_interrupted_upgrade_can_be_repeated(pg: AsyncEngine) -> None:
    await create_tables(pg)
    await lead_a_life(pg)
    found = await told(pg)
    await execute(pg, "UPDATE segmentation_tasks SET message_queue_id = NULL, retry_count = 0 WHERE attempt = 2")
    await execute(pg, "UPDATE alembic_version SET version_num = '009'")
    await psql(url_of(pg), FORWARD_SQL)
    assert await told(pg) == found


async def test_several_upgrades_at_once_upgrade_once(either: AsyncEngine) -> None:
    said = await asyncio.gather(*(asyncio.to_thread(spheroseg, either, "db", "upgrade") for _ in range(2)))
    assert sorted("Nothing to do" in words for words in said) == [False, True]
    assert await current(either) == "010"


async def test_alembic_and_psql_wait_for_each_other(pg: AsyncEngine) -> None:
    await upgrade(pg, "009")
    said, _, _ = await asyncio.gather(psql(url_of(pg), FORWARD_SQL), upgrade(pg), psql(url_of(pg), FORWARD_SQL))
    assert "is at revision 010" in said
    assert await current(pg) == "010"


@pytest.mark.parametrize("way", ["upgrade", "psql"])
async def test_a_long_transaction_blocks_a_change_of_revision_with_a_clear_error(pg: AsyncEngine, way: str) -> None:
    await upgrade(pg, "009" if way == "upgrade" else "010")
    before = await catalogue(pg)
    async with pg.begin() as somebody:
        await somebody.execute(text("SELECT count(*) FROM segmentation_tasks"))
        others = asyncio.create_task(longest_wait(pg, seconds=5.0))
        began = asyncio.get_running_loop().time()
        if way == "upgrade":
            with pytest.raises(SchemaUnusable, match=BUSY):
                await upgrade(pg)
        else:
            assert BUSY in await psql(url_of(pg), BACK_SQL, code=3)
        assert 3.0 < asyncio.get_running_loop().time() - began < 12.0
        assert await others < 3.0, "nobody stood behind it all the time"
        assert await catalogue(pg) == before
    if way == "upgrade":
        assert await upgrade(pg) == ("009", "010")
    else:
        assert "revision 009 now" in await psql(url_of(pg), BACK_SQL)


async def longest_wait(engine: AsyncEngine, seconds: float) -> float:
    """Keep a transaction open that reads the tasks."""
    loop = asyncio.get_running_loop()
    end, longest = loop.time() + seconds, 0.0
    while (began := loop.time()) < end:
        async with engine.connect() as conn:
            await conn.execute(text("SELECT count(*) FROM segmentation_tasks"))
        longest = max(longest, loop.time() - began)
        await asyncio.sleep(0.01)
    return longest


async def refusal(engine: AsyncEngine, **needs: bool) -> str:
    with pytest.raises(SchemaUnusable) as caught:
        await revisions.prepare(engine, **needs)
    return str(caught.value)


async def test_an_unusable_database_is_refused_with_the_command_to_run(pg: AsyncEngine) -> None:
    assert await refusal(pg) == ("the database has no tables of spheroseg yet: run `spheroseg db upgrade`")
    assert "spheroseg db upgrade" in spheroseg(pg, "queue", "list", code=2)
    await upgrade(pg, "009")
    await revisions.prepare(pg)
    assert await refusal(pg, needs_message_queue=True) == (
        "the database is at revision 009, without what the message queue needs: run `spheroseg db upgrade`, "
        "or set ENABLE_MESSAGE_QUEUE=false to go on over the database queue"
    )
    await upgrade(pg)
    await revisions.prepare(pg, needs_message_queue=True)
    await execute(pg, "UPDATE alembic_version SET version_num = '011'")
    assert "at revision 011, and this version knows 009, 010: install" in await refusal(pg)
    assert "this version of spheroseg does not know it" in spheroseg(pg, "db", "current")
    await execute(pg, "DROP TABLE alembic_version")
    assert "before 0.2" in await refusal(pg)
    assert "before 0.2" in spheroseg(pg, "db", "upgrade", code=2)


async def test_an_embedded_database_is_upgraded_automatically_with_its_data(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'embedded.db'}")
    await revisions.prepare(engine)
    await lead_a_life(engine)
    tasks, failures = await told(engine)
    await downgrade(engine, "009")
    waiting = sum(task["state"] in ("queued", "processing") for task in tasks.values())
    listed = json.loads(spheroseg(engine, "queue", "list", "--json"))
    assert listed[0]["waiting"] == waiting
    assert await current(engine) == "010"
    assert await told(engine) == (tasks, failures)
    await execute(engine, "UPDATE alembic_version SET version_num = '011'")
    assert "at revision 011" in await refusal(engine)
    await engine.dispose()


async def test_the_command_prints_the_change_of_revision(either: AsyncEngine) -> None:
    assert "no tables of spheroseg yet: run `spheroseg db upgrade`" in spheroseg(either, "db", "current")
    assert "at revision 010 now (before: empty)" in spheroseg(either, "db", "upgrade")
    assert "Nothing to do" in spheroseg(either, "db", "upgrade")
    assert "010: the newest" in spheroseg(either, "db", "current")
    said = spheroseg(either, "db", "downgrade", "009", "--yes")
    assert "at revision 009 now (before: 010); its failures are set aside" in said
    assert ("upgraded again" in said) == (either.dialect.name == "sqlite")


async def test_the_command_refuses_with_a_reason(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'test.db'}")
    await upgrade(engine, "009")
    assert "009: tasks are processed through the database" in spheroseg(engine, "db", "current")
    assert "Nothing to do" in spheroseg(engine, "db", "downgrade", "009", "--yes")
    assert "add --yes" in spheroseg(engine, "db", "downgrade", "009", code=2)
    assert "drop the database" in spheroseg(engine, "db", "downgrade", "base", "--yes", code=2)
    assert "Can't locate revision" in spheroseg(engine, "db", "upgrade", "099", code=2)
    assert "cannot be brought" in spheroseg(engine, "db", "downgrade", "010", "--yes", code=2)
    assert "name two revisions" in spheroseg(engine, "db", "sql", "009", code=2)
    await engine.dispose()


def test_a_silent_database_is_reported_in_one_line(tmp_path: Path) -> None:
    engine = open_engine("postgresql://nobody@127.0.0.1:9/nothing")
    assert "does not answer" in spheroseg(engine, "db", "current", code=2)


async def test_a_missing_database_is_reported_in_one_line(postgres: Postgres) -> None:
    engine = open_engine(postgres.url.removesuffix("postgres") + "missing")
    assert 'database "missing" does not exist' in spheroseg(engine, "db", "upgrade", code=2)
