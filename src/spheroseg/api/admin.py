"""For administrators: figures, dead letters, failures, the audit trail, the relay, the workers."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import TheAdmin, ThePlace
from spheroseg.api.fields import LongName, ShortName
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.api.schemas import AttemptOut
from spheroseg.database import audit, switches
from spheroseg.database.accounts import User
from spheroseg.database.engine import reading
from spheroseg.database.failures import (
    FailureFilter,
    FailureRecord,
    check_failures_kept,
    list_dead_letters,
    list_failures,
)
from spheroseg.database.figures import read_processes
from spheroseg.database.workers import WorkerRecord, read_workers
from spheroseg.monitoring.queue_metrics import queue_metrics
from spheroseg.queueing.dead_letters import discard_dead_letters, record_change, retry_dead_letters
from spheroseg.resources import Resources

router = APIRouter(prefix="/admin", tags=["admin"])

# What PostgreSQL can count to.
LARGEST_ID = 2**63 - 1
MOST_LETTERS = 1_000_000
BODY_BYTES = 2000

RowId = Annotated[int, Field(ge=1, le=LARGEST_ID)]


def _row_id(text: str) -> int:
    number = int(text)
    if not 0 < number <= LARGEST_ID:
        raise ValueError("no row has such an id")
    return number


def _in_range(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


class QueueMetrics(BaseModel):
    """The figures of the queue. Times are in seconds."""

    queue: dict[str, Any] = Field(
        description="status: connected, disconnected (with reason and since), or disabled where "
        "ENABLE_MESSAGE_QUEUE is false."
    )
    queues: dict[str, dict[str, Any]] = Field(
        description="RabbitMQ's queues: messages ready and unacked, consumers; published, delivered, acked, "
        "redelivered where the management API is known. Empty while RabbitMQ does not answer."
    )
    messages: dict[str, int] | None = Field(
        description="What the processes that run now have published and consumed since they started, their errors, "
        "and how many they are; a few seconds old. Null without RabbitMQ."
    )
    database_queue: dict[str, dict[str, Any]] = Field(
        description="The queues in the database: messages waiting, in_hand, at_rabbitmq, and oldest_seconds."
    )
    tasks: dict[str, int] = Field(description="Tasks by state.")
    failures: dict[str, int] = Field(description="Attempts that did not finish, by reason.")
    waiting_seconds: dict[str, float | None]
    processing_seconds: dict[str, float | None]


@router.get("/queue/metrics")
async def read_queue_metrics(place: ThePlace, admin: TheAdmin) -> QueueMetrics:
    """Status of the queue, messages by queue, published, consumed and error counts, tasks in the database."""
    return QueueMetrics(**await queue_metrics(place.engine, place.rabbit, place.management))


class FailureOut(AttemptOut):
    """An attempt that did not finish, or a message that nobody could read: then with its body, shortened.

    next_attempt: null where the task failed for good. settled_at: when somebody dealt with it.
    """

    id: int
    task_id: UUID | None
    image: str | None
    page: int | None = Field(description="Of the file, counted from 0.")
    state: str | None = Field(description="Of the task, now.")
    settled_at: datetime | None
    body: str | None


def _failure(row: FailureRecord) -> FailureOut:
    body = None if row.body is None else bytes(row.body)[:BODY_BYTES].decode(errors="replace")
    return FailureOut(**{**row._asdict(), "body": body})


class FilterIn(BaseModel):
    """What is absent does not matter. image: a part of its name."""

    model_config = ConfigDict(extra="forbid")

    task_id: UUID | None = None
    reason: ShortName | None = None
    worker: ShortName | None = None
    image: LongName | None = None
    since: Annotated[AwareDatetime, AfterValidator(_in_range)] | None = Field(
        None, description="ISO 8601 with a zone: failed from then on."
    )

    def chosen(self, ids: tuple[int, ...] | None = None) -> FailureFilter:
        return FailureFilter(ids=ids, **self.model_dump())


class PagedFilter(FilterIn):
    limit: Annotated[int, Field(ge=1, le=1000, description="Rows on a page, at most.")] = 100
    cursor: Annotated[str | None, Field(max_length=200, description="`next_cursor` of the page before.")] = None


class LettersIn(BaseModel):
    """Which dead letters: by ids, by filter, or all of them; one of the three must be given."""

    model_config = ConfigDict(extra="forbid")

    ids: list[RowId] | None = Field(None, min_length=1, max_length=10_000)
    filter: FilterIn | None = None
    all: bool = False
    dry_run: bool = Field(False, description="True: only say what would be done.")

    @model_validator(mode="after")
    def _one_choice(self) -> "LettersIn":
        by_filter = self.filter is not None and self.filter != FilterIn()
        if [self.ids is not None, by_filter, self.all].count(True) != 1:
            raise ValueError('choose by ids, by a filter that is not empty, or say "all": true; one of the three')
        return self

    def chosen(self) -> FailureFilter:
        return (self.filter or FilterIn()).chosen(tuple(self.ids) if self.ids is not None else None)


class LettersOut(BaseModel):
    """How many were retried or discarded, or would be; `ids` names the first thousand of those chosen."""

    count: int
    ids: list[int]
    dry_run: bool


async def _failures(
    place: Resources, wanted: PagedFilter, listing: Callable[..., Awaitable[Any]]
) -> Page[FailureOut]:
    before = read_cursor(wanted.cursor, _row_id)
    chosen = FailureFilter(**wanted.model_dump(exclude={"limit", "cursor"}))
    async with reading(place.engine) as conn:
        check_failures_kept(conn)
        rows = await listing(conn, chosen, wanted.limit + 1, before)
    items = [_failure(row) for row in rows[: wanted.limit]]
    return Page(items=items, next_cursor=write_cursor(rows, wanted.limit, lambda row: row.id))


@router.get("/dead-letters")
async def list_letters(place: ThePlace, admin: TheAdmin, wanted: Annotated[PagedFilter, Query()]) -> Page[FailureOut]:
    """What failed for good and what nobody could read, until somebody retries or discards it; the newest first."""
    return await _failures(place, wanted, list_dead_letters)


@router.post("/dead-letters/retry")
async def retry_letters(wanted: LettersIn, place: ThePlace, admin: TheAdmin) -> LettersOut:
    """Give them a fresh set of tries; an unreadable message goes back into its queue as it was."""
    return await _change(wanted, place, admin, retry_dead_letters, "dead_letters.retry")


@router.post("/dead-letters/discard")
async def discard_letters(wanted: LettersIn, place: ThePlace, admin: TheAdmin) -> LettersOut:
    """Take them off the list. Their tasks stay failed, and everything stays on record."""
    return await _change(wanted, place, admin, discard_dead_letters, "dead_letters.discard")


async def _change(
    wanted: LettersIn, place: Resources, admin: User, change: Callable[..., Awaitable[int]], action: str
) -> LettersOut:
    async with reading(place.engine) if wanted.dry_run else place.engine.begin() as conn:
        check_failures_kept(conn)
        letters = await list_dead_letters(conn, wanted.chosen(), limit=MOST_LETTERS)
        count = len(letters)
        if letters and not wanted.dry_run:
            count = await change(conn, letters)
            await record_change(conn, admin.name, action, letters, wanted.chosen(), everything=wanted.all)
    return LettersOut(
        count=count,
        ids=[letter.id for letter in letters[: audit.MAX_NAMED] if letter.id is not None],
        dry_run=wanted.dry_run,
    )


@router.get("/failures")
async def list_all_failures(
    place: ThePlace, admin: TheAdmin, wanted: Annotated[PagedFilter, Query()]
) -> Page[FailureOut]:
    """Every attempt that did not finish, also those that were tried again since; the newest first."""
    return await _failures(place, wanted, list_failures)


class AuditOut(BaseModel):
    """actor: a user's name, or cli:NAME for who sat at the command line. detail: how many, and which."""

    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]


