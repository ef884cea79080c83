"""`spheroseg queue`, `dlq`, `task`, `broker`: questions to the queues, and the few things to do about them."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape

from spheroseg.broker.credentials import with_user
from spheroseg.broker.management import Management
from spheroseg.broker.topology import definitions
from spheroseg.cli.output import DryRun, Json, Yes, actor, confirm, print_json, print_rows
from spheroseg.database import queue as table
from spheroseg.database.audit import record
from spheroseg.database.engine import reading
from spheroseg.database.failures import FailureFilter, list_dead_letters, read_failures
from spheroseg.database.task_details import read_task
from spheroseg.errors import BrokerAway, SpherosegError
from spheroseg.messages import Message, Queue
from spheroseg.monitoring.queue_metrics import queue_metrics
from spheroseg.queueing.dead_letters import DISCARD, RETRY, DeadLetterAction, change_dead_letters
from spheroseg.queueing.submit import cancel, retry
from spheroseg.resources import Resources, open_resources, rabbit_broker
from spheroseg.settings import read_settings

queue_app = typer.Typer(help="The queues: what is in them, and emptying them.", no_args_is_help=True)
dlq_app = typer.Typer(help="Dead letters: what failed for good, and what nobody could read.", no_args_is_help=True)
task_app = typer.Typer(help="One task: its story, another try, the end of it.", no_args_is_help=True)
broker_app = typer.Typer(help="What must be at RabbitMQ: declare it, check it, export it.", no_args_is_help=True)


def _ask(question: Callable[[Resources], Awaitable[Any]]) -> Any:
    settings = read_settings()

    async def asking() -> Any:
        async with open_resources(settings) as place:
            return await question(place)

    return asyncio.run(asking())


@queue_app.command("list")
def queue_list(as_json: Json = False) -> None:
    """Every queue: what waits and what is in hand, in the database and at RabbitMQ."""
    figures = _ask(lambda place: queue_metrics(place.engine, place.rabbit, place.management))
    rows = []
    for queue in Queue:
        here = figures["database_queue"].get(queue, {})
        there = figures["queues"].get(queue, {})
        rows.append(
            {
                "queue": str(queue),
                "waiting": here.get("waiting", 0),
                "in_hand": here.get("in_hand", 0),
                "oldest_s": here.get("oldest_seconds"),
                "rabbitmq_ready": there.get("ready"),
                "rabbitmq_unacked": there.get("unacked"),
                "rabbitmq_consumers": there.get("consumers"),
            }
        )
    print_rows(rows, list(rows[0]), as_json=as_json, nothing="")
    if not as_json:
        state = figures["queue"]
        Console().print(f"\nRabbitMQ: {state['status']}" + (f" ({state['reason']})" if "reason" in state else ""))


@queue_app.command("show")
def queue_show() -> None:
    """All figures of the queues, tasks and failures, as JSON."""
    print_json(_ask(lambda place: queue_metrics(place.engine, place.rabbit, place.management)))


@queue_app.command("peek")
def queue_peek(
    queue: Annotated[Queue, typer.Argument(help="Name of the queue.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 10,
    as_json: Json = False,
) -> None:
    """Look at the next messages without taking them: those in the database, then those at RabbitMQ.

    Tasks at RabbitMQ are left out: looking would mark them as redelivered, which means that a worker was lost.
    """

    async def peek(place: Resources) -> list[dict[str, Any]]:
        async with reading(place.engine) as conn:
            found = await table.peek(conn, queue, count)
        rows = [_peeked(row.message_id, row.priority, row.body, "database", row.holder or "") for row in found]
        if place.rabbit and queue != Queue.TASKS and len(rows) < count:
            async with place.rabbit.consume(queue, prefetch=count - len(rows)) as consumer:
                deliveries = await consumer.take(count - len(rows), 1.0)
                rows += [_of_message(delivery.message) for delivery in deliveries]
        return rows

    rows = _ask(peek)
    columns = ["message", "priority", "where", "held_by", "body"]
    print_rows(rows, columns, as_json=as_json, nothing="Nothing waits there.")


def _of_message(message: Message) -> dict[str, Any]:
    return _peeked(message.id, message.priority, message.body, "rabbitmq", "")


def _peeked(id_: str, priority: int, body: bytes, where: str, holder: str) -> dict[str, Any]:
    text = bytes(body)[:200].decode(errors="replace")
    return {"message": id_, "priority": priority, "where": where, "held_by": holder, "body": text}


@queue_app.command("purge")
def queue_purge(queue: Annotated[Queue, typer.Argument(help="Name of the queue.")], yes: Yes = False) -> None:
    """Empty a queue, in the database and at RabbitMQ. Tasks whose messages were in it are queued again by collect."""
    confirm(f"Delete all messages in {queue}?", yes=yes)

    async def purge(place: Resources) -> int:
        async with place.engine.begin() as conn:
            count = await table.purge(conn, queue) + (await place.rabbit.purge(queue) if place.rabbit else 0)
            await record(conn, actor(), "queue.purge", queue=str(queue), count=count)
        return count

    print(f"{_ask(purge)} messages deleted from {queue}")


Reason = Annotated[str | None, typer.Option("--reason", help="Only with this reason, such as timeout.")]
Worker = Annotated[str | None, typer.Option("--worker", help="Only from this worker.")]
ImageName = Annotated[str | None, typer.Option("--image", help="Only images whose name contains this.")]
Since = Annotated[datetime | None, typer.Option("--since", help="Only from this time on.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them.")]


def _filter(
    number: int | None, reason: str | None, worker: str | None, image: str | None, since: datetime | None
) -> FailureFilter:
    ids = None if number is None else (number,)
    return FailureFilter(
        ids=ids, reason=reason, worker=worker, image=image, since=since.astimezone() if since else None
    )


@dlq_app.command("list")
def dlq_list(
    reason: Reason = None,
    worker: Worker = None,
    image: ImageName = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """What failed for good and what nobody could read, the newest first."""
    letters = _ask(_listing(_filter(None, reason, worker, image, since)))
    columns = ["id", "image", "attempt", "reason", "error", "worker", "failed_at"]
    rows = [{name: getattr(letter, name) for name in [*columns, "task_id"]} for letter in letters]
    print_rows(rows, columns, as_json=as_json, nothing="No dead letters.")


def _listing(wanted: FailureFilter) -> Callable[[Resources], Awaitable[Any]]:
    async def listing(place: Resources) -> Any:
        async with reading(place.engine) as conn:
            return await list_dead_letters(conn, wanted)

    return listing


@dlq_app.command("show")
def dlq_show(number: Annotated[int, typer.Argument(metavar="ID", help="As `dlq list` gives it.")]) -> None:
    """One dead letter with everything that is known of it, as JSON."""
    letters = _ask(_listing(FailureFilter(ids=(number,))))
    if not letters:
        raise SpherosegError(f"there is no dead letter {number}: `spheroseg dlq list` shows those there are")
    print_json(letters[0]._asdict())


def _add_change(name: str, meaning: str, action: DeadLetterAction, done: str, question: str = "") -> None:
    """A command that chooses dead letters and does something to them; with a `question` it asks first."""

    def command(
        number: Annotated[int | None, typer.Argument(metavar="ID", help="One, or choose by the options.")] = None,
        reason: Reason = None,
        worker: Worker = None,
        image: ImageName = None,
        since: Since = None,
        everything: Everything = False,
        dry_run: DryRun = False,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", hidden=not question)] = not question,
    ) -> None:
        wanted = _filter(number, reason, worker, image, since)
        if wanted == FailureFilter() and not everything:
            raise typer.BadParameter(
                "name one by its id, choose with --reason, --worker, --image, --since, or say --all"
            )
        if not dry_run:
            confirm(question, yes=yes)

        async def changing(place: Resources) -> int:
            async with place.engine.begin() as conn:
                changed = await change_dead_letters(
                    conn, action, wanted, actor(), is_all=everything, is_dry_run=dry_run
                )
                return changed.count

        count = _ask(changing)
        print(f"{count} would be {done}" if dry_run else f"{count} {done}")

    dlq_app.command(name, help=meaning)(command)


_add_change("retry", "Give them another set of tries.", RETRY, "queued again")
_add_change(
    "discard",
    "Take them off the list. Their tasks stay failed, and everything stays on record.",
    DISCARD,
    "discarded",
    "Discard these dead letters?",
)


TaskId = Annotated[UUID, typer.Argument(metavar="TASK", help="Id of the task.")]


@task_app.command("show")
def task_show(task_id: TaskId, as_json: Json = False) -> None:
    """The story of a task: its state, its attempts, why they ended."""

    async def show(place: Resources) -> dict[str, Any]:
        async with reading(place.engine) as conn:
            task = await read_task(conn, task_id)
            failures = await read_failures(conn, task_id)
        return {**task._asdict(), "failures": [failure._asdict() for failure in failures]}

    story = _ask(show)
    if as_json:
        print_json(story)
        return
    console = Console()
    for name in ("image", "state", "attempt", "retries", "lost_count", "worker", "reason", "error", "started_at"):
        if story[name] is not None:
            console.print(f"{name.replace('_', ' '):12} {escape(str(story[name]))}", highlight=False)
    columns = ["attempt", "cause", "reason", "error", "worker", "failed_at", "next_attempt_at", "superseded"]
    print_rows(story["failures"], columns, as_json=False, nothing="No failed attempt is on record.")


@task_app.command("retry")
def task_retry(task_id: TaskId) -> None:
    """Give a failed task another set of tries."""
    _act(task_id, "task.retry", retry, "queued again", "only a failed task can be tried again")


@task_app.command("cancel")
def task_cancel(task_id: TaskId) -> None:
    """Cancel a task that is not finished; a worker that is at it stops."""
    _act(task_id, "task.cancel", cancel, "cancelled", "only a task that is not finished can be cancelled")


def _act(task_id: UUID, name: str, action: Callable[..., Awaitable[list[UUID]]], done: str, otherwise: str) -> None:
    async def acting(place: Resources) -> list[UUID]:
        async with place.engine.begin() as conn:
            changed = await action(conn, [task_id])
            if changed:
                await record(conn, actor(), name, task_id=str(task_id))
            return changed

    if not _ask(acting):
        raise SpherosegError(f"not changed: {otherwise}; `spheroseg task show {task_id}` tells its state")
    print(f"{task_id} {done}")


@broker_app.command("declare")
def broker_declare() -> None:
    """Declare exchanges, queues and bindings, and the policies where RABBITMQ_MANAGEMENT_URL is set."""
    settings = read_settings()

    async def declare() -> None:
        rabbit = rabbit_broker(settings)
        try:
            for queue in Queue:
                await rabbit.depth(queue)
            print(f"exchanges, queues and bindings are there ({settings.rabbitmq_queue_type})")
            if not settings.rabbitmq_management_url:
                print("policies were left alone: set RABBITMQ_MANAGEMENT_URL to declare them too")
                return
            management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
            try:
                await management.set_policies(settings.rabbitmq_queue_type)
                print("policies are set")
            finally:
                await management.close()
        finally:
            await rabbit.close()

    asyncio.run(declare())


@broker_app.command("check")
def broker_check(as_json: Json = False) -> None:
    """Compare what is at RabbitMQ with what should be. Exit code 1 where they differ."""
    settings = read_settings()
    if not settings.rabbitmq_management_url:
        raise BrokerAway("the check asks the management API: set RABBITMQ_MANAGEMENT_URL")

    async def check() -> list[dict[str, Any]]:
        management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
        try:
            differences = await management.check(settings.rabbitmq_queue_type)
        finally:
            await management.close()
        return [{"what": difference.what, "what_to_do": difference.advice} for difference in differences]

    findings = asyncio.run(check())
    print_rows(findings, ["what", "what_to_do"], as_json=as_json, nothing="RabbitMQ is as it should be.")
    if findings:
        raise typer.Exit(1)


@broker_app.command("definitions")
def broker_definitions(
    vhost: Annotated[str, typer.Option(help="Virtual host that the definitions are for.")] = "spheroseg",
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With this user; the password from RABBITMQ_PASSWORD, or asked for."),
    ] = None,
) -> None:
    """Print the topology as a RabbitMQ definitions file. The password of a user is in it as a salted hash."""
    wanted = definitions(read_settings().rabbitmq_queue_type, vhost)
    if user is not None:
        wanted = with_user(wanted, user, _new_password(user))
    print(json.dumps(wanted, indent=2))


def _new_password(user: str) -> str:
    # No option: what is in a command line, every user of the machine can read.
    password = os.environ.get("RABBITMQ_PASSWORD", "")
    if not password and sys.stdin.isatty():
        password = typer.prompt(f"Password of {user}", hide_input=True, confirmation_prompt=True, err=True)
    if not password:
        raise SpherosegError(f"no password for {user}: set RABBITMQ_PASSWORD, or run this on a terminal to be asked")
    return password
