"""The state of the live connections: watched batches, and for each client what it has not been sent yet."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from spheroseg.database.watching import WatchedTask
from spheroseg.monitoring.health import Health
from spheroseg.tasks import UNFINISHED, TaskState

MAX_TASKS_PER_MESSAGE = 500


@dataclass(frozen=True)
class EncodedTask:
    """The JSON of a task at one version. All clients are sent the same text."""

    version: int
    text: str


@dataclass(eq=False)
class LiveBatch:
    """A batch that at least one client watches.

    version: the sum of the versions of `tasks`. ahead: number of messages that are delivered before the next one of
    this batch; None if none of its messages waits. checked_at: by the clock of the event loop.
    """

    id: UUID
    project_id: UUID
    tasks: dict[UUID, EncodedTask] = field(default_factory=dict)
    version: int = 0
    counts: dict[TaskState, int] = field(default_factory=dict)
    ahead: int | None = None
    is_finished: bool = False
    checked_at: float = -float("inf")
    clients: set["LiveClient"] = field(default_factory=set)

    def notify(self, task_ids: Iterable[UUID] = ()) -> None:
        """Have each client sent these tasks, then the batch itself."""
        for client in self.clients:
            client.unsent_tasks[self.id].update(dict.fromkeys(task_ids))
            client.unsent_batches.add(self.id)
            client.wake.set()


@dataclass(eq=False)
class LiveClient:
    """One connection. It has no queue of messages, only the ids of what it has not been sent in its current state."""

    # Dicts instead of sets, because they keep the order of the tasks.
    unsent_tasks: dict[UUID, dict[UUID, None]] = field(default_factory=lambda: defaultdict(dict))
    unsent_batches: set[UUID] = field(default_factory=set)
    is_health_unsent: bool = True
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def next_message(self, health: str | None, batches: Mapping[UUID, LiveBatch]) -> str | None:
        """Return the next message to send, and count it as sent. None if the client is up to date.

        health: the current health message. batches: the batches that any client watches.
        """
        if self.is_health_unsent and health is not None:
            self.is_health_unsent = False
            return health
        for batch_id, unsent in list(self.unsent_tasks.items()):
            batch = batches.get(batch_id)
            if batch is None or not unsent:
                del self.unsent_tasks[batch_id]
                continue
            task_ids = [task_id for task_id, _ in zip(unsent, range(MAX_TASKS_PER_MESSAGE), strict=False)]
            for task_id in task_ids:
                del unsent[task_id]
            texts = ",".join(batch.tasks[task_id].text for task_id in task_ids)
            return f'{{"type":"tasks","batch_id":"{batch_id}","tasks":[{texts}]}}'
        # Batches come last: now the versions of the tasks that the client was sent add up to the batch's version.
        while self.unsent_batches:
            batch = batches.get(self.unsent_batches.pop())
            if batch is not None and batch.counts:
                return _encode_batch(batch)
        return None


def encode_task(task: WatchedTask) -> EncodedTask:
    text = json.dumps(
        {
            "id": str(task.id),
            "image_id": str(task.image_id),
            "image": task.image,
            "page": task.page,
            "state": task.state,
            "version": task.version,
            "attempt": task.attempt,
            "reason": task.reason,
            "error": task.error,
            "started_at": _iso_time(task.started_at),
            "finished_at": _iso_time(task.finished_at),
        },
        ensure_ascii=False,
    )
    return EncodedTask(task.version, text)


def encode_health(health: Health) -> str:
    """Return the health message."""
    fields = {"status": health.status, "reason": health.reason, "since": _iso_time(health.since)}
    return json.dumps({"type": "health", "health": fields}, ensure_ascii=False)


def _encode_batch(batch: LiveBatch) -> str:
    finished = sum(count for state, count in batch.counts.items() if state not in UNFINISHED)
    fields = {
        "id": str(batch.id),
        "version": batch.version,
        "total": len(batch.tasks),
        "finished": finished,
        "is_finished": finished == len(batch.tasks),
        "counts": {str(state): count for state, count in batch.counts.items()},
        "ahead": batch.ahead,
    }
    return json.dumps({"type": "batch", "batch": fields})


def _iso_time(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
