"""Reads the state of what the live connections of this process watch, for all of them together.

No events are stored or forwarded. Every task has a version that grows with each change, so the sum of the versions of
a batch's tasks shows, from an index alone, whether anything in the batch has changed. Only then the batch is read
again. For each client there is a set of task ids that it has not been sent yet, and it is sent their current state.
So no change can be missed: not by a slow client, not after a reconnect, not if another process made the change.
"""

import asyncio
from collections import defaultdict
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.live_state import EncodedTask, LiveBatch, LiveClient, encode_health, encode_task
from spheroseg.database.engine import chunks, reading
from spheroseg.database.queue_position import QueuePosition, read_first_positions
from spheroseg.database.watching import read_versions, read_watched_batches, stream_tasks
from spheroseg.monitoring.health import check_health
from spheroseg.resources import Resources
from spheroseg.tasks import TaskState

log = structlog.get_logger()

CHECK_SECONDS = 0.25
# A finished batch is checked less often. It changes only if a person retries its failed tasks.
FINISHED_CHECK_SECONDS = 2.0
HEALTH_CHECK_SECONDS = 2.0
POSITION_CHECK_SECONDS = 2.0
AFTER_ERROR_SECONDS = 1.0
# Share of the time that the hub may spend on reading, so a batch of 100,000 tasks is read less often.
MAX_BUSY_SHARE = 0.25
IDS_PER_QUERY = 1000


