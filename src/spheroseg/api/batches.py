"""Batches: ask for images to be segmented, see how far they are, take the results."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.fields import ShortName
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.api.schemas import (
    BatchOut,
    BatchSummary,
    Changed,
    ResultPage,
    TaskOut,
    batch_summary,
    result_fields,
    task_fields,
)
from spheroseg.database import batches as stored
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible, read_images
from spheroseg.database.queue_position import read_batch_position, read_positions, read_tasks_per_second
from spheroseg.database.results import TaskResult, list_results
from spheroseg.database.task_details import list_tasks as list_stored_tasks
from spheroseg.database.webhooks import add_webhook
from spheroseg.errors import BadRequest, Conflict
from spheroseg.export.csv_table import encode_csv_header, encode_csv_rows
from spheroseg.export.object_table import build_object_rows, list_object_columns
from spheroseg.queueing.submit import cancel, retry, submit
from spheroseg.queueing.webhook_urls import MAX_URL_LENGTH, check_webhook_url
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import Parameters, with_defaults
from spheroseg.tasks import TaskState, batch_state

router = APIRouter(prefix="/segmentation/batches", tags=["batches"])

# Of outlines, which are long.
ResultLimit = Annotated[int, Query(ge=1, le=200, description="Results on a page, at most.")]
LEADING = ("image", "page", "image_id")
CSV_ROUND = 200


class ParametersIn(BaseModel):
    """What is looked for.

    threshold: probability at the outline, between 0 and 1. min_area_px, min_area_um2: least area, and the larger one
    holds; null: by image size. min_area_um2 needs a known pixel size. objects: all of them, only the largest, or the
    one nearest to the middle. edge: whether what touches the edge of the picture is kept. separate: whether touching
    objects are told apart, where the model can.
    """

    # A parameter that is misspelt must not look as if it had been used.
    model_config = ConfigDict(extra="forbid")

    threshold: float = Parameters.threshold
    min_area_px: float | None = Parameters.min_area_px
    min_area_um2: float | None = Parameters.min_area_um2
    objects: Literal["all", "largest", "most_central"] = "all"
    edge: Literal["keep", "discard"] = "keep"
    separate: bool = Parameters.separate


class BatchIn(BaseModel):
    """What to segment, and how."""

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    image_ids: list[UUID] | None = Field(
        None, min_length=1, description="Any number of images of the project; absent: all of them."
    )
    model: ShortName | None = Field(None, description="Absent: the backend's own choice.")
    parameters: ParametersIn = ParametersIn()
    pixel_size_um: float | None = Field(
        None,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="µm per pixel, for all images; absent: what each file says.",
    )
    webhook_url: str | None = Field(
        None, max_length=MAX_URL_LENGTH, description="http or https; called once when the batch has finished."
    )


def _is_key(value: str) -> str:
    if not value.strip() or "\x00" in value:
        raise ValueError("must not be empty")
    return value


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="Of your own making: the same key again gives the same batch, and makes no second one.",
    ),
    AfterValidator(lambda value: value if value is None else _is_key(value)),
]

_LOCATION = {"Location": {"description": "Address of the batch.", "schema": {"type": "string"}}}
_REPLAYED = {"Idempotent-Replayed": {"description": "true", "schema": {"type": "string"}}}


@router.post(
    "",
    status_code=202,
    response_model=BatchOut,
    response_description="Accepted: everything is stored, and the client may go away",
    responses={
        202: {"headers": _LOCATION},
        200: {
            "model": BatchOut,
            "description": "This key was used before: the batch that it made",
            "headers": {**_LOCATION, **_REPLAYED},
        },
    },
)
async def submit_batch(
    wanted: BatchIn,
    resources: AppResources,
    user: CurrentUser,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> BatchOut:
    """Have images of a project segmented: those named, or all of them.

    Answers as soon as the batch is stored; nothing of it can be lost any more. Its priority comes from your tier. To
    be able to repeat the request after a lost answer, send an `Idempotency-Key`.
    """
    name = wanted.model or resources.settings.model or DEFAULT_MODEL
    # Off the event loop: folders are read and networks hashed.
    model = await asyncio.to_thread(find_model, name, resources.settings.model_folders)
    parameters = Parameters(**wanted.parameters.model_dump())
    if wanted.webhook_url is not None:
        check_webhook_url(wanted.webhook_url, resources.settings.allows_private_webhooks)
    async with resources.engine.begin() as conn:
        await check_visible(conn, user.id, wanted.project_id)
        known = await stored.find_batch(conn, user.id, idempotency_key) if idempotency_key else None
        if known is None:
            images = await read_images(conn, wanted.project_id, wanted.image_ids)
            if not images:
                raise BadRequest("the project has no images yet: upload some, then submit again")
            submitted = await submit(
                conn,
                user_id=user.id,
                project_id=wanted.project_id,
                images=list(images.values()),
                image_ids=list(images),
                model=model.name,
                model_sha256=model.sha256,
                parameters=asdict(parameters),
                pixel_size_um=wanted.pixel_size_um,
                idempotency_key=idempotency_key,
            )
            batch_id, is_new = submitted.batch_id, submitted.is_new
            if is_new and wanted.webhook_url is not None:
                await add_webhook(conn, batch_id, wanted.webhook_url)
        else:
            batch_id, is_new = known, False
        row = await stored.read_batch(conn, user.id, batch_id)
        if row.project_id != wanted.project_id:
            raise Conflict("this Idempotency-Key has made a batch in another project: use another key")
        if not is_new:
            await _check_same(conn, row, wanted, model.name, asdict(parameters))
        batch = await _with_place(conn, row)
    response.headers["Location"] = f"/api/segmentation/batches/{batch_id}"
    if not is_new:
        response.status_code = 200
        response.headers["Idempotent-Replayed"] = "true"
    return batch


async def _check_same(
    conn: AsyncConnection, row: stored.Batch, wanted: BatchIn, model: str, parameters: dict[str, Any]
) -> None:
    """Raises Conflict where the batch of the key was asked for with something else: its results would mislead."""
    stored_parameters = with_defaults(row.parameters)
    same = (row.model, stored_parameters, row.pixel_size_um) == (model, parameters, wanted.pixel_size_um)
    if same and wanted.image_ids is not None:
        same = set(wanted.image_ids) == await stored.read_image_ids(conn, row.id)
    if not same:
        raise Conflict(
            "this Idempotency-Key has made a batch with another model, parameters, pixel size or images: "
            "use another key for another batch"
        )


async def _with_place(conn: AsyncConnection, row: stored.Batch) -> BatchOut:
    counts = (await stored.count_by_state(conn, [row.id]))[row.id]
    found = await read_batch_position(conn, row.id, counts[TaskState.QUEUED])
    unfinished = counts[TaskState.QUEUED] + counts[TaskState.PROCESSING]
    pace = await read_tasks_per_second(conn) if unfinished else None
    return BatchOut(
        **batch_summary(row, counts),
        ahead=found.first.ahead if found else None,
        ahead_is_capped=found.first.is_capped if found else False,
        expected_seconds=round(max(found.messages_to_last if found else 0, unfinished) / pace, 1) if pace else None,
    )


@router.get("")
async def list_batches(
    resources: AppResources,
    user: CurrentUser,
    project_id: Annotated[UUID | None, Query(description="Only of this project.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[BatchSummary]:
    """Batches of your projects, the newest first."""
    before = read_cursor(cursor, UUID)
    async with reading(resources.engine) as conn:
        if project_id is not None:
            await check_visible(conn, user.id, project_id)
        rows = await stored.list_batches(conn, user.id, limit + 1, project_id=project_id, before=before)
        counts = await stored.count_by_state(conn, [row.id for row in rows[:limit]])
    items = [BatchSummary(**batch_summary(row, counts[row.id])) for row in rows[:limit]]
    return Page(items=items, next_cursor=write_cursor(rows, limit, lambda row: row.id))


@router.get("/{batch_id}")
async def read_batch(batch_id: UUID, resources: AppResources, user: CurrentUser) -> BatchOut:
    """How far a batch is, its place in line, when it can be expected, and what it was asked to do."""
    async with reading(resources.engine) as conn:
        return await _with_place(conn, await stored.read_batch(conn, user.id, batch_id))


@router.get("/{batch_id}/tasks")
async def list_tasks(
    batch_id: UUID,
    resources: AppResources,
    user: CurrentUser,
    state: Annotated[TaskState | None, Query(description="Only in this state.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[TaskOut]:
    """The tasks of a batch, in the order in which the images were named."""
    after = read_cursor(cursor, UUID)
    async with reading(resources.engine) as conn:
        await stored.read_batch(conn, user.id, batch_id)
        rows = await list_stored_tasks(conn, batch_id, limit + 1, state=state, after=after)
        places = await read_positions(conn, [row.id for row in rows[:limit] if row.state == TaskState.QUEUED])
    items = [TaskOut(**task_fields(row, places.get(row.id))) for row in rows[:limit]]
    return Page(items=items, next_cursor=write_cursor(rows, limit, lambda row: row.id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: UUID, resources: AppResources, user: CurrentUser) -> Changed:
    """Cancel what is not finished: waiting tasks are never begun, workers stop at running ones. Results are kept."""
    async with resources.engine.begin() as conn:
        await stored.read_batch(conn, user.id, batch_id)
        cancelled = await cancel(conn, await stored.read_unfinished(conn, batch_id))
    return Changed(count=len(cancelled), task_ids=cancelled)


@router.post("/{batch_id}/retry")
async def retry_batch(batch_id: UUID, resources: AppResources, user: CurrentUser) -> Changed:
    """Give every failed task of the batch a fresh set of tries. What completed or was cancelled stays as it is."""
    async with resources.engine.begin() as conn:
        await stored.read_batch(conn, user.id, batch_id)
        again = await retry(conn, await stored.read_failed(conn, batch_id))
    return Changed(count=len(again), task_ids=again)


@router.get("/{batch_id}/results", response_class=Response, responses={200: {"model": ResultPage}})
async def read_results(
    batch_id: UUID, resources: AppResources, user: CurrentUser, limit: ResultLimit = 50, cursor: Cursor = None
) -> Response:
    """What is completed so far: outlines, measurements, and how they came about; in the order of the tasks."""
    after = read_cursor(cursor, UUID)
    async with reading(resources.engine) as conn:
        await stored.read_batch(conn, user.id, batch_id)
        rows = await list_results(conn, batch_id, limit + 1, after)
    next_cursor = write_cursor(rows, limit, lambda row: row.task_id)

    def encode() -> bytes:
        return json.dumps(
            {"items": [result_fields(row) for row in rows[:limit]], "next_cursor": next_cursor}
        ).encode()

    return Response(await run_in_threadpool(encode), media_type="application/json")


@router.get(
    "/{batch_id}/results.csv",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "UTF-8, comma-separated, a row an object",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        }
    },
)
async def download_results(batch_id: UUID, resources: AppResources, user: CurrentUser) -> StreamingResponse:
    """What is completed so far, as a table with a row for each object; the columns are always the same.

    Images that failed, or in which nothing was found, have no row; the header `Spheroseg-Batch-State` tells the state
    of the batch and how many of its tasks are completed, as `processing; 2/4`. Columns in µm are empty where the
    pixel size is not known. Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    async with reading(resources.engine) as conn:
        await stored.read_batch(conn, user.id, batch_id)
        counts = (await stored.count_by_state(conn, [batch_id]))[batch_id]
    done = f"{batch_state(counts)}; {counts[TaskState.COMPLETED]}/{sum(counts.values())}"
    return StreamingResponse(
        _csv(resources.engine, batch_id),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="results-{batch_id}.csv"',
            "Spheroseg-Batch-State": done,
        },
    )


async def _csv(engine: AsyncEngine, batch_id: UUID) -> AsyncIterator[bytes]:
    columns = list_object_columns(LEADING, [field.name for field in fields(Parameters)])
    yield encode_csv_header(columns)
    after: UUID | None = None
    while True:
        # A connection for each round: a slow reader must not keep one.
        async with reading(engine) as conn:
            rows = await list_results(conn, batch_id, CSV_ROUND, after)
        if not rows:
            return
        after = rows[-1].task_id
        yield await run_in_threadpool(_csv_rows, rows, columns)


def _csv_rows(rows: Sequence[TaskResult], columns: list[str]) -> bytes:
    found: list[dict[str, Any]] = []
    for row in rows:
        found += build_object_rows({"image": row.image, "page": row.page + 1, "image_id": row.image_id}, row.result)
    return encode_csv_rows(found, columns)
