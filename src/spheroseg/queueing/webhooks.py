"""When a batch has finished, its webhook is called: signed, tried again with backoff, and visible when it fails."""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from sqlalchemy import exists, literal_column, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.backoff import Backoff
from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import segmentation_batches, segmentation_tasks, webhooks
from spheroseg.database.tasks import count_states
from spheroseg.errors import BadRequest
from spheroseg.tasks import UNFINISHED, TaskState

log = structlog.get_logger()

POLL_SECONDS = 2.0
CALL_SECONDS = 10.0
# Who has claimed a call and dies leaves it to another after this.
CLAIM_SECONDS = 60.0
AT_ONCE = 20
MAX_ATTEMPTS = 10
BACKOFF = Backoff(first=5.0, maximum=3600.0)
LONGEST_ERROR = 500
LONGEST_URL = 2000


def webhook_secret(secret_key: str, user_id: UUID) -> str:
    """With which a user's webhooks are signed; it follows from the backend's own secret, and is stored nowhere."""
    return hmac.digest(secret_key.encode(), f"webhook:{user_id}".encode(), "sha256").hex()


def sign(secret: str, body: bytes, at: int) -> str:
    """The value of X-Spheroseg-Signature: HMAC-SHA256 over the moment (s since 1970), a dot, and the body."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


@dataclass(frozen=True)
class Notifier:
    """allow_private: whether webhooks may go to addresses of our own network."""

    engine: AsyncEngine
    secret_key: str
    allow_private: bool

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                called = await self.call_due()
            except (SQLAlchemyError, OSError) as error:
                log.warning("webhooks wait for the database", error=str(error))
                called = 0
            if called < AT_ONCE:
                await asyncio.sleep(POLL_SECONDS)

    async def call_due(self) -> int:
        """Call what is due, side by side; how many."""
        async with self.engine.begin() as conn:
            due = await _claim(conn)
        await asyncio.gather(*(self._call(webhook) for webhook in due))
        return len(due)

    async def _call(self, webhook: Any) -> None:
        async with self.engine.begin() as conn:
            counts = await count_states(conn, webhook.batch_id)
            if any(counts[state] for state in UNFINISHED):
                # Somebody has tried its failures again in this very moment.
                await _give_back(conn, webhook)
                return
        # Here, because httpx belongs to an extra that only webhooks need.
        import httpx

        body = _body(webhook, counts)
        status: int | None = None
        try:
            status = await self._post(webhook, body)
            error = None if 200 <= status < 300 else f"it answered {status}"
        except (httpx.HTTPError, OSError, ValueError, TimeoutError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:LONGEST_ERROR]
        async with self.engine.begin() as conn:
            await _settle(conn, webhook, status, error)
        told = log.bind(batch_id=str(webhook.batch_id), attempt=webhook.attempts, status=status)
        if error is None:
            told.info("webhook delivered")
        else:
            told.warning("webhook failed", error=error, is_last=webhook.attempts >= MAX_ATTEMPTS)

    async def _post(self, webhook: Any, body: bytes) -> int:
        parts = urlsplit(webhook.url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = await self._resolve(host, port)
        import httpx

        at = int(time.time())
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "spheroseg",
            "X-Spheroseg-Delivery": str(webhook.id),
            "X-Spheroseg-Signature": sign(webhook_secret(self.secret_key, webhook.user_id), body, at),
        }
        # To the address that was checked, so that the name cannot lead elsewhere meanwhile.
        quoted = f"[{address}]" if ":" in address else address
        url = parts._replace(netloc=f"{quoted}:{port}", fragment="").geturl()
        async with asyncio.timeout(CALL_SECONDS), httpx.AsyncClient(follow_redirects=False) as client:
            request = client.build_request("POST", url, content=body, headers=headers)
            request.extensions["sni_hostname"] = host
            answer = await client.send(request, stream=True)
            await answer.aclose()
            return answer.status_code

    async def _resolve(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CALL_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not self.allow_private and not all(map(is_public, addresses)):
            raise ValueError(f"{host} is an address of our own network; WEBHOOK_ALLOW_PRIVATE=true allows that")
        return addresses[0]


async def _claim(conn: AsyncConnection) -> list[Any]:
    w, b, t = webhooks, segmentation_batches, segmentation_tasks
    unfinished = exists().where(
        t.c.batch_id == w.c.batch_id,
        t.c.state.in_([literal_column(f"'{state}'") for state in sorted(UNFINISHED)]),
    )
    due = (
        select(w.c.id)
        .where(w.c.state == "waiting", w.c.next_attempt_at <= DatabaseTime(), ~unfinished)
        .order_by(w.c.next_attempt_at)
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    claimed = (
        update(w)
        .where(w.c.id.in_(select(due.c.id)))
        .values(attempts=w.c.attempts + 1, next_attempt_at=DatabaseTime(CLAIM_SECONDS))
        .returning(w.c.id)
    )
    ids = list((await conn.execute(claimed)).scalars())
    if not ids:
        return []
    query = select(w, b.c.user_id, b.c.project_id).join(b, b.c.id == w.c.batch_id).where(w.c.id.in_(ids))
    return list(await conn.execute(query))


async def _give_back(conn: AsyncConnection, webhook: Any) -> None:
    await conn.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook.id, webhooks.c.attempts == webhook.attempts)
        .values(attempts=webhook.attempts - 1, next_attempt_at=DatabaseTime())
    )


def _body(webhook: Any, counts: Mapping[TaskState, int]) -> bytes:
    return json.dumps(
        {
            "event": "batch.finished",
            "batch_id": str(webhook.batch_id),
            "project_id": str(webhook.project_id),
            "total": sum(counts.values()),
            "counts": {str(state): count for state, count in counts.items()},
            "sent_at": datetime.now(UTC).isoformat(),
        }
    ).encode()


async def _settle(conn: AsyncConnection, webhook: Any, status: int | None, error: str | None) -> None:
    values: dict[str, Any] = {"status": status, "error": error}
    if error is None:
        values |= {"state": "delivered", "delivered_at": DatabaseTime()}
    elif webhook.attempts >= MAX_ATTEMPTS:
        values |= {"state": "failed"}
    else:
        delay = BACKOFF.ceiling(webhook.attempts)
        values |= {"next_attempt_at": DatabaseTime(delay)}
    # Only if nobody has claimed it since, as after a long pause of this process.
    is_ours = (webhooks.c.id == webhook.id, webhooks.c.state == "waiting", webhooks.c.attempts == webhook.attempts)
    await conn.execute(update(webhooks).where(*is_ours).values(**values))


def check_webhook_url(url: str, allow_private: bool) -> None:
    """Raises BadRequest where the backend must not call `url`: not http or https, or an address of our own network.

    Only what the URL itself says is looked at: what its host name resolves to is known when it is called.
    """
    if len(url) > LONGEST_URL or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise BadRequest(f"webhook_url must be a plain URL of at most {LONGEST_URL} characters, without spaces")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 (reading it is what checks it)
    except ValueError as error:
        raise BadRequest(f"webhook_url cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest("webhook_url must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("webhook_url must not hold a user or a password: calls are signed")
    if not allow_private and _is_private(host):
        raise BadRequest(f"webhook_url names {host}, an address of our own network: name a public one")


# Addresses of IPv6 that carry one of IPv4, or have gone out of use.
_CARRIERS = tuple(
    map(
        ipaddress.ip_network,
        ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10"),
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open network, and no other in disguise. Raises ValueError."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            found = found.ipv4_mapped
        elif any(found in network for network in _CARRIERS):
            return False
    return found.is_global and not found.is_multicast


def _is_private(host: str) -> bool:
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        # Other spellings of IPv4 that a resolver understands, such as 2130706433, 127.1 or 0x7f000001.
        return host.rpartition(".")[2][:1].isdigit()
