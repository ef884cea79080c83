"""What the watchers of a process see: the state of tasks, read anew while it changes.

No events are kept or passed on. Every task has a version that grows with each change, so the sum of a batch's
versions tells, from an index alone, whether anything in it has changed; then the batch is read again. What a client
has not been told yet is a set of task ids, and it is told the state of the moment. So nothing can be missed: not by a
slow client, not after a reconnect, not when another process made the change.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import chunks, reading
from spheroseg.database.queue_position import QueuePosition, read_first_positions
from spheroseg.database.watching import (
    WatchedTask,
    read_versions,
    read_watched_batches,
    stream_tasks,
)
from spheroseg.monitoring.health import Health, check_health
from spheroseg.resources import Resources
from spheroseg.tasks import UNFINISHED, TaskState

log = structlog.get_logger()

TICK_SECONDS = 0.25
# A batch of which nothing moves is looked at less often; a person may still try its failures again.
QUIET_SECONDS = 2.0
HEALTH_SECONDS = 2.0
LINE_SECONDS = 2.0
# Of the time, at most: a batch of 100,000 tasks is read again less often.
LOAD = 0.25


@dataclass(eq=False)
class Client:
    """One connection's backlog. `unseen`: tasks whose state it has not been told, by batch."""

    unseen: dict[UUID, dict[UUID, None]] = field(default_factory=lambda: defaultdict(dict))
    batches: set[UUID] = field(default_factory=set)
    health_due: bool = True
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def next_message(self, hub: "Hub", limit: int = 500) -> str | None:
        """The next thing to tell; None when it knows everything."""
        if self.health_due and hub.health is not None:
            self.health_due = False
            return hub.health
        for batch_id, unseen in list(self.unseen.items()):
            batch = hub.batches.get(batch_id)
            if batch is None or not unseen:
                del self.unseen[batch_id]
                continue
            now = [task_id for task_id, _ in zip(unseen, range(limit), strict=False)]
            for task_id in now:
                del unseen[task_id]
            told = ",".join(batch.tasks[task_id].text for task_id in now)
            return f'{{"type":"tasks","batch_id":"{batch_id}","tasks":[{told}]}}'
        # Only now: the versions that it has been told add up to the batch's.
        while self.batches:
            batch = hub.batches.get(self.batches.pop())
            if batch is not None and batch.counts:
                return _batch_text(batch)
        return None


@dataclass(frozen=True)
class Seen:
    version: int
    text: str


@dataclass(eq=False)
class Batch:
    """A batch that somebody watches. `version`: the sum of its tasks' versions, as they are in `tasks`.

    ahead: messages that go before its next one; None where none waits in line.
    """

    id: UUID
    project_id: UUID
    tasks: dict[UUID, Seen] = field(default_factory=dict)
    version: int = 0
    counts: dict[TaskState, int] = field(default_factory=dict)
    ahead: int | None = None
    is_quiet: bool = False
    looked_at: float = -float("inf")
    clients: set[Client] = field(default_factory=set)


