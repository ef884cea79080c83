"""Images: many in one request, listed with the state of their newest task, and their files as they came."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote
from uuid import UUID

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from spheroseg.api.auth import ThePlace, TheUser
from spheroseg.api.fields import StorableText
from spheroseg.api.incoming import MAX_FILES, PIECE, receive
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.api.problems import MEDIA_TYPE, RETRY_SECONDS, Problem
from spheroseg.api.uploads import Intake, UploadedFile
from spheroseg.database import images as rows_of
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible
from spheroseg.errors import BadImage, BadRequest, NotFound, SpherosegError, UnreadableInput
from spheroseg.segmentation.file_format import detect_format
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

log = structlog.get_logger()
router = APIRouter(tags=["images"])

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "BMP": "image/bmp", "TIFF": "image/tiff"}

_FILE: dict[str, Any] = {name: {} for name in (*MEDIA_TYPES.values(), "application/octet-stream")}

NamePart = Annotated[StorableText | None, Query(description="Part of the name, in capitals or not.")]
State = Annotated[
    TaskState | Literal["none"] | None, Query(description="Of the newest task; `none`: there is no task.")
]


class Image(BaseModel):
    """page: counted from 0; only a stack has more than one, each an image with the same name and file.

    sha256, size_bytes: of the whole file; size_bytes is null where nobody has looked. state: of the newest task, and
    null where there is none; task_id: that task.
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


class UploadReport(BaseModel):
    """files: every file, in the order they came in. created, existing, rejected: how many ended so."""

    files: list[UploadedFile]
    created: int
    existing: int
    rejected: int


class UploadProblem(Problem):
    """files: what became of those that came in before the problem, or were all refused."""

    files: list[UploadedFile] = Field([])


_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "description": f"PNG, JPEG, BMP, TIFF, and zip archives; at most {MAX_FILES:,} parts.",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}
_UPLOAD_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Every file is in the project now"},
    207: {"description": "Some files are, some were rejected: look at `files`", "model": UploadReport},
    **{
        status: {"description": description, "model": UploadProblem, "content": {MEDIA_TYPE: {}}}
        for status, description in (
            (413, "Too large, and nothing was taken but what `files` says"),
            (415, "Not multipart/form-data"),
            (422, "Nothing could be taken, or the body breaks off: look at `files`"),
            (503, "The database or the storage is not there now"),
            (507, "The disk of the server is full"),
        )
    },
}


@router.post(
    "/projects/{project_id}/images",
    response_model=UploadReport,
    responses=_UPLOAD_ANSWERS,
    openapi_extra=_UPLOAD,
)
async def upload_images(place: ThePlace, user: TheUser, project_id: UUID, request: Request) -> Response:
    """Put images into a project: any number of files, and zip archives of files, in one multipart request.

    Each file is answered for itself, and a broken one does not spoil the others. 200: all are in the project; 207:
    some were rejected; 4xx or 507: none was taken. A file that breaks off with the connection is not taken, those
    before it are; send everything again, and what is there already is `existing`, not twice.

    A file is told by its content, never by its name or type. Each page of a TIFF stack becomes an image. A file may
    have MAX_UPLOAD_MB (by default 128 MB), also inside an archive; an archive 64 times as much, with at most 10,000
    files. Parts have any field name, and need a file name.
    """
    async with reading(place.engine) as conn:
        await check_visible(conn, user.id, project_id)
    intake = Intake(place, user, project_id)
    await asyncio.to_thread(intake.store.remove_abandoned)
    try:
        content_type = request.headers.get("content-type", "")
        await receive(request.stream(), content_type, intake.store, intake.limit_mb, intake.take)
    except ClientDisconnect:
        log.info("a client broke off its upload", project=str(project_id), files=len(intake.files))
        return Response(status_code=400)
    except SpherosegError as error:
        return _upload_problem(error, intake.files)
    if not intake.files:
        return _upload_problem(BadRequest("there is no file in the request"), [])
    counts = {status: sum(file.status == status for file in intake.files) for status in _STATUSES}
    if counts["rejected"] == len(intake.files):
        return _upload_problem(_of_all(intake.errors), intake.files)
    report = UploadReport(files=intake.files, **counts)
    return JSONResponse(report.model_dump(mode="json"), 207 if counts["rejected"] else 200)


