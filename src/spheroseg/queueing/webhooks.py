"""Calls the webhook of each finished batch: signed, repeated with backoff, and on record if it fails."""

import asyncio
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.backoff import Backoff
from spheroseg.database.tasks import count_states
from spheroseg.database.webhooks import DueWebhook, claim_due_webhooks, record_call, release_webhook
from spheroseg.queueing.webhook_urls import is_public
from spheroseg.tasks import UNFINISHED, TaskState

log = structlog.get_logger()

POLL_SECONDS = 2.0
CALL_TIMEOUT_SECONDS = 10.0
# After this another process may claim the call of a process that has died.
CLAIM_SECONDS = 60.0
MAX_CALLS_AT_ONCE = 20
MAX_ATTEMPTS = 10
BACKOFF = Backoff(first=5.0, maximum=3600.0)
MAX_ERROR_LENGTH = 500


def webhook_secret(secret_key: str, user_id: UUID) -> str:
    """Return the key that signs a user's webhooks. It is derived from the backend's own secret and stored nowhere."""
    return hmac.digest(secret_key.encode(), f"webhook:{user_id}".encode(), "sha256").hex()


def sign(secret: str, body: bytes, at: int) -> str:
    """Return the value of X-Spheroseg-Signature: HMAC-SHA256 over `at` (seconds since 1970), a dot, and the body."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


@dataclass(frozen=True)
class Notifier:
    """allow_private: whether webhooks may go to addresses of our own network."""

    engine: AsyncEngine
    secret_key: str
    allow_private: bool

    async def run(self) -> None:
        """Call due webhooks until cancelled."""
        while True:
            try:
                called = await self.call_due()
            except (SQLAlchemyError, OSError) as error:
                log.warning("webhooks wait for the database", error=str(error))
                called = 0
            if called < MAX_CALLS_AT_ONCE:
                await asyncio.sleep(POLL_SECONDS)

    async def call_due(self) -> int:
        """Call the webhooks that are due, side by side. Return the number of webhooks."""
        async with self.engine.begin() as conn:
            due = await claim_due_webhooks(conn, MAX_CALLS_AT_ONCE, CLAIM_SECONDS)
        await asyncio.gather(*(self._call(webhook) for webhook in due))
        return len(due)

    async def _call(self, webhook: DueWebhook) -> None:
        # Imported here, because httpx belongs to an extra that only webhooks need.
        import httpx

        async with self.engine.begin() as conn:
            counts = await count_states(conn, webhook.batch_id)
            if any(counts[state] for state in UNFINISHED):
                # Somebody has retried its failures at this very moment.
                await release_webhook(conn, webhook)
                return
        body = _body(webhook, counts)
        status: int | None = None
        try:
            status = await self._post(webhook, body)
            error = None if 200 <= status < 300 else f"it answered {status}"
        except (httpx.HTTPError, OSError, ValueError, TimeoutError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:MAX_ERROR_LENGTH]
        is_last = webhook.attempts >= MAX_ATTEMPTS
        retry_after = None if is_last else BACKOFF.ceiling(webhook.attempts)
        async with self.engine.begin() as conn:
            await record_call(conn, webhook, status, error, retry_after)
        bound = log.bind(batch_id=str(webhook.batch_id), attempt=webhook.attempts, status=status)
        if error is None:
            bound.info("webhook delivered")
        else:
            bound.warning("webhook failed", error=error, is_last=is_last)

    async def _post(self, webhook: DueWebhook, body: bytes) -> int:
        """Post `body` and return the HTTP status of the answer. Raises httpx.HTTPError, OSError or ValueError."""
        import httpx

        parts = urlsplit(webhook.url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = await self._resolve(host, port)
        at = int(time.time())
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "spheroseg",
            "X-Spheroseg-Delivery": str(webhook.id),
            "X-Spheroseg-Signature": sign(webhook_secret(self.secret_key, webhook.user_id), body, at),
        }
        # Call the address that was checked, so that the name cannot resolve to another one meanwhile.
        quoted = f"[{address}]" if ":" in address else address
        url = parts._replace(netloc=f"{quoted}:{port}", fragment="").geturl()
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS), httpx.AsyncClient(follow_redirects=False) as client:
            request = client.build_request("POST", url, content=body, headers=headers)
            request.extensions["sni_hostname"] = host
            answer = await client.send(request, stream=True)
            await answer.aclose()
            return answer.status_code

    async def _resolve(self, host: str, port: int) -> str:
        """Return an address of `host`. Raises ValueError if it is one of our own network and that is not allowed."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in entries]
        if not self.allow_private and not all(map(is_public, addresses)):
            raise ValueError(f"{host} is an address of our own network; WEBHOOK_ALLOW_PRIVATE=true allows that")
        return addresses[0]


def _body(webhook: DueWebhook, counts: Mapping[TaskState, int]) -> bytes:
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
