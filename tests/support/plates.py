"""Projects with stored images, and reports about their tasks, for the tests of the backend."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.projects import NewImage, ensure_images, ensure_project, ensure_user
from spheroseg.messages import Report, TaskCompleted, TaskFailed, TaskStarted
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.segmentation.measure import DIMENSIONS
from spheroseg.tasks import RetryPolicy

BATCHES = "/api/segmentation/batches"
EXAMPLES = Path(__file__).parents[2] / "examples" / "spheroids"

_numbers = itertools.count()


async def add_project(engine: AsyncEngine, owner: str, name: str = "plate") -> UUID:
    async with engine.begin() as conn:
        return await ensure_project(conn, await ensure_user(conn, owner), name)


async def add_images(engine: AsyncEngine, project_id: UUID, images: int | Sequence[str | NewImage] = 1) -> list[UUID]:
    """Add `images` images, or images of these names. Their files do not exist, so no worker can open them."""
    names = [f"image-{next(_numbers)}.png" for _ in range(images)] if isinstance(images, int) else images
    new = [
        NewImage(image, f"images/{next(_numbers)}", f"{next(_numbers):064d}") if isinstance(image, str) else image
        for image in names
    ]
    async with engine.begin() as conn:
        return await ensure_images(conn, project_id, new)


async def submitted(client: httpx.AsyncClient, project_id: UUID, **more: Any) -> Any:
    response = await client.post(BATCHES, json={"project_id": str(project_id), **more})
    assert response.status_code == 202, response.text
    return response.json()


async def task_ids(client: httpx.AsyncClient, batch: Any) -> list[UUID]:
    response = await client.get(f"{BATCHES}/{batch['id']}/tasks")
    return [UUID(task["id"]) for task in response.json()["items"]]


def a_result(um: float | None = None, objects: int = 1, **more: Any) -> dict[str, Any]:
    """Return a result as the child process of a worker makes it, with `objects` equal objects."""
    found = {
        "outer": [[0.5, 0.5], [10.5, 0.5], [10.5, 10.5]],
        "holes": [],
        "flags": ["touches_edge"],
        "measurements": {**dict.fromkeys(DIMENSIONS, 2.0), "centroid_x": -1.5},
    }
    return {
        "width": 100,
        "height": 80,
        "pixel_size": {"um": um, "source": "option"} if um else None,
        "flags": [] if objects else ["no_object_found"],
        "objects": [found] * objects,
        "model": {"name": "m", "version": "1", "sha256": "0" * 64},
        "parameters": {"threshold": 0.5, "min_area_px": 50.0},
        "metrics_version": "1",
        "versions": {"spheroseg": "0"},
        "durations_ms": {"decode": 1.0},
        "image_sha256": "1" * 64,
        **more,
    }


def started(task_id: UUID, worker: str = "w", attempt: int = 1) -> TaskStarted:
    return TaskStarted(task_id=task_id, attempt=attempt, worker=worker, at=datetime.now(UTC))


def completed(
    task_id: UUID, result: dict[str, Any] | None = None, worker: str = "w", attempt: int = 1, seconds: float = 0.0
) -> TaskCompleted:
    """seconds: how long the attempt took until now."""
    now = datetime.now(UTC)
    return TaskCompleted(
        task_id=task_id,
        attempt=attempt,
        worker=worker,
        at=now,
        started_at=now - timedelta(seconds=seconds),
        result=result or a_result(),
    )


def failed(task_id: UUID, reason: str = "timeout", worker: str = "w", attempt: int = 1, **more: Any) -> TaskFailed:
    more = {"retryable": False, **more}
    return TaskFailed(
        task_id=task_id,
        attempt=attempt,
        worker=worker,
        at=datetime.now(UTC),
        reason=reason,
        error=f"because of {reason}",
        **more,
    )


async def report(engine: AsyncEngine, *reports: Report) -> None:
    async with engine.begin() as conn:
        await apply_reports(conn, reports, RetryPolicy())
