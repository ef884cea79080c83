"""What people ask of tasks: submit, cancel, retry. Each joins the caller's transaction.

A task and its message are written together, so that there is never a task without a message or a message without
a task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.engine import DatabaseTime, chunks, message_queue_columns
from spheroseg.database.projects import NewImage, ensure_images, insert_new, read_tier
from spheroseg.database.schema import segmentation_batches, segmentation_tasks
from spheroseg.database.tasks import add_failure, name_messages, read_leased, read_message_facts, transition_all
from spheroseg.messages import CANCELLED_KEY, Message, TaskNew
from spheroseg.tasks import Cause, TaskState

PRIORITIES: Mapping[str, int] = {"regular": 1, "premium": 10}
SUBMIT_CHUNK = 1000


@dataclass(frozen=True)
class Submitted:
    """`task_ids` in the order of the images; `is_new` is False where the key was known already."""

    batch_id: UUID
    task_ids: list[UUID]
    is_new: bool


async def submit(
    conn: AsyncConnection,
    *,
    user_id: UUID,
    project_id: UUID,
    images: Sequence[NewImage],
    image_ids: Sequence[UUID] | None = None,
    model: str,
    model_sha256: str | None = None,
    parameters: Mapping[str, Any],
    pixel_size_um: float | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """Write a batch, a task for each image, and the tasks' messages.

    image_ids: of `images`, where the project has them already; otherwise they are added to it.

    The same user's same key gives the same batch, whatever else is in the call. An image with a `problem` gets a
    failed task that says so; the others are not concerned.
    """
    batch_id = uuid.uuid7()
    key = idempotency_key or str(batch_id)
    batch = {
        "id": batch_id,
        "user_id": user_id,
        "project_id": project_id,
        "idempotency_key": key,
        "priority": PRIORITIES[await read_tier(conn, user_id)],
        "model": model,
        "model_sha256": model_sha256,
        "parameters": dict(parameters),
        "pixel_size_um": pixel_size_um,
        "created_at": DatabaseTime(),
    }
    inserted = await conn.execute(insert_new(conn, segmentation_batches).values(batch))
    if not inserted.rowcount:
        return await _existing(conn, user_id, key)
    if not images:
        return Submitted(batch_id, [], is_new=True)
    if image_ids is None:
        image_ids = await ensure_images(conn, project_id, images)
    now = (await conn.execute(select(DatabaseTime()))).scalar_one()
    task_ids: list[UUID] = []
    # Piece by piece, so that a process with other things to do is never busy for long.
    for chunk in chunks(list(zip(images, image_ids, strict=True)), SUBMIT_CHUNK):
        task_ids += await _add_tasks(conn, batch, chunk, now)
    return Submitted(batch_id, task_ids, is_new=True)


async def _add_tasks(
    conn: AsyncConnection, batch: Mapping[str, Any], chunk: Sequence[tuple[NewImage, UUID]], now: datetime
) -> list[UUID]:
    task_ids = [uuid.uuid7() for _ in chunk]
    await conn.execute(
        insert(segmentation_tasks),
        [
            {
                "id": task_id,
                "batch_id": batch["id"],
                "image_id": image_id,
                "state": TaskState.FAILED if image.problem else TaskState.QUEUED,
                # An input that cannot even be read was never attempted.
                "attempt": 0 if image.problem else 1,
                "first_attempt": 0 if image.problem else 1,
                "reason": image.problem[0] if image.problem else None,
                "error": image.problem[1] if image.problem else None,
                "created_at": now,
                "finished_at": now if image.problem else None,
                **message_queue_columns(conn, message_queue_id=None if image.problem else f"{task_id}:1:task.new"),
            }
            for (image, image_id), task_id in zip(chunk, task_ids, strict=True)
        ],
    )
    messages = []
    for (image, _), task_id in zip(chunk, task_ids, strict=True):
        if image.problem:
            await add_failure(conn, task_id, 0, Cause.FAILED, *image.problem)
        else:
            new = TaskNew(
                task_id=task_id,
                attempt=1,
                image_key=image.storage_key,
                image_sha256=image.sha256,
                page=image.page,
                model=batch["model"],
                model_sha256=batch["model_sha256"],
                parameters=batch["parameters"],
                pixel_size_um=batch["pixel_size_um"],
            )
            messages.append(new.message(priority=batch["priority"], user_id=batch["user_id"]))
    await queue.enqueue(conn, messages)
    return task_ids


async def _existing(conn: AsyncConnection, user_id: UUID, key: str) -> Submitted:
    b, t = segmentation_batches, segmentation_tasks
    found = select(b.c.id).where(b.c.user_id == user_id, b.c.idempotency_key == key)
    batch_id = (await conn.execute(found)).scalar_one()
    # Ids of version 7 made one after the other are in order.
    task_ids = await conn.execute(select(t.c.id).where(t.c.batch_id == batch_id).order_by(t.c.id))
    return Submitted(batch_id, list(task_ids.scalars()), is_new=False)


async def cancel(conn: AsyncConnection, task_ids: Sequence[UUID]) -> list[UUID]:
    """Cancel what is not finished; the ids of what was cancelled.

    The messages are withdrawn: a waiting one is never seen, and the worker of a running one is told by its lease. Of
    what RabbitMQ has, or has given out, the relay tells the workers.
    """
    elsewhere = await read_leased(conn, task_ids)
    cancelled = await transition_all(conn, task_ids, Cause.CANCEL, TaskState.CANCELLED, finished_at=DatabaseTime())
    elsewhere |= await queue.withdraw_relayed(conn, cancelled)
    await queue.withdraw(conn, cancelled)
    await queue.enqueue(conn, [cancel_message(task_id) for task_id in cancelled if task_id in elsewhere])
    return cancelled


async def retry(conn: AsyncConnection, task_ids: Sequence[UUID]) -> list[UUID]:
    """Give failed tasks a fresh set of tries; the ids of what is queued again."""
    forgotten: dict[str, Any] = dict.fromkeys(["reason", "error", "worker", "started_at", "finished_at"])
    again = await transition_all(conn, task_ids, Cause.RETRY, TaskState.QUEUED, **forgotten)
    for chunk in chunks(again, SUBMIT_CHUNK):
        messages = [task_message(row) for row in await read_message_facts(conn, chunk)]
        await name_messages(conn, {message.task_id: message.id for message in messages if message.task_id})
        await queue.enqueue(conn, messages)
    return again


def cancel_message(task_id: UUID) -> Message:
    return Message(id=f"{task_id}:cancelled", routing_key=CANCELLED_KEY, body=str(task_id).encode())


def task_message(row: Row[Any], delay: float = 0.0) -> Message:
    """The message of a task's current attempt, from a row of `read_message_facts`; `delay` in seconds."""
    new = TaskNew(
        task_id=row.task_id,
        attempt=row.attempt,
        image_key=row.storage_key,
        image_sha256=row.sha256,
        page=row.page,
        model=row.model,
        model_sha256=row.model_sha256,
        parameters=row.parameters,
        pixel_size_um=row.pixel_size_um,
    )
    return new.message(priority=row.priority, delay=delay, user_id=row.user_id)
