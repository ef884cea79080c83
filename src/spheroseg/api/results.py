"""The results of a batch, as JSON and as a CSV table."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.paging import Cursor, read_cursor, write_cursor
from spheroseg.api.schemas import ResultPage, result_fields
from spheroseg.database.batches import count_by_state, read_batch
from spheroseg.database.engine import reading
from spheroseg.database.results import TaskResult, list_results
from spheroseg.export.csv_table import encode_csv_header, encode_csv_rows
from spheroseg.export.object_table import build_object_rows, list_object_columns
from spheroseg.segmentation.parameters import Parameters
from spheroseg.tasks import TaskState, batch_state

router = APIRouter(prefix="/segmentation/batches", tags=["batches"])

# Results contain outlines, so they are large.
ResultLimit = Annotated[int, Query(ge=1, le=200, description="Maximum number of results on a page.")]
FIRST_COLUMNS = ("image", "page", "image_id")
RESULTS_PER_QUERY = 200


@router.get("/{batch_id}/results", response_class=Response, responses={200: {"model": ResultPage}})
async def read_results(
    batch_id: UUID, resources: AppResources, user: CurrentUser, limit: ResultLimit = 50, cursor: Cursor = None
) -> Response:
    """Read the results so far: outlines, measurements and how they were made, in the order of the tasks."""
    after = read_cursor(cursor, UUID)
    async with reading(resources.engine) as conn:
        await read_batch(conn, user.id, batch_id)
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
            "description": "UTF-8, comma-separated, one row per object",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        }
    },
)
async def download_results(batch_id: UUID, resources: AppResources, user: CurrentUser) -> StreamingResponse:
    """Download the results so far as a table with one row per object. The columns are always the same.

    Images that failed or that show no object have no row. The header `Spheroseg-Batch-State` has the state of the
    batch and the number of completed tasks, for example `processing; 2/4`. Columns in µm are empty if the pixel size
    is unknown. A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    async with reading(resources.engine) as conn:
        await read_batch(conn, user.id, batch_id)
        counts = (await count_by_state(conn, [batch_id]))[batch_id]
    state = f"{batch_state(counts)}; {counts[TaskState.COMPLETED]}/{sum(counts.values())}"
    return StreamingResponse(
        _stream_csv(resources.engine, batch_id),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="results-{batch_id}.csv"',
            "Spheroseg-Batch-State": state,
        },
    )


async def _stream_csv(engine: AsyncEngine, batch_id: UUID) -> AsyncIterator[bytes]:
    columns = list_object_columns(FIRST_COLUMNS, [field.name for field in fields(Parameters)])
    yield encode_csv_header(columns)
    after: UUID | None = None
    while True:
        # A connection for each query, so that a slow client does not hold one.
        async with reading(engine) as conn:
            results = await list_results(conn, batch_id, RESULTS_PER_QUERY, after)
        if not results:
            return
        after = results[-1].task_id
        yield await run_in_threadpool(_encode_results, results, columns)


def _encode_results(results: Sequence[TaskResult], columns: Sequence[str]) -> bytes:
    rows: list[dict[str, Any]] = []
    for result in results:
        # People count the pages of a file from 1.
        image = {"image": result.image, "page": result.page + 1, "image_id": result.image_id}
        rows += build_object_rows(image, result.result)
    return encode_csv_rows(rows, columns)
