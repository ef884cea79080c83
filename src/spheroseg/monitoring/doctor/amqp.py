"""Checks over AMQP: can RabbitMQ be reached, does a message come back, what waits in our queues.

On a connection of their own. Nothing of ours is declared, published to or taken from.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue, QueueType
from spheroseg.monitoring.doctor.database import START
from spheroseg.monitoring.doctor.findings import Finding, Site, ok, problem, several, skipped, warning

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from aio_pika.abc import AbstractConnection

    from spheroseg.broker.link import Link

PATIENCE_SECONDS = 4.0
# More than a task or a report of ours; what a limit below it refuses would be refused in the middle of the work.
LARGE_BYTES = 1024**2
OLDEST, NEWEST = (3, 10), (5, 0)

UNUSED = "not used: ENABLE_MESSAGE_QUEUE=false, and tasks are worked from the database"
MEANWHILE = "tasks go over the database queue meanwhile, and nothing is lost"
LOG = "`docker-compose logs rabbitmq`"
ALARM = (
    "a memory or disk alarm, as a rule: `rabbitmqctl status` names it; free memory or disk, or raise the limit in "
    f"rabbitmq.conf; {MEANWHILE}"
)


async def look_at_server(site: Site) -> AsyncIterator[Finding]:
    """Name, port, TLS, credentials, virtual host, release: the first that fails is told."""
    if not site.settings.enable_message_queue:
        yield skipped(
            "RabbitMQ", "ENABLE_MESSAGE_QUEUE=false: tasks are worked from the database, and it is not used"
        )
        return
    url = urlsplit(site.settings.rabbitmq_url)
    if url.scheme not in ("amqp", "amqps") or not url.hostname or not _has_port(url):
        yield problem(
            "RabbitMQ", f"RABBITMQ_URL is no AMQP address: {url.scheme}://…", "write amqp://USER:…@HOST/VHOST"
        )
        return
    place = f"{url.hostname}:{_port(url)}"
    if trouble := await _trouble_on_the_way(url, place):
        yield trouble
        return
    try:
        link = _link(site)
    except OSError as error:
        what = f"the certificate authority of RABBITMQ_CA_FILE cannot be read: {error.strerror or error}"
        yield problem("RabbitMQ", what, "name a PEM file with the authority that signed the server's certificate")
        return
    try:
        channel = await link.channel(confirms=False)
        underlay = await link.ask(channel.get_underlay_channel())
        release = _text(underlay.connection.server_properties.get("version", "of an unknown release"))
    except BrokerAway as error:
        yield _refused(site, url, place, error)
        return
    finally:
        await link.close()
    by = " over TLS" if url.scheme == "amqps" else ""
    yield ok("RabbitMQ", f"{release} at {place}{by}, vhost {_vhost(url)}, as {url.username or 'guest'}")
    number = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    if number and not OLDEST <= number < NEWEST:
        yield warning("RabbitMQ", f"release {release} is not one that spheroseg is tested with", "use 3.10 to 4.x")
    if number and number < (4, 0) and site.settings.rabbitmq_queue_type == QueueType.QUORUM:
        what = f"RABBITMQ_QUEUE_TYPE=quorum on {release}: priorities have no effect there"
        yield warning("RabbitMQ", what, "use classic queues, or RabbitMQ 4")


async def _trouble_on_the_way(url: SplitResult, place: str) -> Finding | None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await loop.getaddrinfo(url.hostname, _port(url), type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        what = f"no host has the name {url.hostname}"
        return problem("RabbitMQ", what, "correct the host in RABBITMQ_URL; inside Compose it is rabbitmq")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, writer = await asyncio.open_connection(url.hostname, _port(url))
            writer.close()
    except ConnectionRefusedError:
        what = f"Connection refused: nothing listens at {place}"
        step = (
            "see whether RabbitMQ runs (`docker-compose ps rabbitmq`) and why not "
            f"({LOG}); if it does, correct host and port in RABBITMQ_URL; {MEANWHILE}"
        )
        return problem("RabbitMQ", what, step)
    except (OSError, TimeoutError) as error:
        what = f"{place} cannot be reached: {error or 'no answer'}"
        step = f"look at the network and firewalls between here and there; {MEANWHILE}"
        return problem("RabbitMQ", what, step)
    return None


def _refused(site: Site, url: SplitResult, place: str, error: BrokerAway) -> Finding:
    from aio_pika.exceptions import AuthenticationError, ProbableAuthenticationError

    cause = error.__cause__
    words = str(cause or error)
    user, vhost = url.username or "guest", _vhost(url)
    if isinstance(cause, (AuthenticationError, ProbableAuthenticationError)) or "ACCESS_REFUSED" in words:
        what = f"ACCESS_REFUSED: RabbitMQ refuses the user {user} with this password"
        step = f"correct RABBITMQ_URL, or `rabbitmqctl change_password {user}`"
        if user == "guest" and not _is_loopback(url.hostname or ""):
            step = "guest may come from RabbitMQ's own machine only: give RABBITMQ_URL a user of its own"
        return problem("RabbitMQ", what, step)
    if "Connection.Close" in words or "NOT_ALLOWED" in words:
        what = f"there is no vhost {vhost}, or the user {user} may not use it"
        step = (
            f"`rabbitmqctl add_vhost {vhost}`, then `rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'`; "
            "or correct RABBITMQ_URL"
        )
        return problem("RabbitMQ", what, step)
    if isinstance(getattr(cause, "__cause__", None), ssl.SSLCertVerificationError) or "CERTIFICATE" in words:
        step = "set RABBITMQ_CA_FILE to the authority that signed it, and use the host name that it is made for"
        return problem("RabbitMQ", f"the certificate of {place} is not trusted: {words}", step)
    if "SSL" in words:
        step = "use amqp:// and port 5672 without TLS, or amqps:// and the port where the server speaks TLS (5671)"
        return problem("RabbitMQ", f"{place} does not speak TLS: {words}", step)
    if error.is_silence:
        what = f"{place} takes the connection, and does not answer"
        step = f"the server is frozen or overloaded, or something else listens there: {LOG}; {MEANWHILE}"
        return problem("RabbitMQ", what, step)
    return problem("RabbitMQ", f"{place} ends the connection: {words or error}", f"its log says why: {LOG}")


async def look_at_round_trip(site: Site) -> AsyncIterator[Finding]:
    """A small message and a large one, through a queue that only this connection sees."""
    from aio_pika import Message

    async with _channel(site, confirms=True) as (link, channel):
        try:
            queue = await link.ask(channel.declare_queue(exclusive=True, auto_delete=True))
            for size in (1, LARGE_BYTES):
                message = Message(bytes(size))
                await link.ask(channel.default_exchange.publish(message, queue.name), patience=3.0)
                taken = await link.ask(queue.get(no_ack=True, fail=False))
                if taken is None or len(taken.body) != size:
                    yield problem("messages", "a confirmed message did not come back", f"look into its log: {LOG}")
                    return
        except BrokerAway as error:
            yield _broken(site, error)
            return
    yield ok("messages", "one went through a queue of its own and came back; so did one of 1 MB")


def _broken(site: Site, error: BrokerAway) -> Finding:
    words = str(error.__cause__ or error)
    url = urlsplit(site.settings.rabbitmq_url)
    if error.is_silence:
        return problem("messages", "RabbitMQ takes no messages: none was confirmed within 3 s", ALARM)
    if "larger than" in words:
        step = "raise max_message_size in rabbitmq.conf: 134217728 is what the shipped one has"
        return problem("messages", f"Channel closed by broker: {words}", step)
    if "ACCESS_REFUSED" in words:
        user, vhost = url.username or "guest", _vhost(url)
        step = f"`rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'`"
        return problem("messages", f"Channel closed by broker: {words}", step)
    step = (
        f"look at memory (`rabbitmqctl status`), at the queues' limits (`spheroseg broker check`), at its log: {LOG}"
    )
    return problem("messages", f"Channel closed by broker: {words}", step)


async def look_at_queues(site: Site) -> AsyncIterator[Finding]:
    """What waits, and who takes it."""
    from aio_pika.exceptions import ChannelNotFoundEntity

    for queue in Queue:
        async with _channel(site, confirms=False) as (link, channel):
            try:
                declared = await link.ask(channel.declare_queue(queue, passive=True))
            except BrokerAway as error:
                if isinstance(error.__cause__, ChannelNotFoundEntity):
                    what = f"{queue} does not exist yet"
                    yield warning("queues", what, "relay and workers declare it; or run `spheroseg broker declare`")
                    continue
                raise
        result = declared.declaration_result
        yield _queue(queue, result.message_count or 0, result.consumer_count or 0)


def _queue(queue: Queue, ready: int, consumers: int) -> Finding:
    if consumers:
        return ok("queues", f"{queue}: {ready} waiting, {several(consumers, 'consumer', 'consumers')}")
    kind = "worker" if queue == Queue.TASKS else "collect"
    if ready:
        messages = several(ready, "message is", "messages are")
        what = f"{queue}: {messages} stuck, because no {kind} takes from it"
        return problem("queues", what, START[kind])
    if queue == Queue.TASKS:
        return warning("queues", f"{queue}: no worker takes from it", START["worker"])
    return warning("queues", f"{queue}: no collect takes from it", START["collect"])


@asynccontextmanager
async def _channel(site: Site, *, confirms: bool) -> AsyncIterator[tuple["Link", Any]]:
    link = _link(site)
    try:
        yield link, await link.channel(confirms=confirms)
    finally:
        await link.close()


def _link(site: Site) -> "Link":
    from spheroseg.broker.link import Link

    async def declare_nothing(_: "AbstractConnection") -> None:
        pass

    return Link(
        site.settings.rabbitmq_url,
        "doctor",
        declare_nothing,
        patience=PATIENCE_SECONDS,
        heartbeat=15,
        ssl_context=site.settings.ssl_context(),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _has_port(url: SplitResult) -> bool:
    try:
        return _port(url) > 0
    except ValueError:
        return False


def _port(url: SplitResult) -> int:
    return url.port or (5671 if url.scheme == "amqps" else 5672)


def _vhost(url: SplitResult) -> str:
    return unquote(url.path[1:]) or "/"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
