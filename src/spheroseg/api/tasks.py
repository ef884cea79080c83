"""One task: its history, cancel and retry, its result and files."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import AppResources, CurrentUser
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
from spheroseg.errors import Conflict, Gone, NotFound, UnreadableInput
from spheroseg.queueing.submit import cancel, retry
from spheroseg.resources import Resources
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

router = APIRouter(prefix="/segmentation/tasks", tags=["tasks"])

ChangeTasks = Callable[[AsyncConnection, Sequence[UUID]], Awaitable[list[UUID]]]

_GONE: dict[int | str, dict[str, Any]] = {
    410: {"model": Problem, "description": "The file is no longer in the storage", "content": {MEDIA_TYPE: {}}}
}


@router.get("/{task_id}")
async def read_task(task_id: UUID, resources: AppResources, user: CurrentUser) -> TaskStory:
    """Read a task: its state, its position in the queue, and every attempt that did not finish, with the reason."""
    async with reading(resources.engine) as conn:
        return await _read_story(conn, task_id, user)


async def _read_story(conn: AsyncConnection, task_id: UUID, user: User) -> TaskStory:
    row = await read_stored_task(conn, task_id, user.id)
    position = (await read_positions(conn, [task_id])).get(task_id) if row.state == TaskState.QUEUED else None
    tasks_per_second = await read_tasks_per_second(conn) if position else None
    failures = await read_failures(conn, task_id)
    return TaskStory(
        **task_fields(row, position),
        expected_seconds=round((position.ahead + 1) / tasks_per_second, 1) if position and tasks_per_second else None,
        failures=[AttemptOut.model_validate(failure, from_attributes=True) for failure in failures],
        has_history=keeps_failures(conn),
    )


@router.post("/{task_id}/cancel")
async def cancel_task(task_id: UUID, resources: AppResources, user: CurrentUser) -> TaskStory:
    """Cancel a task that is not finished. A worker that is processing it stops."""
    return await _change(task_id, resources, user, cancel, "only a task that is not finished can be cancelled")


@router.post("/{task_id}/retry")
async def retry_task(task_id: UUID, resources: AppResources, user: CurrentUser) -> TaskStory:
    """Give a failed task a fresh set of tries."""
    return await _change(task_id, resources, user, retry, "only a failed task can be tried again")


async def _change(task_id: UUID, resources: Resources, user: User, change: ChangeTasks, rule: str) -> TaskStory:
    async with resources.engine.begin() as conn:
        row = await read_stored_task(conn, task_id, user.id)
        if not await change(conn, [task_id]):
            raise Conflict(f"the task is {row.state}: {rule}")
        return await _read_story(conn, task_id, user)


@router.get("/{task_id}/result", response_class=JSONResponse, responses={200: {"model": ResultOut}})
async def read_result(task_id: UUID, resources: AppResources, user: CurrentUser) -> JSONResponse:
    """Read the result: outlines, measurements and how they were made. 404 before the task is completed."""
    return JSONResponse(result_fields(await _read_result(task_id, resources, user)))


@router.get(
    "/{task_id}/mask",
    response_class=Response,
    responses={
        **_GONE,
        **file_responses("TIFF of the image's size, uint16: 0 is background, 1 is object 1 …", ["image/tiff"]),
    },
)
async def download_mask(task_id: UUID, resources: AppResources, user: CurrentUser, request: Request) -> Response:
    """Download the label mask, with the pixel size if it is known. 404 before the task is completed."""
    return await _send_result_file(task_id, resources, user, request, "mask")


@router.get(
    "/{task_id}/overlay",
    response_class=Response,
    responses={**_GONE, **file_responses("The image with outlines and numbers", ["image/jpeg"])},
)
async def download_overlay(task_id: UUID, resources: AppResources, user: CurrentUser, request: Request) -> Response:
    """Download the image with the outlines and numbers of the objects. 404 before the task is completed."""
    return await _send_result_file(task_id, resources, user, request, "overlay")


async def _read_result(task_id: UUID, resources: Resources, user: User) -> TaskResult:
    async with reading(resources.engine) as conn:
        task = await read_stored_task(conn, task_id, user.id)
        result = await read_stored_result(conn, task_id)
    if result is None:
        reason = f" ({task.error})" if task.state == TaskState.FAILED and task.error else ""
        raise NotFound(f"there is no result: the task is {task.state}{reason}, and only a completed one has a result")
    return result


async def _send_result_file(
    task_id: UUID, resources: Resources, user: User, request: Request, kind: Literal["mask", "overlay"]
) -> Response:
    row = await _read_result(task_id, resources, user)
    if kind not in row.result:
        raise Gone(f"the result has no {kind}: the worker that made it wrote none")
    file = row.result[kind]
    page = f"_p{row.page + 1}" if row.page else ""
    stem = re.sub(r"\.[^./]*$", "", row.image)
    media_type, suffix = {"mask": ("image/tiff", ".tif"), "overlay": ("image/jpeg", ".jpg")}[kind]
    try:
        return await send_file(
            request,
            ImageStore(resources.settings.resolved_storage_url()),
            file["key"],
            sha256=file["sha256"],
            name=f"{stem}{page}_{kind}{suffix}",
            media_type=media_type,
            is_inline=kind == "overlay",
        )
    except UnreadableInput:
        raise Gone(
            "the file is no longer in the storage, because somebody has deleted it; submit the image again to make a "
            "new one"
        ) from None
