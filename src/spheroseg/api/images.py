"""Images: listed with the state of their newest task, and downloaded byte for byte."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.fields import StorableText
from spheroseg.api.files import IMAGE_MEDIA_TYPES, UNKNOWN_MEDIA_TYPE, file_responses, send_file
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.database import images as rows_of
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible
from spheroseg.errors import NotFound, UnreadableInput
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

log = structlog.get_logger()
router = APIRouter(tags=["images"])

NamePart = Annotated[StorableText | None, Query(description="A part of the name; case does not matter.")]
State = Annotated[
    TaskState | Literal["none"] | None,
    Query(description="State of the newest task; `none` for images without a task."),
]


class Image(BaseModel):
    """page: counted from 0; only a stack has more than one, each an image with the same name and file.

    sha256, size_bytes: of the whole file; size_bytes is null if it is unknown. state, task_id: of the newest task;
    null if there is none.
    """

    id: UUID
    project_id: UUID
    name: str
    page: int
    sha256: str
    size_bytes: int | None
    created_at: datetime
    state: TaskState | None
    task_id: UUID | None


@router.get("/projects/{project_id}/images")
async def list_images(
    resources: AppResources,
    user: CurrentUser,
    project_id: UUID,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NamePart = None,
    state: State = None,
) -> Page[Image]:
    """List the images of a project, the oldest first."""
    async with reading(resources.engine) as conn:
        await check_visible(conn, user.id, project_id)
        after = read_cursor(cursor, UUID)
        rows = await rows_of.list_images(conn, user.id, project_id, limit + 1, after, name=name, state=state)
    return Page(
        items=[Image.model_validate(row, from_attributes=True) for row in rows[:limit]],
        next_cursor=write_cursor(rows, limit, lambda row: row.id),
    )


@router.get("/images/{image_id}")
async def read_image(resources: AppResources, user: CurrentUser, image_id: UUID) -> Image:
    """Read one image, with the state of its newest task."""
    async with reading(resources.engine) as conn:
        row = await rows_of.read_image(conn, user.id, image_id)
    return Image.model_validate(row, from_attributes=True)


@router.get(
    "/images/{image_id}/file",
    response_class=Response,
    responses=file_responses("The whole file", [*IMAGE_MEDIA_TYPES.values(), UNKNOWN_MEDIA_TYPE]),
)
async def download_image(resources: AppResources, user: CurrentUser, image_id: UUID, request: Request) -> Response:
    """Download the file of an image, byte for byte as it was uploaded. For a page, that is the whole stack."""
    async with reading(resources.engine) as conn:
        row = await rows_of.read_image(conn, user.id, image_id)
    store = ImageStore(resources.settings.resolved_storage_url())
    name = row.name.rpartition("/")[2] or "image"
    try:
        return await send_file(request, store, row.storage_key, sha256=row.sha256, name=name)
    except (UnreadableInput, OSError) as error:
        log.error("the file of an image cannot be read", image=str(image_id), error=str(error))
        raise NotFound("the file of this image can no longer be read: ask the operator of the server") from error
