"""Upload: any number of image files and zip archives in one request."""

import asyncio
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.incoming import MAX_FILES, receive
from spheroseg.api.intake import Intake, UploadedFile
from spheroseg.api.problems import MEDIA_TYPE, RETRY_SECONDS, Problem
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible
from spheroseg.errors import BadRequest, SpherosegError

log = structlog.get_logger()
router = APIRouter(tags=["images"])

STATUSES = ("created", "existing", "rejected")


class UploadReport(BaseModel):
    """files: every file, in the order of the request. created, existing, rejected: the number with that status."""

    files: list[UploadedFile]
    created: int
    existing: int
    rejected: int


class UploadProblem(Problem):
    """files: the outcome for each file that was received before the problem, or that was rejected."""

    files: list[UploadedFile] = Field([])


_REQUEST: dict[str, Any] = {
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
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Every file is in the project now"},
    207: {"description": "Some files are in the project now, some were rejected: see `files`", "model": UploadReport},
    **{
        status: {"description": description, "model": UploadProblem, "content": {MEDIA_TYPE: {}}}
        for status, description in (
            (413, "Too large; only what `files` lists was stored"),
            (415, "Not multipart/form-data"),
            (422, "No file could be stored, or the body is incomplete: see `files`"),
            (503, "The database or the storage is unavailable now"),
            (507, "The disk of the server is full"),
        )
    },
}


@router.post(
    "/projects/{project_id}/images",
    response_model=UploadReport,
    responses=_RESPONSES,
    openapi_extra=_REQUEST,
)
async def upload_images(resources: AppResources, user: CurrentUser, project_id: UUID, request: Request) -> Response:
    """Upload images to a project: any number of files, and zip archives of files, in one multipart request.

    The response has an entry for each file, and a broken file does not affect the others. 200: all files are in the
    project. 207: some were rejected. 4xx or 507: none was stored. If the connection breaks, the files before the
    break are stored. Send everything again then: files that are there already are reported as `existing` and not
    stored twice.

    The format is detected from the content, never from the name or type. Each page of a TIFF stack becomes an image.
    A file may have MAX_UPLOAD_MB (128 MB by default), also inside an archive; an archive may have 64 times as much
    and 10,000 files. The name of a form field does not matter, but each part needs a file name.
    """
    async with reading(resources.engine) as conn:
        await check_visible(conn, user.id, project_id)
    intake = Intake(resources, user, project_id)
    await asyncio.to_thread(intake.store.remove_abandoned)
    try:
        content_type = request.headers.get("content-type", "")
        await receive(request.stream(), content_type, intake.store, intake.limit_mb, intake.take)
    except ClientDisconnect:
        log.info("the client disconnected during an upload", project=str(project_id), files=len(intake.files))
        return Response(status_code=400)
    except SpherosegError as error:
        return _problem_response(error, intake.files)
    if not intake.files:
        return _problem_response(BadRequest("there is no file in the request"), [])
    counts = {status: sum(file.status == status for file in intake.files) for status in STATUSES}
    if counts["rejected"] == len(intake.files):
        return _problem_response(_summarize(intake.errors), intake.files)
    report = UploadReport(files=intake.files, **counts)
    return JSONResponse(report.model_dump(mode="json"), 207 if counts["rejected"] else 200)


def _summarize(errors: list[SpherosegError]) -> SpherosegError:
    """Return one error for a request whose files were all rejected."""
    first = errors[0]
    if len(errors) == 1:
        return first
    have_same_code = len({error.code for error in errors}) == 1
    error_type = type(first) if have_same_code else BadRequest
    return error_type(f"none of {len(errors)} files was stored; the first: {first}")


def _problem_response(error: SpherosegError, files: list[UploadedFile]) -> Response:
    title = error.code.replace("_", " ").capitalize()
    problem = UploadProblem(title=title, status=error.status, code=error.code, detail=str(error), files=files)
    headers = {"Retry-After": str(RETRY_SECONDS)} if error.status == 503 else None
    content = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, error.status, headers=headers, media_type=MEDIA_TYPE)