class Hub:
    """Reads for all clients of this process. Does nothing while there are none."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.health: str | None = None
        self.batches: dict[UUID, LiveBatch] = {}
        self.clients: set[LiveClient] = set()
        self._clients_by_project: dict[UUID, set[LiveClient]] = defaultdict(set)
        self._known_health: tuple[str, str | None, datetime | None] | None = None
        self._health_checked_at = -float("inf")
        self._positions_checked_at = -float("inf")
        self._wake = asyncio.Event()

    def next_message(self, client: LiveClient) -> str | None:
        """Return the next message for `client`, or None if it is up to date."""
        return client.next_message(self.health, self.batches)

    def join(self, client: LiveClient) -> None:
        self.clients.add(client)
        client.wake.set()
        self._wake.set()

    def leave(self, client: LiveClient) -> None:
        self.clients.discard(client)
        for project_id in [id_ for id_, clients in self._clients_by_project.items() if client in clients]:
            self._remove_from_project(client, project_id)
        for batch_id in [batch.id for batch in self.batches.values() if client in batch.clients]:
            self.unwatch_batch(client, batch_id)

    def watch_project(self, client: LiveClient, project_id: UUID) -> None:
        """Watch the newest batches of a project, older ones that are not finished, and those that are added later."""
        self._clients_by_project[project_id].add(client)
        self._wake.set()

    def unwatch_project(self, client: LiveClient, project_id: UUID) -> None:
        self._remove_from_project(client, project_id)
        for batch in [batch for batch in self.batches.values() if batch.project_id == project_id]:
            self.unwatch_batch(client, batch.id)

    def _remove_from_project(self, client: LiveClient, project_id: UUID) -> None:
        clients = self._clients_by_project.get(project_id, set())
        clients.discard(client)
        if not clients:
            self._clients_by_project.pop(project_id, None)

    def watch_batch(self, client: LiveClient, batch_id: UUID, project_id: UUID) -> None:
        """Watch one batch. The client is sent all of its tasks first."""
        batch = self.batches.setdefault(batch_id, LiveBatch(batch_id, project_id))
        if client in batch.clients:
            return
        batch.clients.add(client)
        batch.checked_at = -float("inf")
        client.unsent_tasks[batch_id].update(dict.fromkeys(batch.tasks))
        client.unsent_batches.add(batch_id)
        client.wake.set()
        self._wake.set()

    def unwatch_batch(self, client: LiveClient, batch_id: UUID) -> None:
        batch = self.batches.get(batch_id)
        if batch is None:
            return
        batch.clients.discard(client)
        client.unsent_tasks.pop(batch_id, None)
        client.unsent_batches.discard(batch_id)
        if not batch.clients:
            del self.batches[batch_id]

    async def run(self) -> None:
        """Check everything that is watched again and again, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            if not self.clients:
                self._wake.clear()
                self.health = None
                await self._wake.wait()
            began = clock()
            try:
                await self._check_health(began)
                if self._clients_by_project or self.batches:
                    await self._check_batches(began)
                    await self._check_positions(began)
            except (SQLAlchemyError, OSError) as error:
                log.warning("the live connections wait for the database", error=str(error))
                await asyncio.sleep(AFTER_ERROR_SECONDS)
            except Exception:
                # A bug in one check must not leave all clients with an old state for good.
                log.exception("checking what the live connections watch failed")
                await asyncio.sleep(AFTER_ERROR_SECONDS)
            await asyncio.sleep(max(CHECK_SECONDS, (clock() - began) / MAX_BUSY_SHARE))

    async def _check_health(self, now: float) -> None:
        if now - self._health_checked_at < HEALTH_CHECK_SECONDS:
            return
        self._health_checked_at = now
        health = await check_health(self.resources)
        current = (health.status, health.reason, health.since)
        if current != self._known_health or self.health is None:
            self._known_health, self.health = current, encode_health(health)
            for client in self.clients:
                client.is_health_unsent = True
                client.wake.set()

    async def _check_batches(self, now: float) -> None:
        async with reading(self.resources.engine) as conn:
            await self._find_batches(conn)
            due = [
                batch.id
                for batch in self.batches.values()
                if not batch.is_finished or now - batch.checked_at >= FINISHED_CHECK_SECONDS
            ]
            for batch_ids in chunks(due, IDS_PER_QUERY):
                for batch_id, current in (await read_versions(conn, batch_ids)).items():
                    batch = self.batches.get(batch_id)
                    if batch is None:
                        continue
                    batch.checked_at = now
                    batch.is_finished = current.is_finished
                    if current.version != batch.version or not batch.counts:
                        await self._read_batch(conn, batch)

    async def _find_batches(self, conn: AsyncConnection) -> None:
        for project_ids in chunks(list(self._clients_by_project), IDS_PER_QUERY):
            for batch in await read_watched_batches(conn, project_ids):
                for client in list(self._clients_by_project.get(batch.project_id, ())):
                    self.watch_batch(client, batch.id, batch.project_id)

    async def _read_batch(self, conn: AsyncConnection, batch: LiveBatch) -> None:
        changed: dict[UUID, EncodedTask] = {}
        counts = dict.fromkeys(TaskState, 0)
        version = 0
        async for tasks in stream_tasks(conn, batch.id):
            for task in tasks:
                counts[TaskState(task.state)] += 1
                version += task.version
                if (known := batch.tasks.get(task.id)) is None or known.version != task.version:
                    changed[task.id] = encode_task(task)
            # A large batch must not block the other work of this process.
            await asyncio.sleep(0)
        # Without an await in between, so that the versions of the tasks always add up to the batch's version.
        batch.tasks |= changed
        batch.counts, batch.version = counts, version
        if not batch.counts[TaskState.QUEUED]:
            batch.ahead = None
        batch.notify(changed)

    async def _check_positions(self, now: float) -> None:
        """Read the positions in the queue. They change without any change of the batch."""
        if now - self._positions_checked_at < POSITION_CHECK_SECONDS:
            return
        self._positions_checked_at = now
        unfinished = [batch for batch in self.batches.values() if not batch.is_finished]
        positions: dict[UUID, QueuePosition] = {}
        async with reading(self.resources.engine) as conn:
            for batch_ids in chunks([batch.id for batch in unfinished], IDS_PER_QUERY):
                positions |= await read_first_positions(conn, batch_ids)
        for batch in unfinished:
            ahead = positions[batch.id].ahead if batch.id in positions else None
            if ahead != batch.ahead:
                batch.ahead = ahead
                batch.notify()
