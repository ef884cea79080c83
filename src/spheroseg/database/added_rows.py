"""Rows that are added to a table while a process watches it, each returned once.

An id is assigned before its transaction commits, so a row with a lower id may appear after a row with a higher one.
Skipped ids are therefore queried again until they are so old that no transaction can still be open.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import chunks
from spheroseg.database.schema import segmentation_failures as f
from spheroseg.database.schema import segmentation_results as r
from spheroseg.database.schema import segmentation_tasks as t

CHUNK_ROWS = 5000
# Longer than any transaction of collect.
MAX_GAP_SECONDS = 300.0
MAX_GAPS = 10_000

RowType = TypeVar("RowType")


class AddedRows(Generic[RowType]):
    """The rows added to a table since the first call of `read_new`."""

    def __init__(self, id_column: ColumnElement[int], query: Select[Any], row_type: Callable[..., RowType]) -> None:
        """query: selects the columns of `row_type` in their order; one of them is `id`."""
        self._id = id_column
        self._query = query
        self._row_type = row_type
        self._newest_id: int | None = None
        # Each skipped id, with the time at which it was first missed.
        self._gaps: dict[int, float] = {}

    def reset(self) -> None:
        """Forget the table, because it was dropped. A new table of that name is followed from its next row on."""
        self._newest_id = None
        self._gaps.clear()

    async def read_new(self, conn: AsyncConnection) -> AsyncIterator[list[RowType]]:
        """Yield the rows added since the last call, in chunks. A chunk that was yielded is never yielded again."""
        newest_id = (await conn.execute(select(func.max(self._id)))).scalar_one() or 0
        if self._newest_id is None or newest_id < self._newest_id:
            self._newest_id = newest_id
            self._gaps.clear()
            return
        for ids in chunks(list(self._gaps), CHUNK_ROWS):
            rows = (await conn.execute(self._query.where(self._id.in_(ids)))).all()
            for row in rows:
                del self._gaps[row.id]
            yield [self._row_type(*row) for row in rows]
        while rows := (
            await conn.execute(self._query.where(self._id > self._newest_id).order_by(self._id).limit(CHUNK_ROWS))
        ).all():
            self._record_gaps([row.id for row in rows])
            yield [self._row_type(*row) for row in rows]

    def _record_gaps(self, ids: Sequence[int]) -> None:
        assert self._newest_id is not None
        now = time.monotonic()
        for id_ in ids:
            self._gaps.update(dict.fromkeys(range(max(self._newest_id + 1, id_ - MAX_GAPS), id_), now))
            self._newest_id = id_
        kept = [(gap, since) for gap, since in self._gaps.items() if now - since < MAX_GAP_SECONDS]
        self._gaps = dict(kept[-MAX_GAPS:])


class AddedResult(NamedTuple):
    """A row of `segmentation_results` with the times of its task. superseded: it came late and changed nothing."""

    id: int
    superseded: bool
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


def added_results() -> AddedRows[AddedResult]:
    query = select(r.c.id, r.c.superseded, t.c.created_at, t.c.started_at, t.c.finished_at)
    return AddedRows(r.c.id, query.outerjoin(t, t.c.id == r.c.task_id), AddedResult)


class AddedFailure(NamedTuple):
    """A row of `segmentation_failures`.

    task_id: None for an unreadable message. next_attempt: None if the task failed for good.
    """

    id: int
    task_id: UUID | None
    reason: str
    next_attempt: int | None
    superseded: bool


def added_failures() -> AddedRows[AddedFailure]:
    """Needs revision 010."""
    query = select(f.c.id, f.c.task_id, f.c.reason, f.c.next_attempt, f.c.superseded)
    return AddedRows(f.c.id, query, AddedFailure)
