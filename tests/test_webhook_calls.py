"""Webhook calls: one signed call when a batch has finished, repeated and recorded if it fails."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import segmentation_batches, webhooks
from spheroseg.queueing import webhooks as calls
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.submit import cancel
from spheroseg.queueing.webhooks import Notifier, sign, webhook_secret
from spheroseg.tasks import RetryPolicy

from .support.lab import submit_images
from .test_collect import completed

pytestmark = pytest.mark.slow

KEY = "k" * 32


class Listener:
    """An HTTP server that answers with the given statuses one after the other, then with 200."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.url = ""


@contextmanager
def listening(*statuses: int) -> Iterator[Listener]:
    listener = Listener(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listener.calls.append((dict(self.headers), body))
            self.send_response(listener.statuses.pop(0) if listener.statuses else 200)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.url = f"http://127.0.0.1:{server.server_port}/done?lab=1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def add_webhook(engine: AsyncEngine, batch_id: UUID, url: str) -> None:
    async with engine.begin() as conn:
        await conn.execute(
            insert(webhooks).values(batch_id=batch_id, url=url, state="waiting", next_attempt_at=DatabaseTime())
        )


async def read_webhook(engine: AsyncEngine) -> Any:
    async with engine.connect() as conn:
        return (await conn.execute(select(webhooks))).one()


async def make_due(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(update(webhooks).values(next_attempt_at=DatabaseTime(-1)))


@pytest.fixture
def notifier(engine: AsyncEngine) -> Notifier:
    return Notifier(engine, KEY, allow_private=True)


async def test_the_webhook_of_a_finished_batch_is_called_once_and_signed(
    engine: AsyncEngine, notifier: Notifier
) -> None:
    batch = await submit_images(engine, 2)
    with listening() as listener:
        await add_webhook(engine, batch.batch_id, listener.url)
        async with engine.begin() as conn:
            await apply_reports(conn, [completed(batch.task_ids[0])], RetryPolicy())
        assert await notifier.call_due() == 0, "one task is not finished"
        async with engine.begin() as conn:
            await cancel(conn, batch.task_ids[1:])
        others = [Notifier(engine, KEY, allow_private=True) for _ in range(3)]
        await asyncio.gather(*(other.call_due() for other in others))
        assert await notifier.call_due() == 0
    ((headers, body),) = listener.calls
    told = json.loads(body)
    assert told["batch_id"] == str(batch.batch_id)
    assert told["counts"]["completed"] == told["counts"]["cancelled"] == 1
    at = int(headers["X-Spheroseg-Signature"].split(",")[0].removeprefix("t="))
    async with engine.connect() as conn:
        user_id = (await conn.execute(select(segmentation_batches.c.user_id))).scalar_one()
    assert headers["X-Spheroseg-Signature"] == sign(webhook_secret(KEY, user_id), body, at)
    assert (await read_webhook(engine)).state == "delivered"


async def test_a_failed_call_is_repeated_later_and_finally_recorded_as_failed(
    engine: AsyncEngine, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_ATTEMPTS", 3)
    batch = await submit_images(engine, 1)
    async with engine.begin() as conn:
        await cancel(conn, batch.task_ids)
    with listening(500, 302, 404) as listener:
        await add_webhook(engine, batch.batch_id, listener.url)
        for attempt in (1, 2, 3):
            assert await notifier.call_due() == 1
            row = await read_webhook(engine)
            assert row.attempts == attempt
            assert await notifier.call_due() == 0, "not before its time"
            await make_due(engine)
        assert await notifier.call_due() == 0
    assert len(listener.calls) == 3, "a redirect is not followed"
    assert (row.state, row.status, row.error) == ("failed", 404, "it answered 404")


async def test_a_refused_connection_is_recorded_with_its_error(engine: AsyncEngine, notifier: Notifier) -> None:
    batch = await submit_images(engine, 1)
    async with engine.begin() as conn:
        await cancel(conn, batch.task_ids)
    await add_webhook(engine, batch.batch_id, "http://127.0.0.1:1/")
    await notifier.call_due()
    row = await read_webhook(engine)
    assert (row.state, row.status) == ("waiting", None)
    assert "ConnectError" in row.error


PRIVATE = [
    "http://localhost/",
    "http://127.0.0.1:9/",
    "http://[::1]/",
    "http://169.254.169.254/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[2002:7f00:1::]/",
]


@pytest.mark.parametrize("url", PRIVATE)
async def test_private_addresses_are_not_called_in_production(engine: AsyncEngine, url: str) -> None:
    batch = await submit_images(engine, 1)
    async with engine.begin() as conn:
        await cancel(conn, batch.task_ids)
    await add_webhook(engine, batch.batch_id, url)
    await Notifier(engine, KEY, allow_private=False).call_due()
    assert "our own network" in (await read_webhook(engine)).error
