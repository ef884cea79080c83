"""Submits, cancels and retries tasks for a person. Each function joins the caller's transaction.

A task and its message are written in one transaction, so that no task exists without its message, and no message
without its task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.engine import DatabaseTime, chunks, read_database_time
from spheroseg.database.failures import NewFailure, add_failure
from spheroseg.database.projects import NewImage, ensure_images, read_tier
from spheroseg.database.relayed import withdraw_relayed
from spheroseg.database.submissions import NewBatch, NewTask, add_batch, add_tasks, read_stored_batch
from spheroseg.database.tasks import (
    MessageFacts,
    lock_and_find_leased,
    read_message_facts,
    record_message_ids,
    transition_all,
)
from spheroseg.queueing.task_messages import cancel_message, task_message
from spheroseg.tasks import Cause, TaskState

PRIORITIES: Mapping[str, int] = {"regular": 1, "premium": 10}
# Tasks written at once. Between two chunks the process can do other work.
CHUNK_TASKS = 1000


@dataclass(frozen=True)
class Submitted:
    """`task_ids` in the order of the images. `is_new` is False if the idempotency key was used before."""

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

    image_ids: the ids of `images` if the project has them already. Otherwise they are added to it.
    pixel_size_um: µm per pixel for all images, or None to read it from each file.

    The same key from the same user gives the same batch, whatever else is in the call. An image with a `problem` gets
    a failed task that says so; the other images are not affected.
    """
    batch_id = uuid.uuid7()
    key = idempotency_key or str(batch_id)
    batch = NewBatch(
        id=batch_id,
        user_id=user_id,
        project_id=project_id,
        idempotency_key=key,
        priority=PRIORITIES[await read_tier(conn, user_id)],
        model=model,
        model_sha256=model_sha256,
        parameters=parameters,
        pixel_size_um=pixel_size_um,
    )
    if not await add_batch(conn, batch):
        stored = await read_stored_batch(conn, user_id, key)
        return Submitted(stored.id, stored.task_ids, is_new=False)
    if not images:
        return Submitted(batch_id, [], is_new=True)
    if image_ids is None:
        image_ids = await ensure_images(conn, project_id, images)
    now = await read_database_time(conn)
    task_ids: list[UUID] = []
    for chunk in chunks(list(zip(images, image_ids, strict=True)), CHUNK_TASKS):
        task_ids += await _submit_images(conn, batch, chunk, now)
    return Submitted(batch_id, task_ids, is_new=True)


async def _submit_images(
    conn: AsyncConnection, batch: NewBatch, images: Sequence[tuple[NewImage, UUID]], now: datetime
) -> list[UUID]:
    """Write a task for each image, and its message or its failure. Return the ids of the tasks."""
    tasks = [NewTask(uuid.uuid7(), image_id, image.problem) for image, image_id in images]
    await add_tasks(conn, batch.id, tasks, now)
    messages = []
    for (image, _), task in zip(images, tasks, strict=True):
        if task.problem:
            await add_failure(conn, NewFailure(task.id, 0, Cause.FAILED, *task.problem))
        else:
            messages.append(task_message(_first_message_facts(batch, task, image)))
    await queue.enqueue(conn, messages)
    return [task.id for task in tasks]


def _first_message_facts(batch: NewBatch, task: NewTask, image: NewImage) -> MessageFacts:
    return MessageFacts(
        task_id=task.id,
        attempt=1,
        image_key=image.storage_key,
        image_sha256=image.sha256,
        page=image.page,
        user_id=batch.user_id,
        priority=batch.priority,
        model=batch.model,
        model_sha256=batch.model_sha256,
        parameters=batch.parameters,
        pixel_size_um=batch.pixel_size_um,
    )


async def cancel(conn: AsyncConnection, task_ids: Sequence[UUID]) -> list[UUID]:
    """Cancel the tasks that are not finished. Return the ids of the cancelled tasks.

    Their messages are withdrawn: no worker sees a waiting one, and the worker of a running one loses its lease. If
    RabbitMQ has a message or has delivered it, the relay sends a cancel to the workers.
    """
    at_rabbitmq = await lock_and_find_leased(conn, task_ids)
    cancelled = await transition_all(conn, task_ids, Cause.CANCEL, TaskState.CANCELLED, finished_at=DatabaseTime())
    at_rabbitmq |= await withdraw_relayed(conn, cancelled)
    await queue.withdraw(conn, cancelled)
    await queue.enqueue(conn, [cancel_message(task_id) for task_id in cancelled if task_id in at_rabbitmq])
    return cancelled


async def retry(conn: AsyncConnection, task_ids: Sequence[UUID]) -> list[UUID]:
    """Give failed tasks a fresh set of tries. Return the ids of the tasks that are queued again."""
    cleared: dict[str, Any] = dict.fromkeys(["reason", "error", "worker", "started_at", "finished_at"])
    queued = await transition_all(conn, task_ids, Cause.RETRY, TaskState.QUEUED, **cleared)
    for chunk in chunks(queued, CHUNK_TASKS):
        messages = [task_message(facts) for facts in await read_message_facts(conn, chunk)]
        await record_message_ids(conn, {message.task_id: message.id for message in messages if message.task_id})
        await queue.enqueue(conn, messages)
    return queued
