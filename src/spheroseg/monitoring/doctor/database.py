"""Checks of the database itself: the connection, the revision of its schema, and its clock."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from spheroseg.database import revisions
from spheroseg.database.engine import open_engine, read_database_time, reading
from spheroseg.database.revision_010 import set_revision_010
from spheroseg.errors import SchemaUnusable
from spheroseg.monitoring.doctor.checks import CheckContext, CheckResult, compare_clocks, ok, problem

CONNECT_TIMEOUT_SECONDS = 5.0


async def check_connection(context: CheckContext) -> AsyncIterator[CheckResult]:
    url = context.settings.resolved_database_url()
    try:
        parsed = make_url(url)
        if parsed.drivername.startswith("sqlite"):
            if parsed.database and not os.path.exists(parsed.database):  # noqa: ASYNC240 (a moment)
                only_worker = "; a worker needs none" if context.settings.enable_message_queue else ""
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
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS), reading(engine) as conn:
            await read_database_time(conn)
    except (Exception, TimeoutError) as error:
        await engine.dispose()
        yield _explain_unreachable(parsed, where, error)
        return
    context.engine = engine
    yield ok("database", where)


def _explain_unreachable(url: URL, where: str, error: BaseException) -> CheckResult:
    """Return a problem for `error`, using PostgreSQL's SQLSTATE codes (Appendix A of its manual)."""
    address = f"{url.host}:{url.port or 5432}"
    cause = getattr(error, "orig", None) or error
    sqlstate = getattr(cause, "sqlstate", None) or getattr(error, "sqlstate", None) or ""
    description = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    match error:
        case ConnectionRefusedError():
            message = f"Connection refused: no PostgreSQL listens at {address}"
            return problem("database", message, "start it (`docker-compose up -d db`), or correct DATABASE_URL")
        case socket.gaierror():
            message = f"no host has the name {url.host}"
            return problem("database", message, "correct the host in DATABASE_URL; inside Compose it is db")
        case TimeoutError():
            message = f"{address} does not answer"
            return problem("database", message, "look at the network and firewalls between here and there")
    if sqlstate in ("28P01", "28000"):
        message = f"the user {url.username} is refused: {description}"
        return problem("database", message, "correct user and password in DATABASE_URL")
    if sqlstate == "3D000":
        advice = f"correct DATABASE_URL, or `createdb {url.database}` and then {revisions.UPGRADE}"
        return problem("database", f"there is no database {url.database} at {address}", advice)
    if sqlstate == "53300":
        advice = "run fewer processes, or raise max_connections"
        return problem("database", f"PostgreSQL has no connection left: {description}", advice)
    return problem(
        "database", f"{where} does not answer: {description}", "check DATABASE_URL and the log of the server"
    )


async def check_schema(context: CheckContext) -> AsyncIterator[CheckResult]:
    if context.engine is None:
        return
    is_sqlite = context.engine.dialect.name == "sqlite"
    revision = None
    try:
        revision = await revisions.current(context.engine)
        if revision is None and is_sqlite:
            yield ok("schema", "empty: the first command makes the tables")
        else:
            # SQLite is upgraded automatically by the first command.
            needs_queue = context.settings.enable_message_queue and not is_sqlite
            revisions.refuse_unusable(revision, needs_message_queue=needs_queue)
    except SchemaUnusable as error:
        message, _, advice = str(error).partition(": ")
        yield problem("schema", message, advice)
    if revision not in revisions.REVISIONS:
        # There are no tables that the other checks could read.
        await _disconnect(context)
        return
    is_head = revision == revisions.HEAD
    set_revision_010(context.engine, is_head)
    if is_head:
        yield ok("schema", f"revision {revision}, the newest")
    elif not context.settings.enable_message_queue:
        yield ok("schema", f"revision {revision}, enough for the database queue")


async def _disconnect(context: CheckContext) -> None:
    engine, context.engine = context.engine, None
    if engine is not None:
        await engine.dispose()


async def check_clock(context: CheckContext) -> AsyncIterator[CheckResult]:
    if context.engine is None:
        return
    async with reading(context.engine) as conn:
        before = context.now()
        database_time = await read_database_time(conn)
        middle = before + (context.now() - before) / 2
    yield compare_clocks("database clock", "the database", (database_time - middle).total_seconds())
