"""Checks of what the database records: running processes, waiting work, failures."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from spheroseg.database import revisions, switches
from spheroseg.database.components import SILENT_SECONDS
from spheroseg.database.engine import read_database_time, reading
from spheroseg.database.figures import (
    OverdueAttempts,
    Process,
    QueueFigures,
    read_alive_processes,
    read_overdue_attempts,
    read_processes,
    read_queue_figures,
    read_recent_failures,
)
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.errors import BadMessage
from spheroseg.messages import Queue
from spheroseg.monitoring.doctor.advice import BY_FAILURE_REASON, HOW_TO_START, ON_OTHER_FAILURE
from spheroseg.monitoring.doctor.checks import CheckContext, CheckResult, ok, pluralize, problem, skipped, warning
from spheroseg.settings import SILENCE_MARGIN_SECONDS, Settings

RECENT_SECONDS = 3600.0
# Processes poll the queue several times a second, so a message that waits for less long is no reason to worry.
MAX_IDLE_WAIT_SECONDS = 10.0
MAX_REASONS = 5


async def check_processes(context: CheckContext) -> AsyncIterator[CheckResult]:
    if context.engine is None:
        return
    async with reading(context.engine) as conn:
        now = await read_database_time(conn)
        processes = await read_processes(conn)
        switch = await switches.read_switch(conn, switches.RELAY)
    alive = [process for process in processes if _silent_seconds(process, now) <= SILENT_SECONDS]
    for process in processes:
        if SILENT_SECONDS < _silent_seconds(process, now) <= RECENT_SECONDS:
            message = f"{process.name} has sent no heartbeat since {_clock_time(process.seen_at, now)}"
            advice = "it was killed, or cannot reach the database: look into its log, and start it again"
            yield warning("processes", message, advice)
    for process in alive:
        if process.state == "away":
            message = f"{process.name} has been waiting since {_clock_time(process.since, now)}: {process.reason}"
            yield warning("processes", message, "see the results for RabbitMQ below; it continues by itself")
    paused = [process for process in alive if process.state == "paused"]
    if (switch is not None and not switch.is_on) or paused:
        by_whom = f" by {switch.changed_by} since {_clock_time(switch.changed_at, now)}" if switch else ""
        reason = "".join(f"; {process.reason}" for process in paused[:1] if process.reason)
        message = f"the relay is paused{by_whom}{reason}"
        yield warning("processes", message, "resume it when the work is done: POST /api/admin/relay/resume")
    counts = Counter(process.kind for process in alive)
    for kind in _needed_kinds(context.settings):
        if not counts[kind]:
            yield warning("processes", f"no {kind} process is running", HOW_TO_START[kind])
    running = ", ".join(
        f"{kind} {counts[kind]}" for kind in ("backend", "relay", "collect", "worker") if counts[kind]
    )
    if running:
        yield ok("processes", f"running: {running}")


def _silent_seconds(process: Process, now: datetime) -> float:
    return (now - process.seen_at).total_seconds()


def _needed_kinds(settings: Settings) -> Sequence[str]:
    # A worker without a DATABASE_URL records no heartbeat, so with RabbitMQ a missing one proves nothing.
    return ("relay", "collect") if settings.enable_message_queue else ("collect", "worker")


def _clock_time(moment: datetime, now: datetime) -> str:
    if now - moment > timedelta(hours=20):
        return moment.astimezone().strftime("%Y-%m-%d %H:%M")
    return moment.astimezone().strftime("%H:%M:%S")


async def check_queues(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Look for messages that no process takes from the database queue, and for attempts that never end."""
    if context.engine is None:
        return
    overdue_seconds = context.settings.task_timeout_seconds + SILENCE_MARGIN_SECONDS
    async with reading(context.engine) as conn:
        figures = await read_queue_figures(conn, overdue_after=MAX_IDLE_WAIT_SECONDS)
        alive_kinds = {process.kind for process in await read_alive_processes(conn)}
        attempts = await read_overdue_attempts(conn, overdue_seconds)
    results = [
        *_find_waiting(figures, alive_kinds, is_queue_enabled=context.settings.enable_message_queue),
        *_find_overdue(attempts, overdue_seconds),
    ]
    for result in results:
        yield result
    if not results:
        total = sum(queue.overdue for queue in figures.values())
        messages = pluralize(total, "message waits", "messages wait")
        yield ok("work", f"{messages} in the database queue" if total else "no message waits")


def _find_waiting(
    figures: Mapping[str, QueueFigures], alive_kinds: set[str], *, is_queue_enabled: bool
) -> Iterator[CheckResult]:
    tasks = figures.get(Queue.TASKS, QueueFigures()).overdue
    waiting_tasks = f"{pluralize(tasks, 'task waits', 'tasks wait')} in the database queue"
    if tasks and is_queue_enabled and "relay" not in alive_kinds:
        # Workers that have a DATABASE_URL take these tasks from the table.
        verdict = warning if "worker" in alive_kinds else problem
        yield verdict("work", f"{waiting_tasks}, and no relay moves them to RabbitMQ", HOW_TO_START["relay"])
    if tasks and not is_queue_enabled and "worker" not in alive_kinds:
        yield problem("work", f"{waiting_tasks}, and no worker takes them", HOW_TO_START["worker"])
    if "collect" in alive_kinds:
        return
    at_rabbitmq = sum(queue.at_rabbitmq for queue in figures.values())
    if at_rabbitmq and not is_queue_enabled:
        held = pluralize(at_rabbitmq, "task is", "tasks are")
        message = f"{held} still held for RabbitMQ, which is switched off"
        yield problem("work", message, f"{HOW_TO_START['collect']}: it takes them back")
    for name, one, many in (
        (Queue.RESULTS, "result waits", "results wait"),
        (Queue.DEAD_LETTERS, "dead letter waits", "dead letters wait"),
    ):
        if overdue := figures.get(name, QueueFigures()).overdue:
            message = f"{pluralize(overdue, one, many)}, and no collect process applies them"
            yield problem("work", message, HOW_TO_START["collect"])


def _find_overdue(attempts: OverdueAttempts, seconds: float) -> Iterator[CheckResult]:
    if attempts.attempts:
        running = pluralize(attempts.attempts, "attempt runs", "attempts run")
        message = f"{running} for longer than {seconds:g} s, the deadline and a margin; one at {attempts.worker}"
        yield problem("work", message, "restart that worker; collect gives them to another one, if it is running")


async def check_failures(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Report the most frequent reasons of the last hour, each with an example."""
    if context.engine is None:
        return
    async with reading(context.engine) as conn:
        if not keeps_failures(conn):
            yield skipped("failures", "revision 009 keeps no record of them", revisions.UPGRADE)
            return
        failures = await read_recent_failures(conn, RECENT_SECONDS)
    for failure in failures[:MAX_REASONS]:
        if failure.reason == BadMessage.code:
            messages = pluralize(failure.attempts, "message", "messages")
            text = f"{messages} of the last hour could not be read, for example: {failure.newest_error}"
            yield problem("failures", text, BY_FAILURE_REASON[failure.reason])
        else:
            attempts = pluralize(failure.attempts, "attempt", "attempts")
            text = f"{attempts} of the last hour ended in {failure.reason}, for example: {failure.newest_error}"
            yield warning("failures", text, BY_FAILURE_REASON.get(failure.reason, ON_OTHER_FAILURE))
    if not failures:
        yield ok("failures", "none in the last hour")
