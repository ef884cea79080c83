"""The whole site as real processes, through its front door: images in over HTTP, the truth out over the WebSocket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from spheroseg.database.accounts import add_user, create_token
from spheroseg.messages import Queue
from spheroseg.monitoring.heartbeat import INTERVAL_SECONDS

from .conftest import Postgres, eventually
from .support.compose import ROOT
from .support.prometheus import prometheus
from .support.rabbitmq import RabbitNode
from .support.stack import Stack, stack_on
from .support.watchers import Watcher, watching

pytestmark = pytest.mark.slow

IMAGES = ROOT.parent / "shared/data/nuclei/images"
COUNT = 200


def real_images() -> list[Path]:
    found = sorted(IMAGES.glob("*"))[:COUNT]
    if len(found) < COUNT:
        pytest.skip(f"the {COUNT} images of {IMAGES} are not here")
    return found


async def token_of(stack: Stack, name: str, role: str = "member") -> str:
    async with stack.engine.begin() as conn:
        user = await add_user(conn, name, tier="premium", role=role)
        token, _ = await create_token(conn, user.id, "test")
    return token


async def upload(client: httpx.AsyncClient, project_id: str, paths: list[Path]) -> list[str]:
    """The ids of the images; 50 files a request."""
    ids = []
    for start in range(0, len(paths), 50):
        files = [("files", (path.name, path.read_bytes())) for path in paths[start : start + 50]]
        answer = await client.post(f"/api/projects/{project_id}/images", files=files)
        assert answer.status_code == 200, answer.text
        ids += [image["id"] for file in answer.json()["files"] for image in file["images"]]
    return ids


async def test_200_images_through_two_backends_while_rabbitmq_stops_and_comes_back(
    postgres: Postgres, shipped_rabbit: RabbitNode, tmp_path: Path
) -> None:
    paths, node = real_images(), shipped_rabbit
    async with stack_on(postgres, node, tmp_path) as stack:
        first, second = (
            stack.start("backend", message_queue=True, serve_collect="false", serve_relay="false") for _ in range(2)
        )
        for command in ("relay", "collect"):
            stack.start("backend", ["spheroseg", command], message_queue=True)
        services = [stack.start("ml", message_queue=True) for _ in range(2)]
        exporter = stack.start("exporter", message_queue=True)
        for instance in (first, second, *services, exporter):
            await instance.becomes_healthy()
        ports = {
            "backend": first.ports["BACKEND_PORT"],
            "ml": services[0].ports["WORKER_HTTP_PORT"],
            "exporter": exporter.ports["EXPORTER_PORT"],
        }
        token = await token_of(stack, "ada")
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=first.url("BACKEND_PORT"), headers=headers, timeout=60) as client:
            project = (await client.post("/api/projects", json={"name": "plate 7"})).json()
            image_ids = await upload(client, project["id"], paths)
            assert len(set(image_ids)) == COUNT
            address = second.url("BACKEND_PORT").removeprefix("http://")
            async with watching(address, token, project_id=project["id"]) as watcher:
                answer = await client.post(
                    "/api/segmentation/batches",
                    json={"project_id": project["id"]},
                    headers={"Idempotency-Key": "evening"},
                )
                assert answer.status_code == 202, answer.text
                batch_id = answer.json()["id"]
                await eventually(lambda: finished(watcher, batch_id) >= 30, within=90)
                await asyncio.to_thread(node.kill)
                await eventually(lambda: watcher.health.get("status") == "degraded", within=30)
                assert "database queue" in watcher.health["reason"]
                before = finished(watcher, batch_id)
                await eventually(
                    lambda: finished(watcher, batch_id) >= before + 30, within=90, what="goes on without"
                )
                await asyncio.to_thread(node.start)
                await eventually(lambda: watcher.health["status"] == "ok", within=60)
                await eventually(lambda: watcher.batches[batch_id]["is_finished"], within=180)
                assert watcher.knows(batch_id)
                assert watcher.batches[batch_id]["counts"]["completed"] == COUNT
                again = await client.post(
                    "/api/segmentation/batches",
                    json={"project_id": project["id"]},
                    headers={"Idempotency-Key": "evening"},
                )
                assert (again.status_code, again.json()["id"]) == (200, batch_id)
            batch = (await client.get(f"/api/segmentation/batches/{batch_id}")).json()
            assert batch["state"] == "completed"
            table = (await client.get(f"/api/segmentation/batches/{batch_id}/results.csv")).text.splitlines()
            assert len(table) > COUNT
            with prometheus(tmp_path / "prometheus", ports) as metrics:
                await metrics.scrapes(set(ports))
                assert metrics.value('spheroseg_tasks{state="completed"}') == COUNT
                assert metrics.value("spheroseg_task_processing_seconds_count") == COUNT
                assert metrics.value("spheroseg_degraded") == 0
                # RabbitMQ counts its queues every 5 s only: until then it tells of messages that are gone.
                waiting = f'rabbitmq_queue_messages{{job="exporter",queue="{Queue.TASKS}"}}'
                await eventually(
                    lambda: metrics.value(waiting) == 0, within=30, what="messages are left in the queue"
                )
            figures = await read_figures(second.url("BACKEND_PORT"), await token_of(stack, "root", role="admin"))
            assert figures["queue"]["status"] == "connected"
            assert figures["messages"]["processes"] == 4, "relay, collect, two workers"
            assert min(figures["messages"]["published"], figures["messages"]["consumed"]) >= 30
            assert figures["tasks"]["completed"] == COUNT
            task_id = next(iter(watcher.tasks))
            mask = await client.get(f"/api/segmentation/tasks/{task_id}/mask")
            assert mask.content[:2] == b"II"
            story = (await client.get(f"/api/segmentation/tasks/{task_id}")).json()
            assert story["state"] == "completed", json.dumps(story)


async def read_figures(url: str, token: str) -> Any:
    """What the specification's metrics say, once every process has told what it did last."""
    await asyncio.sleep(INTERVAL_SECONDS)
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as admin:
        return (await admin.get("/api/admin/queue/metrics")).json()


def finished(watcher: Watcher, batch_id: str) -> int:
    return int(watcher.batches.get(batch_id, {}).get("finished", 0))
