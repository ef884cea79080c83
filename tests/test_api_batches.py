"""Batches over HTTP: submit, progress, place in line, cancel, retry, results; on both databases."""

import asyncio
import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, select, update

from spheroseg.broker.table import TableBroker
from spheroseg.database import queue
from spheroseg.database.engine import reading
from spheroseg.database.projects import NewImage
from spheroseg.database.schema import segmentation_batches, segmentation_tasks, webhooks
from spheroseg.messages import Queue
from spheroseg.segmentation.model import DEFAULT_MODEL, load_model
from spheroseg.storage import ImageStore
from spheroseg.tasks import BatchState, TaskState, batch_state
from spheroseg.worker.process import child_command

from .backend import Backend
from .conftest import eventually
from .lab import order, read_task, submit_images
from .plates import EXAMPLES, a_result, add_images, add_project, completed, failed, report, started
from .test_worker import system

URL = "/api/segmentation/batches"


@pytest.fixture
async def plate(backend: Backend, ada: httpx.AsyncClient) -> UUID:
    return await add_project(backend.engine, "ada")


async def submitted(client: httpx.AsyncClient, project_id: UUID, **more: Any) -> Any:
    answer = await client.post(URL, json={"project_id": str(project_id), **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def task_ids(client: httpx.AsyncClient, batch: Any) -> list[UUID]:
    answer = await client.get(f"{URL}/{batch['id']}/tasks")
    return [UUID(task["id"]) for task in answer.json()["items"]]


async def test_a_batch_of_a_whole_project_is_accepted_at_once_with_all_that_it_was_asked(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    images = await add_images(backend.engine, plate, 3)
    answer = await ada.post(
        URL, json={"project_id": str(plate), "parameters": {"threshold": 0.4}, "pixel_size_um": 0.65}
    )
    assert answer.status_code == 202
    batch = answer.json()
    assert answer.headers["location"] == f"{URL}/{batch['id']}"
    assert (batch["state"], batch["total"], batch["finished"], batch["ahead"]) == ("queued", 3, 0, 0)
    assert (batch["model"], batch["model_sha256"]) == (DEFAULT_MODEL, load_model(DEFAULT_MODEL).sha256)
    parameters = {
        "threshold": 0.4,
        "min_area_px": None,
        "min_area_um2": None,
        "objects": "all",
        "edge": "keep",
        "separate": True,
    }
    assert (batch["parameters"], batch["pixel_size_um"]) == (parameters, 0.65)
    assert (batch["user"], batch["priority"], batch["webhook"]) == ("ada", 1, None)
    assert batch["created_at"].endswith("Z")
    async with TableBroker(backend.engine).consume(Queue.TASKS, prefetch=3) as consumer:
        orders = [order(delivery.message) for delivery in await consumer.take(3, 5)]
    assert {(found.parameters["threshold"], found.pixel_size_um, found.model) for found in orders} == {
        (0.4, 0.65, DEFAULT_MODEL)
    }
    tasks = (await ada.get(f"{URL}/{batch['id']}/tasks")).json()["items"]
    assert {task["image_id"] for task in tasks} == set(map(str, images))
    assert (await ada.get(answer.headers["location"])).json()["id"] == batch["id"]


async def test_images_can_be_chosen_and_those_that_are_not_there_are_named(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    first, second, _ = await add_images(backend.engine, plate, 3)
    batch = await submitted(ada, plate, image_ids=[str(second), str(first), str(second)])
    tasks = (await ada.get(f"{URL}/{batch['id']}/tasks")).json()["items"]
    assert [task["image_id"] for task in tasks] == [str(second), str(first)]
    (foreign,) = await add_images(backend.engine, await add_project(backend.engine, "grace"))
    unknown = uuid4()
    answer = await ada.post(
        URL, json={"project_id": str(plate), "image_ids": [str(first), str(foreign), str(unknown)]}
    )
    assert answer.status_code == 422
    assert str(foreign) in answer.json()["detail"]
    assert str(unknown) in answer.json()["detail"]
    assert "2 of 3" in answer.json()["detail"]
    assert len((await ada.get(URL)).json()["items"]) == 1, "nothing of it was stored"


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": {"threshold": 1.5}},
        {"parameters": {"treshold": 0.5}},
        {"parameters": {"min_area_px": -1}},
        {"parameters": {"min_area_um2": -1}},
        {"parameters": {"objects": "smallest"}},
        {"parameters": {"edge": "cut"}},
        {"parameters": {"separate": None}},
        {"pixel_size_um": 0},
        {"model": "unet"},
        {"image_ids": []},
        {"image_ids": ["nobody"]},
        {"webhook_url": "ftp://example.org/"},
        {"webhook_url": "file:///etc/passwd"},
        {"priority": 10},
    ],
    ids=lambda wrong: str(next(iter(wrong.items()))),
)
async def test_a_wrong_wish_is_refused_in_words(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID, wrong: dict[str, Any]
) -> None:
    await add_images(backend.engine, plate, 1)
    answer = await ada.post(URL, json={"project_id": str(plate), **wrong})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


async def test_numbers_that_are_none_are_refused(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 1)
    for body in ('"parameters": {"threshold": NaN}', '"parameters": {"min_area_px": 1e999}', '"pixel_size_um": NaN'):
        content = f'{{"project_id": "{plate}", {body}}}'
        answer = await ada.post(URL, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text


async def test_an_empty_project_says_what_to_do(ada: httpx.AsyncClient, plate: UUID) -> None:
    answer = await ada.post(URL, json={"project_id": str(plate)})
    assert answer.status_code == 422
    assert "upload" in answer.json()["detail"]


async def test_the_same_key_gives_the_same_batch(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 2)
    key = {"Idempotency-Key": "monday evening"}
    answers = await asyncio.gather(*(ada.post(URL, json={"project_id": str(plate)}, headers=key) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count("true") == 3
    await add_images(backend.engine, plate, 1)
    again = await ada.post(URL, json={"project_id": str(plate)}, headers=key)
    assert (again.status_code, again.json()["total"]) == (200, 2)
    async with backend.engine.begin() as conn:
        # As it was stored before there were more parameters.
        old = {"threshold": 0.5, "min_area_px": None}
        await conn.execute(update(segmentation_batches).values(parameters=old))
    assert (await ada.post(URL, json={"project_id": str(plate)}, headers=key)).status_code == 200
    wish = {"project_id": str(plate), "parameters": {"edge": "discard"}}
    assert (await ada.post(URL, json=wish, headers=key)).status_code == 409
    other = await add_project(backend.engine, "ada", "another")
    await add_images(backend.engine, other, 1)
    answer = await ada.post(URL, json={"project_id": str(other)}, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    async with await backend.client("grace") as grace:
        project = await add_project(backend.engine, "grace")
        await add_images(backend.engine, project, 1)
        answer = await grace.post(URL, json={"project_id": str(project)}, headers=key)
        assert answer.status_code == 202


async def test_someone_elses_batches_are_not_there(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 1)
    batch = await submitted(ada, plate)
    async with await backend.client("mallory", role="admin") as mallory:
        address = f"{URL}/{batch['id']}"
        asked = [
            await mallory.get(address),
            await mallory.get(f"{address}/tasks"),
            await mallory.get(f"{address}/results"),
            await mallory.get(f"{address}/results.csv"),
            await mallory.post(f"{address}/cancel"),
            await mallory.post(f"{address}/retry"),
            await mallory.get(URL, params={"project_id": str(plate)}),
            await mallory.post(URL, json={"project_id": str(plate)}),
        ]
        assert [answer.status_code for answer in asked] == [404] * len(asked)
        assert (await mallory.get(URL)).json()["items"] == []
    assert (await ada.get(address)).json()["state"] == "queued"


@pytest.mark.parametrize(("tier", "priority"), [("regular", 1), ("premium", 10)])
async def test_the_priority_comes_from_the_tier(backend: Backend, tier: str, priority: int) -> None:
    async with await backend.client("eve", tier=tier) as eve:
        project = await add_project(backend.engine, "eve")
        await add_images(backend.engine, project, 1)
        assert (await submitted(eve, project))["priority"] == priority


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


async def test_progress_counts_and_errors_are_told(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 5)
    batch = await submitted(ada, plate)
    one, two, three, four, five = await task_ids(ada, batch)
    await report(backend.engine, started(one), completed(two), failed(three, "bad_image"))
    found = (await ada.get(f"{URL}/{batch['id']}")).json()
    assert (found["state"], found["finished"], found["total"], found["failed"]) == ("processing", 2, 5, 1)
    assert found["counts"] == {"queued": 2, "processing": 1, "completed": 1, "failed": 1, "cancelled": 0}
    (task,) = (await ada.get(f"{URL}/{batch['id']}/tasks", params={"state": "failed"})).json()["items"]
    assert (task["id"], task["reason"], task["error"]) == (str(three), "bad_image", "because of bad_image")
    assert (task["attempt"], task["retries"], task["losses"], task["page"]) == (1, 0, 0, 0)
    await report(backend.engine, completed(one), completed(four), completed(five))
    found = (await ada.get(f"{URL}/{batch['id']}")).json()
    assert (found["state"], found["finished"], found["ahead"]) == ("completed_with_errors", 5, None)
    listed = (await ada.get(URL, params={"project_id": str(plate)})).json()["items"]
    assert [(row["id"], row["state"], row["finished"]) for row in listed] == [
        (batch["id"], "completed_with_errors", 5)
    ]


async def test_lists_come_in_pages(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 5)
    batches = [(await submitted(ada, plate))["id"] for _ in range(3)]
    first = (await ada.get(URL, params={"limit": 2})).json()
    second = (await ada.get(URL, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [row["id"] for row in first["items"] + second["items"]] == batches[::-1]
    assert second["next_cursor"] is None
    seen, cursor = [], None
    while True:
        page = (
            await ada.get(f"{URL}/{batches[0]}/tasks", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [task["id"] for task in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(set(seen)) == len(seen) == 5
    assert (await ada.get(URL, params={"cursor": "nonsense"})).status_code == 422


async def test_the_place_in_line_is_the_order_of_the_queue(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await submit_images(backend.engine, 4, user="grace")
    await add_images(backend.engine, plate, 3)
    batch = await submitted(ada, plate)
    # Round-robin: behind the first of grace's, since the rows are of the same turn and hers is older.
    assert (batch["ahead"], batch["ahead_is_capped"], batch["expected_seconds"]) == (1, False, None)
    places = [task["ahead"] for task in (await ada.get(f"{URL}/{batch['id']}/tasks")).json()["items"]]
    assert places == [1, 3, 5]
    await submit_images(backend.engine, 2, user="premium", tier="premium")
    assert (await ada.get(f"{URL}/{batch['id']}")).json()["ahead"] == 3
    async with TableBroker(backend.engine, low_share=0.0).consume(Queue.TASKS, prefetch=4) as consumer:
        assert len(await consumer.take(4, 5)) == 4
        found = (await ada.get(f"{URL}/{batch['id']}")).json()
        assert found["ahead"] == 1, (
            "of ada's messages one is in a worker's hand, and one of grace's goes before the next"
        )


async def test_what_rabbitmq_has_waits_in_line_too(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await submit_images(backend.engine, 2, user="grace")
    await add_images(backend.engine, plate, 2)
    async with backend.engine.begin() as conn:
        moved = await queue.claim(conn, Queue.TASKS, 2, "relay-1", 60.0, is_delivery=False)
        await queue.confirm_relayed(conn, "relay-1", [row.id for row in moved], queue.RELAY_LEASE)
    batch = await submitted(ada, plate)
    assert batch["ahead"] == 2
    async with backend.engine.begin() as conn:
        moved = await queue.claim(conn, Queue.TASKS, 1, "relay-1", 60.0, is_delivery=False)
        await queue.confirm_relayed(conn, "relay-1", [row.id for row in moved], queue.RELAY_LEASE)
    places = [task["ahead"] for task in (await ada.get(f"{URL}/{batch['id']}/tasks")).json()["items"]]
    assert places == [2, 3]


async def test_the_expected_time_comes_from_what_finished_lately(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 12)
    batch = await submitted(ada, plate)
    ids = await task_ids(ada, batch)
    await report(backend.engine, *(completed(task_id, seconds=0.5) for task_id in ids[:2]))
    found = (await ada.get(f"{URL}/{batch['id']}")).json()
    # Two in half a second, ten to go.
    assert found["expected_seconds"] == pytest.approx(2.5, abs=0.2)
    story = (await ada.get(f"/api/segmentation/tasks/{ids[-1]}")).json()
    assert (story["ahead"], story["expected_seconds"]) == (9, found["expected_seconds"])


async def test_a_line_that_is_too_long_is_capped(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spheroseg.database.line.LONGEST", 3)
    await submit_images(backend.engine, 6, user="premium", tier="premium")
    await add_images(backend.engine, plate, 1)
    batch = await submitted(ada, plate)
    assert (batch["ahead"], batch["ahead_is_capped"]) == (3, True)
    (task,) = (await ada.get(f"{URL}/{batch['id']}/tasks")).json()["items"]
    assert (task["ahead"], task["ahead_is_capped"]) == (3, True)


async def test_cancel_ends_what_is_not_finished_and_keeps_what_is(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 3)
    batch = await submitted(ada, plate)
    done, running, waiting = await task_ids(ada, batch)
    await report(backend.engine, completed(done), started(running))
    answer = (await ada.post(f"{URL}/{batch['id']}/cancel")).json()
    assert answer == {"count": 2, "task_ids": [str(running), str(waiting)]}
    found = (await ada.get(f"{URL}/{batch['id']}")).json()
    assert (found["state"], found["counts"]["cancelled"], found["ahead"]) == ("completed", 2, None)
    assert (await ada.post(f"{URL}/{batch['id']}/cancel")).json()["count"] == 0
    assert await TableBroker(backend.engine).depth(Queue.TASKS) == 0


async def test_retry_gives_what_failed_fresh_tries(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 2)
    batch = await submitted(ada, plate)
    good, bad = await task_ids(ada, batch)
    await report(backend.engine, completed(good), failed(bad))
    assert (await ada.post(f"{URL}/{batch['id']}/retry")).json() == {"count": 1, "task_ids": [str(bad)]}
    assert (await read_task(backend.engine, bad)).attempt == 2
    assert (await ada.get(f"{URL}/{batch['id']}")).json()["state"] == "processing"
    await report(backend.engine, completed(bad, attempt=2))
    assert (await ada.get(f"{URL}/{batch['id']}")).json()["state"] == "completed"


async def test_a_webhook_waits_for_the_end_of_the_batch(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 1)
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        wanted = {"project_id": str(plate), "webhook_url": "http://127.0.0.1:9/hook?x=1"}
        answer = await ada.post(URL, json=wanted, headers=key)
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
    page = (await ada.get(f"{URL}/{batch['id']}/results", params={"limit": 1})).json()
    (result,) = page["items"]
    assert (result["task_id"], result["page"], result["pixel_size"]["um"]) == (str(first), 0, 0.5)
    (found,) = result["objects"]
    assert found["outer"][0] == [0.5, 0.5]
    assert (found["measurements"]["area_px2"], found["measurements"]["area_um2"]) == (2.0, 0.5)
    page = (await ada.get(f"{URL}/{batch['id']}/results", params={"cursor": page["next_cursor"]})).json()
    assert [(row["task_id"], len(row["objects"])) for row in page["items"]] == [(str(second), 2)]
    assert page["next_cursor"] is None
    answer = await ada.get(f"{URL}/{batch['id']}/results.csv")
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
    (header,) = (await ada.get(f"{URL}/{batch['id']}/results.csv")).text.splitlines()
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
        answer = (await ada.get(f"{URL}/{batch['id']}")).json()
        return bool(answer["state"] == "completed_with_errors")

    command = child_command(backend.settings.resolved_storage_url(), DEFAULT_MODEL)
    async with system(backend.engine, command=command):
        await eventually(is_finished, within=60)
    page = (await ada.get(f"{URL}/{batch['id']}/results")).json()
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
    (task,) = (await ada.get(f"{URL}/{batch['id']}/tasks", params={"state": "failed"})).json()["items"]
    assert (task["image"], task["reason"]) == ("broken.png", "bad_image")


async def test_fifty_thousand_images_are_one_batch(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    images = await add_images(backend.engine, plate, 50_000)
    content = json.dumps({"project_id": str(plate), "image_ids": list(map(str, images))})
    answer = await ada.post(URL, content=content, headers={"Content-Type": "application/json"}, timeout=120)
    assert (answer.status_code, answer.json()["total"]) == (202, 50_000)
    async with reading(backend.engine) as conn:
        t = segmentation_tasks
        assert (await conn.execute(select(func.count()).select_from(t))).scalar_one() == 50_000
    cancelled = (await ada.post(f"{URL}/{answer.json()['id']}/cancel", timeout=120)).json()
    assert cancelled["count"] == 50_000
