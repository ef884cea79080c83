"""`spheroseg queue`: list, show, peek at and purge the queues."""

from typing import Annotated, Any

import typer
from rich.console import Console

from spheroseg.cli.output import Json, Yes, actor, confirm, print_json, print_rows
from spheroseg.cli.with_resources import with_resources
from spheroseg.database import queue as table
from spheroseg.database.audit import record
from spheroseg.database.engine import reading
from spheroseg.messages import Queue
from spheroseg.monitoring.queue_metrics import queue_metrics
from spheroseg.resources import Resources

MAX_BODY_BYTES = 200
PEEK_SECONDS = 1.0

queue_app = typer.Typer(help="Show what is in the queues, or empty them.", no_args_is_help=True)

QueueName = Annotated[Queue, typer.Argument(help="Name of the queue.")]


@queue_app.command("list")
def queue_list(as_json: Json = False) -> None:
    """List the queues with the number of waiting and claimed messages, in the database and at RabbitMQ."""
    metrics = _read_metrics()
    rows = []
    for queue in Queue:
        in_database = metrics["database_queue"].get(queue, {})
        at_rabbitmq = metrics["queues"].get(queue, {})
        rows.append(
            {
                "queue": str(queue),
                "waiting": in_database.get("waiting", 0),
                "in_hand": in_database.get("in_hand", 0),
                "oldest_s": in_database.get("oldest_seconds"),
                "rabbitmq_ready": at_rabbitmq.get("ready"),
                "rabbitmq_unacked": at_rabbitmq.get("unacked"),
                "rabbitmq_consumers": at_rabbitmq.get("consumers"),
            }
        )
    print_rows(rows, list(rows[0]), as_json=as_json, if_empty="")
    if not as_json:
        state = metrics["queue"]
        Console().print(f"\nRabbitMQ: {state['status']}" + (f" ({state['reason']})" if "reason" in state else ""))


@queue_app.command("show")
def queue_show() -> None:
    """Print all numbers about queues, tasks and failures as JSON."""
    print_json(_read_metrics())


def _read_metrics() -> dict[str, Any]:
    return with_resources(lambda resources: queue_metrics(resources.engine, resources.rabbit, resources.management))


@queue_app.command("peek")
def queue_peek(
    queue: QueueName,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Number of messages.")] = 10,
    as_json: Json = False,
) -> None:
    """Show the next messages without taking them: first those in the database, then those at RabbitMQ.

    Tasks at RabbitMQ are not shown, because reading them would mark them as redelivered, as if a worker was lost.
    """

    async def peek(resources: Resources) -> list[dict[str, Any]]:
        async with reading(resources.engine) as conn:
            waiting = await table.peek(conn, queue, count)
        rows = [_row(item.message_id, item.priority, item.body, "database", item.holder or "") for item in waiting]
        if resources.rabbit and queue != Queue.TASKS and len(rows) < count:
            async with resources.rabbit.consume(queue, prefetch=count - len(rows)) as consumer:
                for delivery in await consumer.take(count - len(rows), PEEK_SECONDS):
                    message = delivery.message
                    rows.append(_row(message.id, message.priority, message.body, "rabbitmq", ""))
        return rows

    columns = ["message", "priority", "where", "held_by", "body"]
    print_rows(with_resources(peek), columns, as_json=as_json, if_empty="The queue is empty.")


def _row(message_id: str, priority: int, body: bytes, where: str, holder: str) -> dict[str, Any]:
    text = bytes(body)[:MAX_BODY_BYTES].decode(errors="replace")
    return {"message": message_id, "priority": priority, "where": where, "held_by": holder, "body": text}


@queue_app.command("purge")
def queue_purge(queue: QueueName, yes: Yes = False) -> None:
    """Delete all messages of a queue, in the database and at RabbitMQ.

    Unfinished tasks that lose their message are queued again by `spheroseg collect`.
    """
    confirm(f"Delete all messages in {queue}?", yes=yes)

    async def purge(resources: Resources) -> int:
        async with resources.engine.begin() as conn:
            count = await table.purge(conn, queue)
            if resources.rabbit:
                count += await resources.rabbit.purge(queue)
            await record(conn, actor(), "queue.purge", queue=str(queue), count=count)
        return count

    print(f"{with_resources(purge)} messages deleted from {queue}")
