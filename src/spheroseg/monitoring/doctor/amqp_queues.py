"""Checks over AMQP of what RabbitMQ does with messages: one comes back, and our queues have consumers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue
from spheroseg.monitoring.doctor.advice import HOW_TO_START, ON_ALARM, RABBITMQ_LOG
from spheroseg.monitoring.doctor.amqp import open_link, user_of, vhost_of
from spheroseg.monitoring.doctor.checks import CheckContext, CheckResult, ok, pluralize, problem, warning

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from aio_pika.abc import AbstractChannel

    from spheroseg.broker.link import Link

PUBLISH_TIMEOUT_SECONDS = 3.0
# Larger than any task or report. A server that refuses this size would refuse the report of a finished task.
LARGE_MESSAGE_BYTES = 1024**2


async def check_round_trip(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Publish a small and a large message to a queue that only this connection can use, and get them back."""
    from aio_pika import Message

    async with _open_channel(context, confirms=True) as (link, channel):
        try:
            queue = await link.ask(channel.declare_queue(exclusive=True, auto_delete=True))
            for size in (1, LARGE_MESSAGE_BYTES):
                publishing = channel.default_exchange.publish(Message(bytes(size)), queue.name)
                await link.ask(publishing, max_seconds=PUBLISH_TIMEOUT_SECONDS)
                received = await link.ask(queue.get(no_ack=True, fail=False))
                if received is None or len(received.body) != size:
                    advice = f"look into RabbitMQ's log: {RABBITMQ_LOG}"
                    yield problem("messages", "a confirmed message did not come back", advice)
                    return
        except BrokerAway as error:
            yield _explain_failed_round_trip(context, error)
            return
    yield ok("messages", "a small message and one of 1 MB were published and came back")


def _explain_failed_round_trip(context: CheckContext, error: BrokerAway) -> CheckResult:
    text = str(error.__cause__ or error)
    if error.is_silence:
        message = f"RabbitMQ accepts no messages: none was confirmed within {PUBLISH_TIMEOUT_SECONDS:g} s"
        return problem("messages", message, ON_ALARM)
    if "larger than" in text:
        advice = "raise max_message_size in rabbitmq.conf: the shipped one has 134217728"
    elif "ACCESS_REFUSED" in text:
        url = urlsplit(context.settings.rabbitmq_url)
        advice = f"`rabbitmqctl set_permissions -p {vhost_of(url)} {user_of(url)} '.*' '.*' '.*'`"
    else:
        advice = (
            "look at the memory (`rabbitmqctl status`), at the queues' limits (`spheroseg broker check`), and at its "
            f"log: {RABBITMQ_LOG}"
        )
    return problem("messages", f"Channel closed by broker: {text}", advice)


async def check_queues(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Report the number of waiting messages and of consumers of each queue."""
    from aio_pika.exceptions import ChannelNotFoundEntity

    for queue in Queue:
        async with _open_channel(context, confirms=False) as (link, channel):
            try:
                declared = await link.ask(channel.declare_queue(queue, passive=True))
            except BrokerAway as error:
                if isinstance(error.__cause__, ChannelNotFoundEntity):
                    advice = "relay and workers declare it when they start; or run `spheroseg broker declare`"
                    yield warning("queues", f"{queue} does not exist yet", advice)
                    continue
                raise
        counts = declared.declaration_result
        yield _check_queue(queue, counts.message_count or 0, counts.consumer_count or 0)


def _check_queue(queue: Queue, ready: int, consumers: int) -> CheckResult:
    if consumers:
        return ok("queues", f"{queue}: {ready} waiting, {pluralize(consumers, 'consumer', 'consumers')}")
    kind = "worker" if queue == Queue.TASKS else "collect"
    if ready:
        stuck = pluralize(ready, "message is", "messages are")
        return problem(
            "queues", f"{queue}: {stuck} stuck, because no {kind} process consumes from it", HOW_TO_START[kind]
        )
    return warning("queues", f"{queue}: no {kind} process consumes from it", HOW_TO_START[kind])


@asynccontextmanager
async def _open_channel(context: CheckContext, *, confirms: bool) -> AsyncIterator[tuple["Link", "AbstractChannel"]]:
    link = open_link(context)
    try:
        yield link, await link.channel(confirms=confirms)
    finally:
        await link.close()
