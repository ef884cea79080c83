"""For administrators: attempts that failed, and dead letters, which a person retries or discards."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import AppResources, CurrentAdmin
from spheroseg.api.fields import LongName, RowId, ShortName, parse_row_id
from spheroseg.api.paging import Page, read_cursor, write_cursor
from spheroseg.api.schemas import AttemptOut
from spheroseg.database.accounts import User
from spheroseg.database.dead_letters import FailureFilter, FailureRecord, list_dead_letters, list_failures
from spheroseg.database.engine import reading
from spheroseg.database.failures import check_failures_kept
from spheroseg.queueing.dead_letters import DISCARD, RETRY, DeadLetterAction, change_dead_letters
from spheroseg.resources import Resources

router = APIRouter(prefix="/admin", tags=["admin"])

MAX_BODY_BYTES = 2000

ListFailures = Callable[[AsyncConnection, FailureFilter, int, int | None], Awaitable[list[FailureRecord]]]


class FailureOut(AttemptOut):
    """An attempt that did not finish, or an unreadable message, which comes with its body, shortened.

    next_attempt: null if the task failed for good. settled_at: when somebody retried or discarded it.
    """

    id: int
    task_id: UUID | None
    image: str | None
    page: int | None = Field(description="Page of the file, counted from 0.")
    state: str | None = Field(description="Current state of the task.")
    settled_at: datetime | None
    body: str | None


def _to_failure_out(row: FailureRecord) -> FailureOut:
    body = None if row.body is None else bytes(row.body)[:MAX_BODY_BYTES].decode(errors="replace")
    return FailureOut(**{**row._asdict(), "body": body})


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


class FilterIn(BaseModel):
    """Fields that are absent match everything. image: a part of the image's name."""

    model_config = ConfigDict(extra="forbid")

    task_id: UUID | None = None
    reason: ShortName | None = None
    worker: ShortName | None = None
    image: LongName | None = None
    since: Annotated[AwareDatetime, AfterValidator(_to_utc)] | None = Field(
        None, description="Failed at this time or later: ISO 8601 with a time zone."
    )

    def as_filter(self, ids: tuple[int, ...] | None = None) -> FailureFilter:
        return FailureFilter(
            ids=ids,
            task_id=self.task_id,
            reason=self.reason,
            worker=self.worker,
            image=self.image,
            since=self.since,
        )


class PagedFilter(FilterIn):
    limit: Annotated[int, Field(ge=1, le=1000, description="Maximum number of rows on a page.")] = 100
    cursor: Annotated[str | None, Field(max_length=200, description="`next_cursor` of the previous page.")] = None


class LettersIn(BaseModel):
    """Selects dead letters by ids, by filter, or all of them. Exactly one of the three must be given."""

    model_config = ConfigDict(extra="forbid")

    ids: list[RowId] | None = Field(None, min_length=1, max_length=10_000)
    filter: FilterIn | None = None
    all: bool = False
    dry_run: bool = Field(False, description="True: change nothing, only report what would be changed.")

    @model_validator(mode="after")
    def _check_one_selection(self) -> "LettersIn":
        has_filter = self.filter is not None and self.filter != FilterIn()
        if [self.ids is not None, has_filter, self.all].count(True) != 1:
            raise ValueError('select by ids, by a filter that is not empty, or by "all": true; exactly one of these')
        return self

    def as_filter(self) -> FailureFilter:
        return (self.filter or FilterIn()).as_filter(tuple(self.ids) if self.ids is not None else None)


class LettersOut(BaseModel):
    """count: the number of changed dead letters; in a dry run, of selected ones. ids: the first thousand selected."""

    count: int
    ids: list[int]
    dry_run: bool


async def _list_page(resources: Resources, wanted: PagedFilter, list_rows: ListFailures) -> Page[FailureOut]:
    before = read_cursor(wanted.cursor, parse_row_id)
    async with reading(resources.engine) as conn:
        check_failures_kept(conn)
        rows = await list_rows(conn, wanted.as_filter(), wanted.limit + 1, before)
    items = [_to_failure_out(row) for row in rows[: wanted.limit]]
    return Page(items=items, next_cursor=write_cursor(rows, wanted.limit, lambda row: row.id))


@router.get("/dead-letters")
async def list_letters(
    resources: AppResources, admin: CurrentAdmin, wanted: Annotated[PagedFilter, Query()]
) -> Page[FailureOut]:
    """List failures of tasks that failed for good, and unreadable messages, the newest first.

    They stay in this list until somebody retries or discards them.
    """
    return await _list_page(resources, wanted, list_dead_letters)


@router.post("/dead-letters/retry")
async def retry_letters(wanted: LettersIn, resources: AppResources, admin: CurrentAdmin) -> LettersOut:
    """Queue the tasks again with a fresh set of tries. An unreadable message returns to its queue unchanged."""
    return await _change(wanted, resources, admin, RETRY)


@router.post("/dead-letters/discard")
async def discard_letters(wanted: LettersIn, resources: AppResources, admin: CurrentAdmin) -> LettersOut:
    """Remove dead letters from the list. Their tasks stay failed, and the failures stay on record."""
    return await _change(wanted, resources, admin, DISCARD)


async def _change(wanted: LettersIn, resources: Resources, admin: User, action: DeadLetterAction) -> LettersOut:
    async with reading(resources.engine) if wanted.dry_run else resources.engine.begin() as conn:
        check_failures_kept(conn)
        changed = await change_dead_letters(
            conn, action, wanted.as_filter(), admin.name, is_all=wanted.all, is_dry_run=wanted.dry_run
        )
    return LettersOut(count=changed.count, ids=changed.ids, dry_run=wanted.dry_run)


@router.get("/failures")
async def list_all_failures(
    resources: AppResources, admin: CurrentAdmin, wanted: Annotated[PagedFilter, Query()]
) -> Page[FailureOut]:
    """List every attempt that did not finish, also those that were retried since, the newest first."""
    return await _list_page(resources, wanted, list_failures)
