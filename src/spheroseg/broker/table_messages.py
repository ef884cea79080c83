"""Rows of `segmentation_queue` as messages, and the errors of the database as errors of a broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from spheroseg.database.queue import QueueRow
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, Queue


def to_message(row: QueueRow) -> Message:
    """Return the message that is stored in a row of `segmentation_queue`."""
    return Message(
        id=row.message_id,
        routing_key=row.routing_key,
        body=bytes(row.body),
        content_encoding=row.content_encoding,
        priority=row.priority,
        task_id=row.task_id,
        user_id=row.user_id,
        headers=row.headers,
    )


def dead_letter_headers(message: Message, queue: Queue) -> dict[str, Any]:
    """Return the headers of a message rejected from `queue`, with a new `x-death` entry as RabbitMQ writes it."""
    death = {"reason": "rejected", "queue": str(queue), "routing-keys": [message.routing_key], "count": 1}
    return {**message.headers, "x-death": [death, *message.headers.get("x-death", [])]}


@contextmanager
def database_errors_as_broker_errors() -> Iterator[None]:
    """Raise BrokerAway instead of any error of the database or of the connection to it."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise BrokerAway(f"the database queue does not answer: {error}") from error
