"""One task: its story, the end of it, another try, and what came out."""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import ThePlace, TheUser
from spheroseg.api.files import file_responses, send_file
from spheroseg.api.problems import MEDIA_TYPE, Problem
from spheroseg.api.schemas import AttemptOut, ResultOut, TaskStory, result_fields, task_fields
from spheroseg.database.accounts import User
from spheroseg.database.engine import reading
from spheroseg.database.failures import read_failures
from spheroseg.database.queue_position import read_positions, read_tasks_per_second
from spheroseg.database.results import TaskResult
from spheroseg.database.results import read_result as read_stored_result
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.task_details import read_task as read_stored_task
from spheroseg.errors import Conflict, Gone, NotFound
from spheroseg.queueing.submit import cancel, retry
from spheroseg.resources import Resources
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

router = APIRouter(prefix="/segmentation/tasks", tags=["tasks"])

GONE: dict[int | str, dict[str, Any]] = {
    410: {"model": Problem, "description": "The file is not in the store any more", "content": {MEDIA_TYPE: {}}}
}


@router.get("/{task_id}")
async def read_task(task_id: UUID, place: ThePlace, user: TheUser) -> TaskStory:
    """The story of a task: its state, every attempt that did not finish and why, its place in line."""
    async with reading(place.engine) as conn:
        return await _story(conn, task_id, user)


async def _story(conn: AsyncConnection, task_id: UUID, user: User) -> TaskStory:
    row = await read_stored_task(conn, task_id, user.id)
    found = (await read_positions(conn, [task_id])).get(task_id) if row.state == TaskState.QUEUED else None
    pace = await read_tasks_per_second(conn) if found else None
    failures = await read_failures(conn, task_id)
    return TaskStory(
        **task_fields(row, found),
        expected_seconds=round((found.ahead + 1) / pace, 1) if found and pace else None,
        failures=[AttemptOut(**failure._asdict()) for failure in failures],
        has_history=keeps_failures(conn),
    )


@router.post("/{task_id}/cancel")
async def cancel_task(task_id: UUID, place: ThePlace, user: TheUser) -> TaskStory:
    """Cancel a task that is not finished; a worker that is at it stops."""
    return await _change(task_id, place, user, cancel, "only a task that is not finished can be cancelled")


@router.post("/{task_id}/retry")
async def retry_task(task_id: UUID, place: ThePlace, user: TheUser) -> TaskStory:
    """Give a failed task a fresh set of tries."""
    return await _change(task_id, place, user, retry, "only a failed task can be tried again")


async def _change(
    task_id: UUID, place: Resources, user: User, change: Callable[..., Awaitable[list[UUID]]], otherwise: str
) -> TaskStory:
    async with place.engine.begin() as conn:
        row = await read_stored_task(conn, task_id, user.id)
        if not await change(conn, [task_id]):
            raise Conflict(f"the task is {row.state}: {otherwise}")
        return await _story(conn, task_id, user)


@router.get("/{task_id}/result", response_class=JSONResponse, responses={200: {"model": ResultOut}})
async def read_result(task_id: UUID, place: ThePlace, user: TheUser) -> JSONResponse:
    """What was found in the image: outlines, measurements, and how they came about. 404 before it is completed."""
    return JSONResponse(result_fields(await _result(task_id, place, user)))


@router.get(
    "/{task_id}/mask",
    response_class=Response,
    responses={
        **GONE,
        **file_responses("image/tiff", "TIFF of the image's size, uint16: 0 the ground, 1 object 1 …"),
    },
)
async def download_mask(task_id: UUID, place: ThePlace, user: TheUser, request: Request) -> Response:
    """The label mask, with the pixel size where it is known. 404 before the task is completed."""
    return await _file(task_id, place, user, request, "mask", "image/tiff", ".tif")


@router.get(
    "/{task_id}/overlay",
    response_class=Response,
    responses={**GONE, **file_responses("image/jpeg", "The image with outlines and numbers")},
)
async def download_overlay(task_id: UUID, place: ThePlace, user: TheUser, request: Request) -> Response:
    """The image with the outlines and numbers of the objects, to look at. 404 before the task is completed."""
    return await _file(task_id, place, user, request, "overlay", "image/jpeg", ".jpg")


async def _result(task_id: UUID, place: Resources, user: User) -> TaskResult:
    async with reading(place.engine) as conn:
        task = await read_stored_task(conn, task_id, user.id)
        found = await read_stored_result(conn, task_id)
    if found is None:
        why = f" ({task.error})" if task.state == TaskState.FAILED and task.error else ""
        raise NotFound(f"there is no result: the task is {task.state}{why}, and only a completed one has a result")
    return found


async def _file(
    task_id: UUID, place: Resources, user: User, request: Request, kind: str, media_type: str, suffix: str
) -> Response:
    row = await _result(task_id, place, user)
    if kind not in row.result:
        raise Gone(f"the result has no {kind}: the worker that made it wrote none")
    file = row.result[kind]
    page = f"_p{row.page + 1}" if row.page else ""
    stem = re.sub(r"\.[^./]*$", "", row.image)
    store = ImageStore(place.settings.resolved_storage_url())
    name = f"{stem}{page}_{kind}{suffix}"
    return await send_file(request, store, file["key"], file["sha256"], media_type, name, inline=kind == "overlay")
