"""Converts our messages to messages of AMQP and back."""

from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, HeadersType

from spheroseg.messages import Message


def to_amqp(message: Message) -> aio_pika.Message:
    """Return `message` as a persistent message of AMQP. Its `delay` is ignored: RabbitMQ has no delayed delivery."""
    headers: HeadersType = dict(message.headers)
    for name, value in (("task-id", message.task_id), ("user-id", message.user_id)):
        if value is not None:
            headers[name] = str(value)
    return aio_pika.Message(
        message.body,
        headers=headers,
        content_type="application/json",
        content_encoding=message.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=message.priority,
        message_id=message.id,
        app_id="spheroseg",
    )


def from_amqp(incoming: AbstractIncomingMessage) -> Message:
    """Return a received message as one of ours. It may come from anybody, so nothing in it is trusted."""
    headers = {name: _plain(value) for name, value in incoming.headers.items()}
    return Message(
        id=incoming.message_id or "",
        routing_key=incoming.routing_key or "",
        body=incoming.body,
        priority=incoming.priority or 0,
        task_id=_uuid(headers.pop("task-id", None)),
        user_id=_uuid(headers.pop("user-id", None)),
        headers=headers,
        content_encoding=incoming.content_encoding,
    )


def _uuid(value: object) -> UUID | None:
    # Anybody who can publish can write any header. Ignore a value that is not an id.
    try:
        return UUID(str(value)) if value is not None else None
    except ValueError:
        return None


def _plain(value: object) -> object:
    """Return an AMQP header value as a value of JSON."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode(errors="replace")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
