"""The check of the connection to RabbitMQ over AMQP.

The doctor opens connections of its own. It declares none of our queues, and publishes to and consumes from none.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from spheroseg.errors import BrokerAway
from spheroseg.messages import QueueType
from spheroseg.monitoring.doctor.advice import NOTHING_LOST, QUEUE_DISABLED, RABBITMQ_LOG
from spheroseg.monitoring.doctor.checks import CheckContext, CheckResult, ok, problem, skipped, warning

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from aio_pika.abc import AbstractConnection

    from spheroseg.broker.link import Link

ANSWER_TIMEOUT_SECONDS = 4.0
HEARTBEAT_SECONDS = 15
OLDEST_RELEASE, FIRST_UNTESTED_RELEASE = (3, 10), (5, 0)
FIRST_RELEASE_WITH_QUORUM_PRIORITIES = (4, 0)


async def check_connection(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Check name, port, TLS, credentials, virtual host and release, in this order. Report the first that fails."""
    if not context.settings.enable_message_queue:
        yield skipped("RabbitMQ", QUEUE_DISABLED)
        return
    url = urlsplit(context.settings.rabbitmq_url)
    if url.scheme not in ("amqp", "amqps") or not url.hostname or not _has_port(url):
        yield problem(
            "RabbitMQ", f"RABBITMQ_URL is no AMQP address: {url.scheme}://…", "write amqp://USER:…@HOST/VHOST"
        )
        return
    address = f"{url.hostname}:{_port(url)}"
    if result := await _check_network(url, address):
        yield result
        return
    try:
        link = open_link(context)
    except OSError as error:
        message = f"the certificate authority of RABBITMQ_CA_FILE cannot be read: {error.strerror or error}"
        yield problem("RabbitMQ", message, "name a PEM file with the authority that signed the server's certificate")
        return
    try:
        channel = await link.channel(confirms=False)
        underlay = await link.ask(channel.get_underlay_channel())
        release = _text(underlay.connection.server_properties.get("version", "of an unknown release"))
    except BrokerAway as error:
        yield _explain_refusal(url, address, error)
        return
    finally:
        await link.close()
    tls = " over TLS" if url.scheme == "amqps" else ""
    yield ok("RabbitMQ", f"{release} at {address}{tls}, vhost {vhost_of(url)}, as {user_of(url)}")
    number = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    if number and not OLDEST_RELEASE <= number < FIRST_UNTESTED_RELEASE:
        yield warning("RabbitMQ", f"release {release} is not one that spheroseg is tested with", "use 3.10 to 4.x")
    is_quorum = context.settings.rabbitmq_queue_type == QueueType.QUORUM
    if number and number < FIRST_RELEASE_WITH_QUORUM_PRIORITIES and is_quorum:
        message = f"RABBITMQ_QUEUE_TYPE=quorum on {release}: priorities have no effect there"
        yield warning("RabbitMQ", message, "use classic queues, or RabbitMQ 4")


async def _check_network(url: SplitResult, address: str) -> CheckResult | None:
    """Resolve the host name and open a TCP connection. Return the problem, or None if there is none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            await loop.getaddrinfo(url.hostname, _port(url), type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        message = f"no host has the name {url.hostname}"
        return problem("RabbitMQ", message, "correct the host in RABBITMQ_URL; inside Compose it is rabbitmq")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(url.hostname, _port(url))
            writer.close()
    except ConnectionRefusedError:
        message = f"Connection refused: nothing listens at {address}"
        advice = (
            "see whether RabbitMQ runs (`docker-compose ps rabbitmq`) and why not "
            f"({RABBITMQ_LOG}); if it does, correct host and port in RABBITMQ_URL; {NOTHING_LOST}"
        )
        return problem("RabbitMQ", message, advice)
    except (OSError, TimeoutError) as error:
        message = f"{address} cannot be reached: {error or 'no answer'}"
        advice = f"look at the network and firewalls between here and there; {NOTHING_LOST}"
        return problem("RabbitMQ", message, advice)
    return None


def _explain_refusal(url: SplitResult, address: str, error: BrokerAway) -> CheckResult:
    from aio_pika.exceptions import AuthenticationError, ProbableAuthenticationError

    cause = error.__cause__
    text = str(cause or error)
    user, vhost = user_of(url), vhost_of(url)
    if isinstance(cause, (AuthenticationError, ProbableAuthenticationError)) or "ACCESS_REFUSED" in text:
        message = f"ACCESS_REFUSED: RabbitMQ refuses the user {user} with this password"
        advice = f"correct RABBITMQ_URL, or `rabbitmqctl change_password {user}`"
        if user == "guest" and not _is_loopback(url.hostname or ""):
            advice = "guest may connect from RabbitMQ's own machine only: name another user in RABBITMQ_URL"
        return problem("RabbitMQ", message, advice)
    if "Connection.Close" in text or "NOT_ALLOWED" in text:
        message = f"there is no vhost {vhost}, or the user {user} may not use it"
        advice = (
            f"`rabbitmqctl add_vhost {vhost}`, then `rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'`; "
            "or correct RABBITMQ_URL"
        )
        return problem("RabbitMQ", message, advice)
    if isinstance(getattr(cause, "__cause__", None), ssl.SSLCertVerificationError) or "CERTIFICATE" in text:
        advice = "set RABBITMQ_CA_FILE to the authority that signed it, and use the host name that it was issued for"
        return problem("RabbitMQ", f"the certificate of {address} is not trusted: {text}", advice)
    if "SSL" in text:
        advice = "use amqp:// and port 5672 without TLS, or amqps:// and the port where the server speaks TLS (5671)"
        return problem("RabbitMQ", f"{address} does not speak TLS: {text}", advice)
    if error.is_silence:
        message = f"{address} accepts the connection, but does not answer"
        advice = (
            f"the server is frozen or overloaded, or another program listens there: {RABBITMQ_LOG}; {NOTHING_LOST}"
        )
        return problem("RabbitMQ", message, advice)
    return problem(
        "RabbitMQ", f"{address} closes the connection: {text or error}", f"its log says why: {RABBITMQ_LOG}"
    )


def open_link(context: CheckContext) -> "Link":
    """Return a link to RabbitMQ that declares nothing. Raise OSError if RABBITMQ_CA_FILE cannot be read."""
    from spheroseg.broker.link import Link

    async def declare_nothing(_: "AbstractConnection") -> None:
        pass

    return Link(
        context.settings.rabbitmq_url,
        "doctor",
        declare_nothing,
        timeout=ANSWER_TIMEOUT_SECONDS,
        heartbeat=HEARTBEAT_SECONDS,
        ssl_context=context.settings.ssl_context(),
    )


def user_of(url: SplitResult) -> str:
    return url.username or "guest"


def vhost_of(url: SplitResult) -> str:
    return unquote(url.path[1:]) or "/"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _has_port(url: SplitResult) -> bool:
    try:
        return _port(url) > 0
    except ValueError:
        return False


def _port(url: SplitResult) -> int:
    return url.port or (5671 if url.scheme == "amqps" else 5672)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