@router.get("/audit")
async def list_audit(
    place: ThePlace,
    admin: TheAdmin,
    actor: Annotated[ShortName | None, Query(description="Only of this actor.")] = None,
    action: Annotated[ShortName | None, Query(description="Only this action, such as dead_letters.retry.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AuditOut]:
    """Who has changed what, the newest first."""
    before = read_cursor(cursor, _row_id)
    async with reading(place.engine) as conn:
        rows = await audit.list_records(conn, limit + 1, before=before, actor=actor, action=action)
    items = [AuditOut(**row._asdict()) for row in rows[:limit]]
    return Page(items=items, next_cursor=write_cursor(rows, limit, lambda row: row.id))


class ComponentOut(BaseModel):
    """A process, as it last spoke of itself. state: ok, away (what it needs does not answer) or paused."""

    name: str
    state: str
    reason: str | None
    since: datetime
    seen_at: datetime


class RelayOut(BaseModel):
    """is_on: False while the relay is paused. changed_by, changed_at: null where nobody has ever switched it."""

    is_on: bool
    changed_by: str | None
    changed_at: datetime | None
    processes: list[ComponentOut]


async def _relay(conn: AsyncConnection) -> RelayOut:
    switch = await switches.read_switch(conn, switches.RELAY)
    relays = [process for process in await read_processes(conn) if process.kind == "relay"]
    return RelayOut(
        is_on=switch is None or switch.is_on,
        changed_by=switch.changed_by if switch else None,
        changed_at=switch.changed_at if switch else None,
        processes=[
            ComponentOut(
                name=relay.name,
                state=relay.state,
                reason=relay.reason,
                since=relay.since,
                seen_at=relay.seen_at,
            )
            for relay in relays
        ],
    )


@router.get("/relay")
async def read_relay(place: ThePlace, admin: TheAdmin) -> RelayOut:
    """Whether tasks are moved to RabbitMQ, and which relays have been heard of."""
    async with reading(place.engine) as conn:
        return await _relay(conn)


@router.post("/relay/pause")
async def pause_relay(place: ThePlace, admin: TheAdmin) -> RelayOut:
    """Move no more tasks to RabbitMQ, from a second from now on.

    This is for work on RabbitMQ: its queues run empty while nothing is lost and nothing stands still. What RabbitMQ
    has is worked off; the rest waits in the database, where workers that have a DATABASE_URL take it after a few
    seconds, somewhat slower than otherwise. Workers that know only RabbitMQ run idle. Cancels still reach them.
    To stop the work itself, stop the workers.
    """
    return await _switch(place, admin, is_on=False)


@router.post("/relay/resume")
async def resume_relay(place: ThePlace, admin: TheAdmin) -> RelayOut:
    """Move tasks to RabbitMQ again."""
    return await _switch(place, admin, is_on=True)


async def _switch(place: Resources, admin: User, *, is_on: bool) -> RelayOut:
    async with place.engine.begin() as conn:
        await switches.set_switch(conn, switches.RELAY, is_on, admin.name)
        await audit.record(conn, admin.name, "relay.resume" if is_on else "relay.pause")
        return await _relay(conn)


class CurrentTask(BaseModel):
    task_id: UUID
    batch_id: UUID
    image: str
    attempt: int
    started_at: datetime | None


class WorkerOut(BaseModel):
    """A worker heard of within the hour. state and reason: what it says of itself; null where it has no database.

    finished: tasks within the hour, by state.
    """

    name: str
    state: str | None
    reason: str | None
    last_seen: datetime | None
    current: list[CurrentTask]
    finished: dict[str, int]
    detail: dict[str, Any]


def _worker(worker: WorkerRecord) -> WorkerOut:
    return WorkerOut(**{**vars(worker), "current": [task._asdict() for task in worker.current]})


class Workers(BaseModel):
    items: list[WorkerOut]


@router.get("/workers")
async def list_workers(place: ThePlace, admin: TheAdmin) -> Workers:
    """The workers, and what each is doing, from their reports and heartbeats."""
    async with reading(place.engine) as conn:
        return Workers(items=[_worker(worker) for worker in await read_workers(conn)])
