"""Batches over HTTP: submitting them, invalid requests, and lists of batches; on both databases."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, select, update

from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import reading
from spheroseg.database.schema import segmentation_batches, segmentation_tasks
from spheroseg.messages import Queue, decode_task
from spheroseg.segmentation.model import DEFAULT_MODEL, load_model

from .support.backend import Backend
from .support.plates import (
    BATCHES,
    add_images,
    add_project,
    submitted,
)


@pytest.fixture
async def plate(backend: Backend, ada: httpx.AsyncClient) -> UUID:
    return await add_project(backend.engine, "ada")


async def test_a_batch_of_a_whole_project_is_accepted_at_once_with_its_settings(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    images = await add_images(backend.engine, plate, 3)
    answer = await ada.post(
        BATCHES, json={"project_id": str(plate), "parameters": {"threshold": 0.4}, "pixel_size_um": 0.65}
    )
    assert answer.status_code == 202
    batch = answer.json()
    assert answer.headers["location"] == f"{BATCHES}/{batch['id']}"
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
        orders = [decode_task(delivery.message) for delivery in await consumer.take(3, 5)]
    assert {(found.parameters["threshold"], found.pixel_size_um, found.model) for found in orders} == {
        (0.4, 0.65, DEFAULT_MODEL)
    }
    tasks = (await ada.get(f"{BATCHES}/{batch['id']}/tasks")).json()["items"]
    assert {task["image_id"] for task in tasks} == set(map(str, images))
    assert (await ada.get(answer.headers["location"])).json()["id"] == batch["id"]


async def test_images_can_be_selected_and_missing_ones_are_named(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    first, second, _ = await add_images(backend.engine, plate, 3)
    batch = await submitted(ada, plate, image_ids=[str(second), str(first), str(second)])
    tasks = (await ada.get(f"{BATCHES}/{batch['id']}/tasks")).json()["items"]
    assert [task["image_id"] for task in tasks] == [str(second), str(first)]
    (foreign,) = await add_images(backend.engine, await add_project(backend.engine, "grace"))
    unknown = uuid4()
    answer = await ada.post(
        BATCHES, json={"project_id": str(plate), "image_ids": [str(first), str(foreign), str(unknown)]}
    )
    assert answer.status_code == 422
    assert str(foreign) in answer.json()["detail"]
    assert str(unknown) in answer.json()["detail"]
    assert "2 of 3" in answer.json()["detail"]
    assert len((await ada.get(BATCHES)).json()["items"]) == 1, "nothing of it was stored"


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
async def test_an_invalid_request_is_refused_with_an_explanation(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID, wrong: dict[str, Any]
) -> None:
    await add_images(backend.engine, plate, 1)
    answer = await ada.post(BATCHES, json={"project_id": str(plate), **wrong})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


async def test_infinite_and_nan_numbers_are_refused(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 1)
    for body in ('"parameters": {"threshold": NaN}', '"parameters": {"min_area_px": 1e999}', '"pixel_size_um": NaN'):
        content = f'{{"project_id": "{plate}", {body}}}'
        answer = await ada.post(BATCHES, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text


async def test_submitting_an_empty_project_says_what_to_do(ada: httpx.AsyncClient, plate: UUID) -> None:
    answer = await ada.post(BATCHES, json={"project_id": str(plate)})
    assert answer.status_code == 422
    assert "upload" in answer.json()["detail"]


async def test_the_same_idempotency_key_returns_the_same_batch(
    backend: Backend, ada: httpx.AsyncClient, plate: UUID
) -> None:
    await add_images(backend.engine, plate, 2)
    key = {"Idempotency-Key": "monday evening"}
    answers = await asyncio.gather(
        *(ada.post(BATCHES, json={"project_id": str(plate)}, headers=key) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count("true") == 3
    await add_images(backend.engine, plate, 1)
    again = await ada.post(BATCHES, json={"project_id": str(plate)}, headers=key)
    assert (again.status_code, again.json()["total"]) == (200, 2)
    async with backend.engine.begin() as conn:
        # As an older version stored it, which had fewer parameters.
        old = {"threshold": 0.5, "min_area_px": None}
        await conn.execute(update(segmentation_batches).values(parameters=old))
    assert (await ada.post(BATCHES, json={"project_id": str(plate)}, headers=key)).status_code == 200
    wish = {"project_id": str(plate), "parameters": {"edge": "discard"}}
    assert (await ada.post(BATCHES, json=wish, headers=key)).status_code == 409
    other = await add_project(backend.engine, "ada", "another")
    await add_images(backend.engine, other, 1)
    answer = await ada.post(BATCHES, json={"project_id": str(other)}, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    async with await backend.client("grace") as grace:
        project = await add_project(backend.engine, "grace")
        await add_images(backend.engine, project, 1)
        answer = await grace.post(BATCHES, json={"project_id": str(project)}, headers=key)
        assert answer.status_code == 202


async def test_batches_of_other_users_are_not_found(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 1)
    batch = await submitted(ada, plate)
    async with await backend.client("mallory", role="admin") as mallory:
        address = f"{BATCHES}/{batch['id']}"
        asked = [
            await mallory.get(address),
            await mallory.get(f"{address}/tasks"),
            await mallory.get(f"{address}/results"),
            await mallory.get(f"{address}/results.csv"),
            await mallory.post(f"{address}/cancel"),
            await mallory.post(f"{address}/retry"),
            await mallory.get(BATCHES, params={"project_id": str(plate)}),
            await mallory.post(BATCHES, json={"project_id": str(plate)}),
        ]
        assert [answer.status_code for answer in asked] == [404] * len(asked)
        assert (await mallory.get(BATCHES)).json()["items"] == []
    assert (await ada.get(address)).json()["state"] == "queued"


@pytest.mark.parametrize(("tier", "priority"), [("regular", 1), ("premium", 10)])
async def test_the_priority_follows_from_the_tier(backend: Backend, tier: str, priority: int) -> None:
    async with await backend.client("eve", tier=tier) as eve:
        project = await add_project(backend.engine, "eve")
        await add_images(backend.engine, project, 1)
        assert (await submitted(eve, project))["priority"] == priority


async def test_lists_come_in_pages(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    await add_images(backend.engine, plate, 5)
    batches = [(await submitted(ada, plate))["id"] for _ in range(3)]
    first = (await ada.get(BATCHES, params={"limit": 2})).json()
    second = (await ada.get(BATCHES, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [row["id"] for row in first["items"] + second["items"]] == batches[::-1]
    assert second["next_cursor"] is None
    seen, cursor = [], None
    while True:
        page = (
            await ada.get(
                f"{BATCHES}/{batches[0]}/tasks", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
            )
        ).json()
        seen += [task["id"] for task in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(set(seen)) == len(seen) == 5
    assert (await ada.get(BATCHES, params={"cursor": "nonsense"})).status_code == 422


async def test_fifty_thousand_images_are_one_batch(backend: Backend, ada: httpx.AsyncClient, plate: UUID) -> None:
    images = await add_images(backend.engine, plate, 50_000)
    content = json.dumps({"project_id": str(plate), "image_ids": list(map(str, images))})
    answer = await ada.post(BATCHES, content=content, headers={"Content-Type": "application/json"}, timeout=120)
    assert (answer.status_code, answer.json()["total"]) == (202, 50_000)
    async with reading(backend.engine) as conn:
        t = segmentation_tasks
        assert (await conn.execute(select(func.count()).select_from(t))).scalar_one() == 50_000
    cancelled = (await ada.post(f"{BATCHES}/{answer.json()['id']}/cancel", timeout=120)).json()
    assert cancelled["count"] == 50_000
