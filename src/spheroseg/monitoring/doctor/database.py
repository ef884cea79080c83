"""Checks of the database, and of what the database knows: processes, waiting work, failures."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import revisions
from spheroseg.database.components import SILENT_SECONDS
from spheroseg.database.engine import (
    DatabaseTime,
    has_message_queue_tables,
    open_engine,
    reading,
    set_message_queue_tables,
)
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.schema import components as c
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.database.schema import switches as s
from spheroseg.errors import BadMessage, SchemaUnusable
from spheroseg.messages import Queue
from spheroseg.monitoring.doctor.findings import Finding, Site, compare_clocks, ok, problem, several, skipped, warning
from spheroseg.settings import SILENCE_MARGIN_SECONDS, Settings
from spheroseg.tasks import TaskState

RECENT_SECONDS = 3600.0
# A moment ago is no reason to worry: processes look at the table a few times a second.
PATIENCE_SECONDS = 10.0
COMMONEST = 5

START = {
    "relay": "start `spheroseg relay`, or `spheroseg serve` without SERVE_RELAY=false",
    "collect": "start `spheroseg collect`, or `spheroseg serve` without SERVE_COLLECT=false",
    "worker": "start `spheroseg worker` (`docker-compose up -d ml`), and look into its log",
}

MENDING = {
    BadMessage.code: "backend and workers are of different versions, as a rule: update both to the same one, then "
    "`spheroseg dlq retry --reason bad_message`",
    "timeout": "raise TASK_TIMEOUT_SECONDS if such images may take longer: `spheroseg dlq list --reason timeout`",
    "killed": "the worker's machine ran out of memory, as a rule: lower WORKER_CONCURRENCY, or give it more",
    "out_of_memory": "lower WORKER_CONCURRENCY, or give the worker more memory",
    "crashed": "look into the worker's log; if one image does it, report it with that image",
    "worker_lost": "look into the workers' logs for why they ended",
    "model_unusable": "install the same version of spheroseg everywhere, and check MODEL of the workers",
    "unreadable": "see that backend and workers have the same STORAGE_URL and may read there",
    "io_error": "see that backend and workers have the same STORAGE_URL and may read there",
    "disk_full": "free some space on the disk of the storage",
    "expired": "no worker took the task in time: see the workers, and the message TTL in the policy",
    "maxlen": "the queue was full: more workers, or a longer queue in its policy",
}
OTHERWISE = "`spheroseg dlq list` shows them; the files themselves may be at fault"


async def look_at_database(site: Site) -> AsyncIterator[Finding]:
    url = site.settings.resolved_database_url()
    try:
        parsed = make_url(url)
        if parsed.drivername.startswith("sqlite"):
            if parsed.database and not os.path.exists(parsed.database):  # noqa: ASYNC240 (a moment)
                only_worker = "; a worker needs none" if site.settings.enable_message_queue else ""
                yield ok("database", f"SQLite: {parsed.database} will be made by the first command{only_worker}")
                return
            where = f"SQLite: {parsed.database}"
        else:
            where = f"PostgreSQL: {parsed.database} at {parsed.host}:{parsed.port or 5432}, as {parsed.username}"
        engine = open_engine(url)
    except (ArgumentError, ImportError, SQLAlchemyError) as error:
        yield problem("database", f"DATABASE_URL cannot be used: {error}", "write sqlite:///FILE or postgresql://…")
        return
    try:
        async with asyncio.timeout(5.0), reading(engine) as conn:
            await conn.execute(select(1))
    except (Exception, TimeoutError) as error:
        await engine.dispose()
        yield _unreachable(parsed, where, error)
        return
    site.engine = engine
    yield ok("database", where)


def _unreachable(url: URL, where: str, error: BaseException) -> Finding:
    place = f"{url.host}:{url.port or 5432}"
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or getattr(error, "sqlstate", None) or ""
    words = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    match error:
        case ConnectionRefusedError():
            what = f"Connection refused: no PostgreSQL listens at {place}"
            return problem("database", what, "start it (`docker-compose up -d db`), or correct DATABASE_URL")
        case socket.gaierror():
            what = f"no host has the name {url.host}"
            return problem("database", what, "correct the host in DATABASE_URL; inside Compose it is db")
        case TimeoutError():
            what = f"{place} does not answer"
            return problem("database", what, "look at the network and firewalls between here and there")
    if state in ("28P01", "28000"):
        what = f"the user {url.username} is refused: {words}"
        return problem("database", what, "correct user and password in DATABASE_URL")
    if state == "3D000":
        step = f"correct DATABASE_URL, or `createdb {url.database}` and then {revisions.UPGRADE}"
        return problem("database", f"there is no database {url.database} at {place}", step)
    if state == "53300":
        step = "fewer processes, or a higher max_connections"
        return problem("database", f"PostgreSQL has no connection left: {words}", step)
    return problem("database", f"{where} does not answer: {words}", "check DATABASE_URL and the server's log")


async def look_at_schema(site: Site) -> AsyncIterator[Finding]:
    if site.engine is None:
        return
    is_sqlite = site.engine.dialect.name == "sqlite"
    found = None
    try:
        found = await revisions.current(site.engine)
        if found is None and is_sqlite:
            yield ok("schema", "empty: the first command makes the tables")
        else:
            # SQLite is brought up to date without being asked.
            needs = site.settings.enable_message_queue and not is_sqlite
            revisions.refuse_unusable(found, needs_message_queue=needs)
    except SchemaUnusable as error:
        what, _, step = str(error).partition(": ")
        yield problem("schema", what, step)
    if found not in revisions.REVISIONS:
        # There is nothing that the other checks could ask.
        await _forget(site)
        return
    is_head = found == revisions.HEAD
    set_message_queue_tables(site.engine, is_head)
    if is_head:
        yield ok("schema", f"revision {found}, the newest")
    elif not site.settings.enable_message_queue:
        yield ok("schema", f"revision {found}, enough for the database queue")


async def _forget(site: Site) -> None:
    engine, site.engine = site.engine, None
    if engine is not None:
        await engine.dispose()


async def look_at_clock(site: Site) -> AsyncIterator[Finding]:
    if site.engine is None:
        return
    async with reading(site.engine) as conn:
        before = site.now()
        theirs: datetime = (await conn.execute(select(DatabaseTime()))).scalar_one()
        middle = before + (site.now() - before) / 2
    yield compare_clocks("database clock", "the database", (theirs - middle).total_seconds())


async def look_at_processes(site: Site) -> AsyncIterator[Finding]:
    if site.engine is None:
        return
    async with reading(site.engine) as conn:
        now = (await conn.execute(select(DatabaseTime()))).scalar_one()
        rows = (await conn.execute(select(c).order_by(c.c.kind, c.c.name))).all()
        switch = (await conn.execute(select(s).where(s.c.name == "relay"))).first()
    alive = [row for row in rows if (now - row.seen_at).total_seconds() <= SILENT_SECONDS]
    for row in rows:
        if row not in alive and (now - row.seen_at).total_seconds() <= RECENT_SECONDS:
            what = f"{row.name} has said nothing since {_clock(row.seen_at, now)}"
            step = "it was killed, or is cut off from the database: look into its log, and start it again"
            yield warning("processes", what, step)
    for row in alive:
        if row.state == "away":
            what = f"{row.name} waits since {_clock(row.since, now)}: {row.reason}"
            yield warning("processes", what, "see what is said of RabbitMQ below; it goes on by itself")
    paused = [row for row in alive if row.state == "paused"]
    if (switch is not None and not switch.is_on) or paused:
        who = f" by {switch.changed_by} since {_clock(switch.changed_at, now)}" if switch else ""
        reason = "".join(f"; {row.reason}" for row in paused[:1] if row.reason)
        what = f"the relay is paused{who}{reason}"
        yield warning("processes", what, "let it go on when the work is done: POST /api/admin/relay/resume")
    counts = {kind: sum(row.kind == kind for row in alive) for kind in ("backend", "relay", "collect", "worker")}
    for kind in _needed(site.settings):
        if not counts[kind]:
            yield warning("processes", f"no {kind} is running", START[kind])
    said = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)
    if said:
        yield ok("processes", f"heard of a moment ago: {said}")


def _needed(settings: Settings) -> Sequence[str]:
    # A worker that knows only RabbitMQ does not tell the database that it is there.
    return ("relay", "collect") if settings.enable_message_queue else ("collect", "worker")


def _clock(moment: datetime, now: datetime) -> str:
    if now - moment > timedelta(hours=20):
        return moment.astimezone().strftime("%Y-%m-%d %H:%M")
    return moment.astimezone().strftime("%H:%M:%S")


async def look_at_work(site: Site) -> AsyncIterator[Finding]:
    """Messages stuck in the database queue, and attempts that never end."""
    if site.engine is None:
        return
    overdue = site.settings.task_timeout_seconds + SILENCE_MARGIN_SECONDS
    async with reading(site.engine) as conn:
        waiting = await _waiting(conn)
        at_rabbitmq = await _count(conn, q.c.holder == AT_RABBITMQ)
        kinds = set(
            (await conn.execute(select(c.c.kind).where(c.c.seen_at > DatabaseTime(-SILENT_SECONDS)))).scalars()
        )
        hung = (
            await conn.execute(
                select(func.count(), func.min(t.c.worker)).where(
                    t.c.state == TaskState.PROCESSING, t.c.started_at < DatabaseTime(-overdue)
                )
            )
        ).one()
    stuck = False
    tasks = waiting.get(Queue.TASKS, 0)
    is_queued = site.settings.enable_message_queue
    if tasks and is_queued and "relay" not in kinds:
        stuck = True
        what = (
            f"{several(tasks, 'task waits', 'tasks wait')} in the database queue, and no relay moves them to RabbitMQ"
        )
        yield (warning if "worker" in kinds else problem)("work", what, START["relay"])
    if tasks and not is_queued and "worker" not in kinds:
        stuck = True
        what = f"{several(tasks, 'task waits', 'tasks wait')} in the database queue, and no worker takes them"
        yield problem("work", what, START["worker"])
    if at_rabbitmq and not is_queued and "collect" not in kinds:
        stuck = True
        what = f"{several(at_rabbitmq, 'task is', 'tasks are')} still held for RabbitMQ, which is switched off"
        yield problem("work", what, f"{START['collect']}: it takes them back")
    for name, waits in (
        (Queue.RESULTS, ("result waits", "results wait")),
        (Queue.DEAD_LETTERS, ("dead letter waits", "dead letters wait")),
    ):
        if waiting.get(name) and "collect" not in kinds:
            stuck = True
            what = f"{several(waiting[name], *waits)}, and no collect applies them"
            yield problem("work", what, START["collect"])
    if hung[0]:
        stuck = True
        attempts = several(hung[0], "attempt runs", "attempts run")
        what = f"{attempts} for longer than {overdue:g} s, the deadline and a margin; one at {hung[1]}"
        step = "restart that worker; collect gives them to another one, if it is running"
        yield problem("work", what, step)
    if not stuck:
        total = sum(waiting.values())
        messages = several(total, "message waits", "messages wait")
        yield ok("work", f"{messages} in the database queue for its turn" if total else "nothing waits for a process")


async def _waiting(conn: AsyncConnection) -> dict[str, int]:
    """Messages that anybody might have taken for a while, by queue."""
    rows = await conn.execute(
        select(q.c.queue, func.count())
        .where(q.c.holder.is_(None), q.c.visible_at < DatabaseTime(-PATIENCE_SECONDS))
        .group_by(q.c.queue)
    )
    return {queue: count for queue, count in rows}


async def _count(conn: AsyncConnection, condition: Any) -> int:
    return int((await conn.execute(select(func.count()).select_from(q).where(condition))).scalar_one())


async def look_at_failures(site: Site) -> AsyncIterator[Finding]:
    """The commonest reasons of the last hour, each with an example."""
    if site.engine is None:
        return
    async with reading(site.engine) as conn:
        if not has_message_queue_tables(conn):
            yield skipped("failures", "revision 009 keeps no record of them", revisions.UPGRADE)
            return
        reasons = (
            await conn.execute(
                select(f.c.reason, func.count().label("count"), func.max(f.c.id).label("last"))
                .where(f.c.failed_at > DatabaseTime(-RECENT_SECONDS), ~f.c.superseded)
                .group_by(f.c.reason)
                .order_by(func.count().desc(), f.c.reason)
            )
        ).all()
        for reason, count, last in reasons[:COMMONEST]:
            error = (await conn.execute(select(f.c.error).where(f.c.id == last))).scalar_one()
            if reason == BadMessage.code:
                what = f"{several(count, 'message', 'messages')} of the last hour could not be read, as: {error}"
                yield problem("failures", what, MENDING[reason])
            else:
                what = f"{several(count, 'attempt', 'attempts')} of the last hour ended in {reason}, as: {error}"
                yield warning("failures", what, MENDING.get(reason, OTHERWISE))
    if not reasons:
        yield ok("failures", "none in the last hour")
