"""Batches over HTTP: progress, queue position, cancel, retry, results; on both databases."""

import csv
import hashlib
import io
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select

from spheroseg.broker.table import TableBroker
from spheroseg.database import queue
from spheroseg.database.engine import reading
from spheroseg.database.projects import NewImage
from spheroseg.database.relayed import confirm_relayed
from spheroseg.database.schema import webhooks
from spheroseg.messages import Queue
from spheroseg.segmentation.model import DEFAULT_MODEL
from spheroseg.storage import ImageStore
from spheroseg.tasks import BatchState, TaskState, batch_state
from spheroseg.worker.child import child_command

from .conftest import eventually
from .support.backend import Backend
from .support.lab import read_task, submit_images
from .support.plates import (
    BATCHES,
    EXAMPLES,
    a_result,
    add_images,
    add_project,
    completed,
    failed,
    report,
    started,
    submitted,
    task_ids,
)
from .test_worker import system


@pytest.fixture
async def plate(backend: Backend, ada: httpx.AsyncClient) -> UUID:
    return await add_project(backend.engine, "ada")


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ("", "completed"),
        ("queued queued", "queued"),
        ("queued cancelled", "queued"),
        ("queued processing", "processing"),
        ("queued failed", "processing"),
        ("completed queued", "processing"),
        ("completed completed", "completed"),
        ("completed cancelled", "completed"),
        ("completed failed cancelled", "completed_with_errors"),
        ("failed cancelled", "failed"),
        ("cancelled cancelled", "cancelled"),
    ],
)
def test_the_state_of_a_batch_follows_from_its_tasks(counts: str, state: str) -> None:
    states = [TaskState(name) for name in counts.split()]
    assert batch_state({found: states.count(found) for found in TaskState}) == BatchState(state)


async def test_progress_counts_and_errors_are_reported(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 5)
    batch = await submitted(ada, plate)
    one, two, three, four, five = await task_ids(ada, batch)
    await report(backend.engine, started(one), completed(two), failed(three, "bad_image"))
    found = (await ada.get(f"{BATCHES}/{batch['id']}")).json()
    assert (found["state"], found["finished"], found["total"], found["failed"]) == ("processing", 2, 5, 1)
    assert found["counts"] == {"queued": 2, "processing": 1, "completed": 1, "failed": 1, "cancelled": 0}
    (task,) = (await ada.get(f"{BATCHES}/{batch['id']}/tasks", params={"state": "failed"})).json()["items"]
    assert (task["id"], task["reason"], task["error"]) == (str(three), "bad_image", "because of bad_image")
    assert (task["attempt"], task["retries"], task["losses"], task["page"]) == (1, 0, 0, 0)
    await report(backend.engine, completed(one), completed(four), completed(five))
    found = (await ada.get(f"{BATCHES}/{batch['id']}")).json()
    assert (found["state"], found["finished"], found["ahead"]) == ("completed_with_errors", 5, None)
    listed = (await ada.get(BATCHES, params={"project_id": str(plate)})).json()["items"]
    assert [(row["id"], row["state"], row["finished"]) for row in listed] == [
        (batch["id"], "completed_with_errors", 5)
    ]


