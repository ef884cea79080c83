"""Administration over HTTP: queue metrics, dead letters, failures, audit trail, relay, workers; on both databases."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import components, segmentation_failures
from spheroseg.messages import Message, Queue
from spheroseg.queueing.undelivered import apply_dead_letter
from spheroseg.tasks import RetryPolicy

from .support.backend import Backend
from .support.lab import read_task, submit_images
from .support.plates import completed, failed, report, started

URL = "/api/admin"
# More than the maximum number of parameters of one statement.
COUNT = 40_000


@pytest.fixture
async def root(backend: Backend) -> AsyncIterator[httpx.AsyncClient]:
    async with await backend.client("root", role="admin") as client:
        yield client


async def three_failures(backend: Backend) -> list[UUID]:
    ids = (await submit_images(backend.engine, 3)).task_ids
    reasons = (("timeout", "w1"), ("killed", "w2"), ("bad_image", "w1"))
    await report(
        backend.engine, *(failed(id_, reason, worker) for id_, (reason, worker) in zip(ids, reasons, strict=True))
    )
    return ids


async def listed(root: httpx.AsyncClient, what: str, **wanted: Any) -> list[Any]:
    answer = await root.get(f"{URL}/{what}", params=wanted)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def tell(engine: AsyncEngine, **component: Any) -> None:
    """Record a heartbeat as a process does."""
    async with engine.begin() as conn:
        await conn.execute(insert(components).values(since=DatabaseTime(), seen_at=DatabaseTime(), **component))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "queue/metrics"),
        ("GET", "dead-letters"),
        ("POST", "dead-letters/retry"),
        ("POST", "dead-letters/discard"),
        ("GET", "failures"),
        ("GET", "audit"),
        ("GET", "relay"),
        ("POST", "relay/pause"),
        ("POST", "relay/resume"),
        ("GET", "workers"),
    ],
)
async def test_a_member_is_refused(backend: Backend, method: str, path: str) -> None:
    async with await backend.client("ada") as ada:
        answer = await ada.request(method, f"{URL}/{path}", json={"all": True} if method == "POST" else None)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_the_queue_metrics_are_those_of_the_specification(backend: Backend, root: httpx.AsyncClient) -> None:
    one, two = (await submit_images(backend.engine, 2)).task_ids
    await report(backend.engine, failed(one), started(two))
    figures = (await root.get(f"{URL}/queue/metrics")).json()
    assert figures["queue"]["status"] == "disabled"
    assert figures["messages"] is None
    assert figures["queues"] == {}
    assert figures["database_queue"]["segmentation.tasks"]["waiting"] == 1
    assert figures["tasks"] == {"queued": 0, "processing": 1, "completed": 0, "failed": 1, "cancelled": 0}
    assert figures["failures"] == {"timeout": 1}


async def test_dead_letters_are_listed_in_pages_and_filtered(backend: Backend, root: httpx.AsyncClient) -> None:
    ids = await three_failures(backend)
    poison = Message("p", "task.new", b"{not json", headers={"x-death": [{"reason": "rejected"}]})
    async with backend.engine.begin() as conn:
        await apply_dead_letter(conn, poison, RetryPolicy())
    letters = await listed(root, "dead-letters")
    assert [letter["reason"] for letter in letters] == ["bad_message", "bad_image", "killed", "timeout"]
    assert (letters[0]["body"], letters[0]["task_id"]) == ("{not json", None)
    assert (letters[1]["task_id"], letters[1]["state"], letters[1]["page"]) == (str(ids[2]), "failed", 0)
    page = (await root.get(f"{URL}/dead-letters", params={"limit": 3})).json()
    rest = await listed(root, "dead-letters", cursor=page["next_cursor"])
    assert [letter["reason"] for letter in rest] == ["timeout"]
    for wanted, count in (
        ({"worker": "w1"}, 2),
        ({"reason": "killed"}, 1),
        ({"task_id": str(ids[0])}, 1),
        ({"image": letters[1]["image"]}, 1),
        ({"since": "2999-01-01T00:00:00Z"}, 0),
    ):
        assert len(await listed(root, "dead-letters", **wanted)) == count
    assert (await root.get(f"{URL}/dead-letters", params={"reasons": "killed"})).status_code == 422
    assert (
        await root.get(f"{URL}/dead-letters", params={"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"})
    ).status_code == 422


async def test_retrying_and_discarding_dead_letters_is_recorded_in_the_audit_trail(
    backend: Backend, root: httpx.AsyncClient
) -> None:
    ids = await three_failures(backend)
    dry = (await root.post(f"{URL}/dead-letters/retry", json={"all": True, "dry_run": True})).json()
    assert (dry["count"], dry["dry_run"], len(dry["ids"])) == (3, True, 3)
    assert (await read_task(backend.engine, ids[0])).state == "failed"
    assert await listed(root, "audit") == []
    done = (await root.post(f"{URL}/dead-letters/retry", json={"filter": {"reason": "timeout"}})).json()
    assert (done["count"], done["dry_run"]) == (1, False)
    assert (await read_task(backend.engine, ids[0])).state == "queued"
    newest = (await listed(root, "dead-letters"))[0]
    done = (await root.post(f"{URL}/dead-letters/discard", json={"ids": [newest["id"]]})).json()
    assert done == {"count": 1, "ids": [newest["id"]], "dry_run": False}
    assert (await read_task(backend.engine, ids[2])).state == "failed"
    assert [letter["reason"] for letter in await listed(root, "dead-letters")] == ["killed"]
    failures = await listed(root, "failures")
    assert [failure["reason"] for failure in failures] == ["bad_image", "killed", "timeout"], "all stay on record"
    assert failures[0]["settled_at"] is not None
    assert len(await listed(root, "failures", worker="w2")) == 1
    records = await listed(root, "audit")
    assert [(found["actor"], found["action"], found["detail"]["count"]) for found in records] == [
        ("root", "dead_letters.discard", 1),
        ("root", "dead_letters.retry", 1),
    ]
    assert records[0]["detail"]["ids"] == [newest["id"]]
    assert records[1]["detail"]["filter"] == {"reason": "timeout"}
    page = (await root.get(f"{URL}/audit", params={"limit": 1})).json()
    assert [found["action"] for found in await listed(root, "audit", cursor=page["next_cursor"])] == [
        "dead_letters.retry"
    ]
    assert len(await listed(root, "audit", action="dead_letters.retry", actor="root")) == 1


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"dry_run": True},
        {"filter": {}},
        {"all": False},
        {"ids": []},
        {"ids": [1], "all": True},
        {"ids": [2**63]},
        {"filter": {"reasons": "x"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("action", ["retry", "discard"])
async def test_a_change_without_a_selection_is_refused(
    backend: Backend, root: httpx.AsyncClient, action: str, choice: dict[str, Any]
) -> None:
    await three_failures(backend)
    answer = await root.post(f"{URL}/dead-letters/{action}", json=choice)
    assert answer.status_code == 422
    assert len(await listed(root, "dead-letters")) == 3


async def test_many_dead_letters_are_changed_at_once(backend: Backend, root: httpx.AsyncClient) -> None:
    unreadable = {"cause": "failed", "reason": "bad_message", "error": "not JSON", "failed_at": datetime.now(UTC)}
    async with backend.engine.begin() as conn:
        await conn.execute(insert(segmentation_failures), [unreadable] * COUNT)
    done = (await root.post(f"{URL}/dead-letters/discard", json={"all": True})).json()
    assert (done["count"], len(done["ids"])) == (COUNT, 1000)
    assert await listed(root, "dead-letters") == []


async def test_the_relay_is_paused_and_resumed(backend: Backend, root: httpx.AsyncClient) -> None:
    assert (await root.get(f"{URL}/relay")).json() == {
        "is_on": True,
        "changed_by": None,
        "changed_at": None,
        "processes": [],
    }
    await tell(backend.engine, name="relay-1", kind="relay", state="ok", reason=None, detail={})
    paused = (await root.post(f"{URL}/relay/pause")).json()
    assert (paused["is_on"], paused["changed_by"]) == (False, "root")
    assert [process["name"] for process in paused["processes"]] == ["relay-1"]
    assert (await root.post(f"{URL}/relay/resume")).json()["is_on"] is True
    assert [found["action"] for found in await listed(root, "audit")] == ["relay.resume", "relay.pause"]


async def test_workers_are_listed_with_what_they_do(backend: Backend, root: httpx.AsyncClient) -> None:
    one, two, three = (await submit_images(backend.engine, 3)).task_ids
    await report(
        backend.engine, started(one, "host-1/0"), completed(two, worker="host-1/1"), failed(three, worker="x")
    )
    detail = {"name": "host-1", "slots": {}}
    await tell(backend.engine, name="worker-1", kind="worker", state="away", reason="no answer", detail=detail)
    found = {worker["name"]: worker for worker in await listed(root, "workers")}
    assert set(found) == {"host-1", "x"}
    assert (found["host-1"]["state"], found["host-1"]["reason"]) == ("away", "no answer")
    assert [task["task_id"] for task in found["host-1"]["current"]] == [str(one)]
    assert found["host-1"]["finished"] == {"completed": 1}
    assert (found["x"]["state"], found["x"]["finished"]) == (None, {"failed": 1})
    assert found["x"]["last_seen"] is not None


async def test_a_retried_unreadable_message_returns_to_its_queue_unchanged(
    backend: Backend, root: httpx.AsyncClient
) -> None:
    poison = Message("p", "task.new", b"{not json", headers={"x-death": [{"reason": "rejected"}]})
    async with backend.engine.begin() as conn:
        await apply_dead_letter(conn, poison, RetryPolicy())
    assert (await root.post(f"{URL}/dead-letters/retry", json={"all": True})).json()["count"] == 1
    assert await TableBroker(backend.engine).depth(Queue.TASKS) == 1