_STATUSES = ("created", "existing", "rejected")


def _of_all(errors: list[SpherosegError]) -> SpherosegError:
    """One error for a request of which nothing was taken."""
    first = errors[0]
    if len(errors) > 1:
        # The same kind of trouble with all of them is told as such.
        kind_of_all = type(first) if len({error.code for error in errors}) == 1 else BadRequest
        return kind_of_all(f"none of {len(errors)} files was taken; the first: {first}")
    return first


def _upload_problem(error: SpherosegError, files: list[UploadedFile]) -> Response:
    title = error.code.replace("_", " ").capitalize()
    problem = UploadProblem(title=title, status=error.status, code=error.code, detail=str(error), files=files)
    headers = {"Retry-After": str(RETRY_SECONDS)} if error.status == 503 else None
    content = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, error.status, headers=headers, media_type=MEDIA_TYPE)


@router.get("/projects/{project_id}/images")
async def list_images(
    place: ThePlace,
    user: TheUser,
    project_id: UUID,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NamePart = None,
    state: State = None,
) -> Page[Image]:
    """A project's images in the order in which they came."""
    async with reading(place.engine) as conn:
        await check_visible(conn, user.id, project_id)
        after = read_cursor(cursor, UUID)
        rows = await rows_of.list_images(conn, user.id, project_id, limit + 1, after, name=name, state=state)
    return Page(
        items=[Image.model_validate(row._asdict()) for row in rows[:limit]],
        next_cursor=write_cursor(rows, limit, lambda row: row.id),
    )


@router.get("/images/{image_id}")
async def read_image(place: ThePlace, user: TheUser, image_id: UUID) -> Image:
    """One image, with the state of its newest task."""
    async with reading(place.engine) as conn:
        row = await rows_of.read_image(conn, user.id, image_id)
    return Image.model_validate(row._asdict())


@router.get(
    "/images/{image_id}/file",
    response_class=Response,
    responses={
        200: {"description": "The whole file", "content": _FILE},
        206: {"description": "The part that a Range header asked for", "content": _FILE},
        416: {"description": "There is no such part"},
    },
)
async def read_file(place: ThePlace, user: TheUser, image_id: UUID) -> Response:
    """The file of an image, byte for byte as it came; of a page, the whole stack."""
    async with reading(place.engine) as conn:
        row = await rows_of.read_image(conn, user.id, image_id)
    store = ImageStore(place.settings.resolved_storage_url())
    closing = ExitStack()

    def open_file() -> tuple[BinaryIO, str]:
        file = closing.enter_context(store.open(row.storage_key))
        try:
            return file, MEDIA_TYPES[detect_format(file)]
        except BadImage:
            return file, "application/octet-stream"

    try:
        file, media_type = await asyncio.to_thread(open_file)
    except (UnreadableInput, OSError) as error:
        log.error("the file of an image cannot be read", image=str(image_id), error=str(error))
        raise NotFound("the file of this image cannot be read any more: ask who runs the server") from error
    headers = {
        "Content-Disposition": _attachment(row.name),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    path = store.local_path(row.storage_key)
    if path is not None:
        closing.close()
        return FileResponse(path, media_type=media_type, headers=headers)
    return StreamingResponse(_pieces(file, closing), media_type=media_type, headers=headers)


def _pieces(file: BinaryIO, closing: ExitStack) -> Iterator[bytes]:
    with closing:
        while piece := file.read(PIECE):
            yield piece


def _attachment(name: str) -> str:
    """A Content-Disposition that no name can break out of."""
    last = name.rpartition("/")[2] or "image"
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", last)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='', errors='replace')}"