async def test_the_queue_position_follows_the_order_of_the_queue(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await submit_images(backend.engine, 4, user="grace")
    await add_images(backend.engine, plate, 3)
    batch = await submitted(ada, plate)
    # Round-robin: after grace's first message, because both have the same turn and hers is older.
    assert (batch["ahead"], batch["ahead_is_capped"], batch["expected_seconds"]) == (1, False, None)
    places = [task["ahead"] for task in (await ada.get(f"{BATCHES}/{batch['id']}/tasks")).json()["items"]]
    assert places == [1, 3, 5]
    await submit_images(backend.engine, 2, user="premium", tier="premium")
    assert (await ada.get(f"{BATCHES}/{batch['id']}")).json()["ahead"] == 3
    async with TableBroker(backend.engine, low_share=0.0).consume(Queue.TASKS, prefetch=4) as consumer:
        assert len(await consumer.take(4, 5)) == 4
        found = (await ada.get(f"{BATCHES}/{batch['id']}")).json()
        assert found["ahead"] == 1, (
            "of ada's messages one is in a worker's hand, and one of grace's goes before the next"
        )


async def test_messages_at_rabbitmq_count_in_the_queue_position(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await submit_images(backend.engine, 2, user="grace")
    await add_images(backend.engine, plate, 2)
    async with backend.engine.begin() as conn:
        moved = await queue.claim(conn, Queue.TASKS, 2, "relay-1", 60.0, is_delivery=False)
        await confirm_relayed(conn, "relay-1", [row.id for row in moved])
    batch = await submitted(ada, plate)
    assert batch["ahead"] == 2
    async with backend.engine.begin() as conn:
        moved = await queue.claim(conn, Queue.TASKS, 1, "relay-1", 60.0, is_delivery=False)
        await confirm_relayed(conn, "relay-1", [row.id for row in moved])
    places = [task["ahead"] for task in (await ada.get(f"{BATCHES}/{batch['id']}/tasks")).json()["items"]]
    assert places == [2, 3]


async def test_the_expected_time_follows_from_recently_finished_tasks(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 12)
    batch = await submitted(ada, plate)
    ids = await task_ids(ada, batch)
    await report(backend.engine, *(completed(task_id, seconds=0.5) for task_id in ids[:2]))
    found = (await ada.get(f"{BATCHES}/{batch['id']}")).json()
    # Two tasks took half a second, and ten are left.
    assert found["expected_seconds"] == pytest.approx(2.5, abs=0.2)
    story = (await ada.get(f"/api/segmentation/tasks/{ids[-1]}")).json()
    assert (story["ahead"], story["expected_seconds"]) == (9, found["expected_seconds"])


async def test_a_queue_position_that_is_too_large_is_capped(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spheroseg.database.queue_position.MAX_COUNTED", 3)
    await submit_images(backend.engine, 6, user="premium", tier="premium")
    await add_images(backend.engine, plate, 1)
    batch = await submitted(ada, plate)
    assert (batch["ahead"], batch["ahead_is_capped"]) == (3, True)
    (task,) = (await ada.get(f"{BATCHES}/{batch['id']}/tasks")).json()["items"]
    assert (task["ahead"], task["ahead_is_capped"]) == (3, True)


async def test_cancel_ends_unfinished_tasks_and_keeps_finished_ones(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 3)
    batch = await submitted(ada, plate)
    done, running, waiting = await task_ids(ada, batch)
    await report(backend.engine, completed(done), started(running))
    answer = (await ada.post(f"{BATCHES}/{batch['id']}/cancel")).json()
    assert answer == {"count": 2, "task_ids": [str(running), str(waiting)]}
    found = (await ada.get(f"{BATCHES}/{batch['id']}")).json()
    assert (found["state"], found["counts"]["cancelled"], found["ahead"]) == ("completed", 2, None)
    assert (await ada.post(f"{BATCHES}/{batch['id']}/cancel")).json()["count"] == 0
    assert await TableBroker(backend.engine).depth(Queue.TASKS) == 0


async def test_retry_gives_failed_tasks_a_fresh_set_of_tries(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 2)
    batch = await submitted(ada, plate)
    good, bad = await task_ids(ada, batch)
    await report(backend.engine, completed(good), failed(bad))
    assert (await ada.post(f"{BATCHES}/{batch['id']}/retry")).json() == {"count": 1, "task_ids": [str(bad)]}
    assert (await read_task(backend.engine, bad)).attempt == 2
    assert (await ada.get(f"{BATCHES}/{batch['id']}")).json()["state"] == "processing"
    await report(backend.engine, completed(bad, attempt=2))
    assert (await ada.get(f"{BATCHES}/{batch['id']}")).json()["state"] == "completed"


async def test_a_webhook_waits_for_the_end_of_the_batch(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 1)
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        wanted = {"project_id": str(plate), "webhook_url": "http://127.0.0.1:9/hook?x=1"}
        answer = await ada.post(BATCHES, json=wanted, headers=key)
    hook = answer.json()["webhook"]
    assert (hook["url"], hook["state"], hook["attempts"]) == ("http://127.0.0.1:9/hook?x=1", "waiting", 0)
    async with reading(backend.engine) as conn:
        assert (await conn.execute(select(func.count()).select_from(webhooks))).scalar_one() == 1


async def test_results_come_with_outlines_measurements_and_provenance(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, ["=cmd|' /C calc'!A0.png", "b.png", "c.png"])
    batch = await submitted(ada, plate)
    first, second, third = await task_ids(ada, batch)
    await report(
        backend.engine, completed(first, a_result(um=0.5)), completed(second, a_result(objects=2)), failed(third)
    )
    page = (await ada.get(f"{BATCHES}/{batch['id']}/results", params={"limit": 1})).json()
    (result,) = page["items"]
    assert (result["task_id"], result["page"], result["pixel_size"]["um"]) == (str(first), 0, 0.5)
    (found,) = result["objects"]
    assert found["outer"][0] == [0.5, 0.5]
    assert (found["measurements"]["area_px2"], found["measurements"]["area_um2"]) == (2.0, 0.5)
    page = (await ada.get(f"{BATCHES}/{batch['id']}/results", params={"cursor": page["next_cursor"]})).json()
    assert [(row["task_id"], len(row["objects"])) for row in page["items"]] == [(str(second), 2)]
    assert page["next_cursor"] is None
    answer = await ada.get(f"{BATCHES}/{batch['id']}/results.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["image"], row["object"], row["area_um2"]) for row in rows] == [
        ("'=cmd|' /C calc'!A0.png", "1", "0.5"),
        ("b.png", "1", ""),
        ("b.png", "2", ""),
    ]
    assert rows[0]["centroid_x_px"] == "-1.5", "a number is no formula"
    assert rows[0]["used_threshold"] == "0.5"


async def test_a_table_without_rows_has_its_columns(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 1)
    batch = await submitted(ada, plate)
    (header,) = (await ada.get(f"{BATCHES}/{batch['id']}/results.csv")).text.splitlines()
    assert header.startswith("image,page,image_id,object,n_objects,area_px2")
    assert header.endswith("used_threshold,used_min_area_px,used_min_area_um2,used_objects,used_edge,used_separate")


async def test_real_images_are_segmented_by_a_real_worker(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID, tmp_path: Path
) -> None:
    store = ImageStore(backend.settings.resolved_storage_url())
    new = []
    for path in sorted(EXAMPLES.glob("*.png"))[:2]:
        store.put(f"images/{path.name}", path.read_bytes())
        new.append(NewImage(path.name, f"images/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()))
    store.put("images/broken", b"not an image")
    new.append(NewImage("broken.png", "images/broken", hashlib.sha256(b"not an image").hexdigest()))
    await add_images(backend.engine, plate, new)
    batch = await submitted(ada, plate, pixel_size_um=2.0)

    async def is_finished() -> bool:
        answer = (await ada.get(f"{BATCHES}/{batch['id']}")).json()
        return bool(answer["state"] == "completed_with_errors")

    command = child_command(backend.settings.resolved_storage_url(), DEFAULT_MODEL)
    async with system(backend.engine, command=command):
        await eventually(is_finished, within=60)
    page = (await ada.get(f"{BATCHES}/{batch['id']}/results")).json()
    assert [row["image"] for row in page["items"]] == [image.name for image in new[:2]]
    for row in page["items"]:
        assert row["model"]["sha256"] == batch["model_sha256"]
        assert row["pixel_size"] == {"um": 2.0, "source": "option"}
        for kind, magic in (("mask", b"II*\x00"), ("overlay", b"\xff\xd8\xff")):
            file = await ada.get(row[kind]["url"])
            assert file.status_code == 200
            assert file.content.startswith(magic)
            assert hashlib.sha256(file.content).hexdigest() == row[kind]["sha256"]
            assert file.headers["etag"] == f'"{row[kind]["sha256"]}"'
            assert file.headers["content-length"] == str(len(file.content))
    (task,) = (await ada.get(f"{BATCHES}/{batch['id']}/tasks", params={"state": "failed"})).json()["items"]
    assert (task["image"], task["reason"]) == ("broken.png", "bad_image")