class Hub:
    """Reads for all clients of a process together; it does nothing while there are none."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.health: str | None = None
        self.batches: dict[UUID, Batch] = {}
        self.clients: set[Client] = set()
        self._projects: dict[UUID, set[Client]] = defaultdict(set)
        self._known_health: tuple[Any, ...] = ()
        self._health_at = -float("inf")
        self._line_at = -float("inf")
        self._wake = asyncio.Event()

    def join(self, client: Client) -> None:
        self.clients.add(client)
        client.wake.set()
        self._wake.set()

    def leave(self, client: Client) -> None:
        self.clients.discard(client)
        for project_id in [id_ for id_, watching in self._projects.items() if client in watching]:
            self._unlist(client, project_id)
        for batch_id in [batch.id for batch in self.batches.values() if client in batch.clients]:
            self.unwatch_batch(client, batch_id)

    def watch_project(self, client: Client, project_id: UUID) -> None:
        """Its batches: the newest, older ones that are not finished, and those that come later."""
        self._projects[project_id].add(client)
        self._wake.set()

    def unwatch_project(self, client: Client, project_id: UUID) -> None:
        self._unlist(client, project_id)
        for batch in [batch for batch in self.batches.values() if batch.project_id == project_id]:
            self.unwatch_batch(client, batch.id)

    def _unlist(self, client: Client, project_id: UUID) -> None:
        watching = self._projects.get(project_id, set())
        watching.discard(client)
        if not watching:
            self._projects.pop(project_id, None)

    def watch_batch(self, client: Client, batch_id: UUID, project_id: UUID) -> None:
        """Everything about it is news to the client."""
        batch = self.batches.setdefault(batch_id, Batch(batch_id, project_id))
        if client in batch.clients:
            return
        batch.clients.add(client)
        batch.looked_at = -float("inf")
        client.unseen[batch_id].update(dict.fromkeys(batch.tasks))
        client.batches.add(batch_id)
        client.wake.set()
        self._wake.set()

    def unwatch_batch(self, client: Client, batch_id: UUID) -> None:
        batch = self.batches.get(batch_id)
        if batch is None:
            return
        batch.clients.discard(client)
        client.unseen.pop(batch_id, None)
        client.batches.discard(batch_id)
        if not batch.clients:
            del self.batches[batch_id]

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            if not self.clients:
                self._wake.clear()
                self.health = None
                await self._wake.wait()
            began = clock()
            try:
                await self._look_at_health(began)
                if self._projects or self.batches:
                    await self._look(began)
                    await self._look_at_line(began)
            except (SQLAlchemyError, OSError) as error:
                log.warning("the watchers wait for the database", error=str(error))
                await asyncio.sleep(1.0)
            except Exception:
                # A fault of ours in one look must not leave everybody with an old state for good.
                log.exception("a look at what is watched failed")
                await asyncio.sleep(1.0)
            await asyncio.sleep(max(TICK_SECONDS, (clock() - began) / LOAD))

    async def _look_at_health(self, now: float) -> None:
        if now - self._health_at < HEALTH_SECONDS:
            return
        self._health_at = now
        health = await check_health(self.resources)
        known = (health.status, health.reason, health.since)
        if known != self._known_health or self.health is None:
            self._known_health, self.health = known, _health_text(health)
            for client in self.clients:
                client.health_due = True
                client.wake.set()

    async def _look(self, now: float) -> None:
        async with reading(self.resources.engine) as conn:
            await self._find_batches(conn)
            due = [
                batch.id
                for batch in self.batches.values()
                if not batch.is_quiet or now - batch.looked_at >= QUIET_SECONDS
            ]
            for some in chunks(due, 1000):
                for batch_id, found in (await read_versions(conn, some)).items():
                    batch = self.batches.get(batch_id)
                    if batch is None:
                        continue
                    batch.looked_at = now
                    batch.is_quiet = found.is_finished
                    if found.version != batch.version or not batch.counts:
                        await self._read_batch(conn, batch)

    async def _look_at_line(self, now: float) -> None:
        """The place in line changes without any change of the batch."""
        if now - self._line_at < LINE_SECONDS:
            return
        self._line_at = now
        waiting = [batch for batch in self.batches.values() if not batch.is_quiet]
        places: dict[UUID, QueuePosition] = {}
        async with reading(self.resources.engine) as conn:
            for some in chunks([batch.id for batch in waiting], 1000):
                places |= await read_first_positions(conn, some)
        for batch in waiting:
            ahead = places[batch.id].ahead if batch.id in places else None
            if ahead != batch.ahead:
                batch.ahead = ahead
                self._tell(batch, [])

    async def _find_batches(self, conn: AsyncConnection) -> None:
        if not self._projects:
            return
        for some in chunks(list(self._projects), 1000):
            for row in await read_watched_batches(conn, some):
                for client in list(self._projects.get(row.project_id, ())):
                    self.watch_batch(client, row.id, row.project_id)

    async def _read_batch(self, conn: AsyncConnection, batch: Batch) -> None:
        changed: dict[UUID, Seen] = {}
        counts = dict.fromkeys(TaskState, 0)
        version = 0
        async for rows in stream_tasks(conn, batch.id):
            for row in rows:
                counts[TaskState(row.state)] += 1
                version += row.version
                if (seen := batch.tasks.get(row.id)) is None or seen.version != row.version:
                    changed[row.id] = Seen(row.version, _task_text(row))
            # Others have their turn in between.
            await asyncio.sleep(0)
        # At once, so that the versions add up whenever somebody looks.
        batch.tasks |= changed
        batch.counts, batch.version = counts, version
        if not batch.counts[TaskState.QUEUED]:
            batch.ahead = None
        self._tell(batch, changed)

    def _tell(self, batch: Batch, task_ids: Iterable[UUID]) -> None:
        for client in batch.clients:
            client.unseen[batch.id].update(dict.fromkeys(task_ids))
            client.batches.add(batch.id)
            client.wake.set()


def _task_text(row: WatchedTask) -> str:
    return json.dumps(
        {
            "id": str(row.id),
            "image_id": str(row.image_id),
            "image": row.image,
            "page": row.page,
            "state": row.state,
            "version": row.version,
            "attempt": row.attempt,
            "reason": row.reason,
            "error": row.error,
            "started_at": _moment(row.started_at),
            "finished_at": _moment(row.finished_at),
        },
        ensure_ascii=False,
    )


def _batch_text(batch: Batch) -> str:
    finished = sum(count for state, count in batch.counts.items() if state not in UNFINISHED)
    told = {
        "id": str(batch.id),
        "version": batch.version,
        "total": len(batch.tasks),
        "finished": finished,
        "is_finished": finished == len(batch.tasks),
        "counts": {str(state): count for state, count in batch.counts.items()},
        "ahead": batch.ahead,
    }
    return json.dumps({"type": "batch", "batch": told})


def _health_text(health: Health) -> str:
    told = {"status": health.status, "reason": health.reason, "since": _moment(health.since)}
    return json.dumps({"type": "health", "health": told}, ensure_ascii=False)


def _moment(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
