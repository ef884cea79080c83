"""Batches: list them, read their progress and their tasks, cancel and retry them."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.api.schemas import BatchOut, BatchSummary, Changed, TaskOut, batch_fields, task_fields
from spheroseg.database import batches as stored
from spheroseg.database.engine import reading
from spheroseg.database.projects import check_visible
from spheroseg.database.queue_position import read_batch_position, read_positions, read_tasks_per_second
from spheroseg.database.task_details import list_tasks as list_stored_tasks
from spheroseg.queueing.submit import cancel, retry
from spheroseg.tasks import TaskState

router = APIRouter(prefix="/segmentation/batches", tags=["batches"])


async def read_progress(conn: AsyncConnection, batch: stored.Batch) -> BatchOut:
    """Return the batch with its progress and its position in the queue."""
    counts = (await stored.count_by_state(conn, [batch.id]))[batch.id]
    position = await read_batch_position(conn, batch.id, counts[TaskState.QUEUED])
    unfinished = counts[TaskState.QUEUED] + counts[TaskState.PROCESSING]
    tasks_per_second = await read_tasks_per_second(conn) if unfinished else None
    tasks_ahead = max(position.messages_to_last if position else 0, unfinished)
    return BatchOut(
        **batch_fields(batch, counts),
        ahead=position.first.ahead if position else None,
        ahead_is_capped=position.first.is_capped if position else False,
        expected_seconds=round(tasks_ahead / tasks_per_second, 1) if tasks_per_second else None,
    )


@router.get("")
async def list_batches(
    resources: AppResources,
    user: CurrentUser,
    project_id: Annotated[UUID | None, Query(description="Only of this project.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[BatchSummary]:
    """List the batches of your projects, the newest first."""
    before = read_cursor(cursor, UUID)
    async with reading(resources.engine) as conn:
        if project_id is not None:
            await check_visible(conn, user.id, project_id)
        rows = await stored.list_batches(conn, user.id, limit + 1, project_id=project_id, before=before)
        counts = await stored.count_by_state(conn, [row.id for row in rows[:limit]])
    items = [BatchSummary(**batch_fields(row, counts[row.id])) for row in rows[:limit]]
    return Page(items=items, next_cursor=write_cursor(rows, limit, lambda row: row.id))


@router.get("/{batch_id}")
async def read_batch(batch_id: UUID, resources: AppResources, user: CurrentUser) -> BatchOut:
    """Read a batch: its settings, its progress, its position in the queue, and when it is expected to finish."""
    async with reading(resources.engine) as conn:
        return await read_progress(conn, await stored.read_batch(conn, user.id, batch_id))


@router.get("/{batch_id}/tasks")
async def list_tasks(
    batch_id: UUID,
    resources: AppResources,
    user: CurrentUser,
    state: Annotated[TaskState | None, Query(description="Only in this state.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[TaskOut]:
    """List the tasks of a batch, in the order in which the request named the images."""
    after = read_cursor(cursor, UUID)
    async with reading(resources.engine) as conn:
        await stored.read_batch(conn, user.id, batch_id)
        rows = await list_stored_tasks(conn, batch_id, limit + 1, state=state, after=after)
        positions = await read_positions(conn, [row.id for row in rows[:limit] if row.state == TaskState.QUEUED])
    items = [TaskOut(**task_fields(row, positions.get(row.id))) for row in rows[:limit]]
    return Page(items=items, next_cursor=write_cursor(rows, limit, lambda row: row.id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: UUID, resources: AppResources, user: CurrentUser) -> Changed:
    """Cancel all unfinished tasks. Waiting ones are never begun, and workers stop running ones. Results are kept."""
    async with resources.engine.begin() as conn:
        await stored.read_batch(conn, user.id, batch_id)
        cancelled = await cancel(conn, await stored.read_unfinished(conn, batch_id))
    return Changed(count=len(cancelled), task_ids=cancelled)


@router.post("/{batch_id}/retry")
async def retry_batch(batch_id: UUID, resources: AppResources, user: CurrentUser) -> Changed:
    """Give every failed task a fresh set of tries. Completed and cancelled tasks do not change."""
    async with resources.engine.begin() as conn:
        await stored.read_batch(conn, user.id, batch_id)
        retried = await retry(conn, await stored.read_failed(conn, batch_id))
    return Changed(count=len(retried), task_ids=retried)
