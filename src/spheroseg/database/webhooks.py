"""`webhooks`: which URL is called when a batch has finished, and the outcome of the calls."""

from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import exists, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.database.schema import webhooks as w
from spheroseg.tasks import UNFINISHED


class DueWebhook(NamedTuple):
    """A webhook that was claimed to be called. attempts: how often it was called, this call included."""

    id: int
    batch_id: UUID
    user_id: UUID
    project_id: UUID
    url: str
    attempts: int


async def add_webhook(conn: AsyncConnection, batch_id: UUID, url: str) -> None:
    """Have `url` called once when the batch has finished."""
    await conn.execute(
        insert(w).values(batch_id=batch_id, url=url, state="waiting", attempts=0, next_attempt_at=DatabaseTime())
    )


async def claim_due_webhooks(conn: AsyncConnection, limit: int, claim_seconds: float) -> list[DueWebhook]:
    """Claim up to `limit` webhooks of finished batches that are due now.

    If the caller dies, another may claim them after `claim_seconds`. Webhooks that another is claiming are skipped.
    """
    unfinished = exists().where(
        t.c.batch_id == w.c.batch_id,
        # Literal, so that SQLite uses the partial index of unfinished tasks.
        t.c.state.in_([literal_column(f"'{state}'") for state in sorted(UNFINISHED)]),
    )
    due = (
        select(w.c.id)
        .where(w.c.state == "waiting", w.c.next_attempt_at <= DatabaseTime(), ~unfinished)
        .order_by(w.c.next_attempt_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    claimed = await conn.execute(
        update(w)
        .where(w.c.id.in_(select(due.c.id)))
        .values(attempts=w.c.attempts + 1, next_attempt_at=DatabaseTime(claim_seconds))
        .returning(w.c.id)
    )
    ids = list(claimed.scalars())
    if not ids:
        return []
    query = (
        select(w.c.id, w.c.batch_id, b.c.user_id, b.c.project_id, w.c.url, w.c.attempts)
        .join(b, b.c.id == w.c.batch_id)
        .where(w.c.id.in_(ids))
    )
    return [DueWebhook(*row) for row in await conn.execute(query)]


async def release_webhook(conn: AsyncConnection, webhook: DueWebhook) -> None:
    """Undo the claim of a webhook that was not called after all."""
    await conn.execute(
        update(w)
        .where(w.c.id == webhook.id, w.c.attempts == webhook.attempts)
        .values(attempts=webhook.attempts - 1, next_attempt_at=DatabaseTime())
    )


async def record_call(
    conn: AsyncConnection, webhook: DueWebhook, status: int | None, error: str | None, retry_after: float | None
) -> None:
    """Record a call and its HTTP status: delivered if `error` is None, otherwise waiting or failed.

    retry_after: seconds until the next call. None: there is no next one.
    """
    values: dict[str, Any] = {"status": status, "error": error}
    if error is None:
        values |= {"state": "delivered", "delivered_at": DatabaseTime()}
    elif retry_after is None:
        values |= {"state": "failed"}
    else:
        values |= {"next_attempt_at": DatabaseTime(retry_after)}
    # Only if nobody has claimed it since, as after a long pause of this process.
    is_ours = (w.c.id == webhook.id, w.c.state == "waiting", w.c.attempts == webhook.attempts)
    await conn.execute(update(w).where(*is_ours).values(**values))
