"""relay: moves task messages from the table to RabbitMQ, in fair order, within a window.

A row is the record of its message for as long as no worker has begun on it. It is in a relay's hand while it is being
published (a relay that dies loses it after a short lease), and held by RabbitMQ from the confirm on. So a broker that
stays away, is wiped or purged strands nothing: its rows are made ready again.
"""

import asyncio
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
import uuid_utils.compat as uuid
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.backoff import Backoff
from spheroseg.broker.table import TableBroker
from spheroseg.broker.table_messages import to_message
from spheroseg.database import queue as table
from spheroseg.database import switches
from spheroseg.database.engine import reading
from spheroseg.errors import BrokerAway
from spheroseg.messages import CANCELS, Queue

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker

log = structlog.get_logger()

PUBLISHING_LEASE = 60.0
BACKOFF_SECONDS = 1.0
# A premium task is let in although the window is full, up to as many again.
PREMIUM_ABOVE = 1
# Between two looks at the switch.
SWITCH_SECONDS = 1.0


@dataclass(frozen=True)
class RelayOptions:
    """window: messages that may wait at RabbitMQ. Times in seconds.

    poll: between two looks at the table. low_share: of the moves that begin with the lowest class. away: after this
    long without an answer, what RabbitMQ had is made ready again. missing: after this long in a queue that is empty,
    a message is no longer believed to be there. backoff_max: longest wait after a refusal.
    """

    window: int = 64
    poll: float = 0.25
    low_share: float = 0.1
    away: float = 60.0
    missing: float = 30.0
    backoff_max: float = 15.0


class Relay:
    def __init__(self, engine: AsyncEngine, rabbit: "RabbitBroker", options: RelayOptions) -> None:
        self.engine = engine
        self.rabbit = rabbit
        self.options = options
        self.holder = f"relay-{uuid.uuid7()}"
        self._table = TableBroker(engine)
        self._refusals = 0
        self._owed = 0.0
        self._away_since: float | None = None
        self.away_reason: str | None = None
        self._checked = time.monotonic()
        # An administrator has switched it off; what that is for is told in `api/admin.py`.
        self.is_paused = False
        self._looked = -SWITCH_SECONDS

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                moved = await self.move()
            except BrokerAway as error:
                await self._away(error)
            except (SQLAlchemyError, OSError) as error:
                log.warning("relay waits for the database", error=str(error))
                await asyncio.sleep(1.0)
            else:
                if not moved:
                    await asyncio.sleep(self.options.poll)

    async def move(self) -> int:
        """One round: fill the window, pass on cancels, look for what RabbitMQ has lost; how many were moved.

        Raises BrokerAway where RabbitMQ does not answer.
        """
        await self.rabbit.open()
        ready = await self.rabbit.depth(Queue.TASKS)
        if self._away_since is not None:
            log.info("relay goes on", away_seconds=round(time.monotonic() - self._away_since, 1))
            self._away_since = None
        self.away_reason = None
        await self._table.wake_due()
        moved = await self._move_cancels()
        if not await self._paused():
            moved += await self._fill(self.options.window - ready)
        if ready == 0 and time.monotonic() - self._checked > self.options.missing:
            await self._look_for_lost()
        return moved

    async def _paused(self) -> bool:
        """Whether no task is to be moved. Cancels go on: the work is at RabbitMQ that they are about."""
        if time.monotonic() - self._looked >= SWITCH_SECONDS:
            async with reading(self.engine) as conn:
                is_on = await switches.is_on(conn, switches.RELAY)
            self._looked = time.monotonic()
            if is_on == self.is_paused:
                log.info("relay goes on" if is_on else "relay is paused: workers take tasks from the database")
            self.is_paused = not is_on
        return self.is_paused

    async def _fill(self, room: int) -> int:
        """Move as many tasks as there is `room` for in the window; how many."""
        if self._refusals:
            # One to see whether it is over, before many wait for an answer that does not come.
            priorities = await self._move_tasks(1)
        elif room > 0:
            low = sum(random.random() < self.options.low_share for _ in range(room))  # noqa: S311 (a share)
            priorities = await self._move_tasks(low, lowest_first=True)
            priorities += await self._move_tasks(room - low)
        else:
            priorities = await self._move_tasks(room + self.options.window, above=PREMIUM_ABOVE)
        priorities += await self._move_owed(priorities)
        return len(priorities)

    async def _move_owed(self, priorities: list[int]) -> list[int]:
        """Let some of the lowest class go along with premium ones, as if they were of that class.

        A classic queue's order is strict: with its own priority none would come out while premium ones keep coming.
        """
        self._owed += self.options.low_share * sum(priority > PREMIUM_ABOVE for priority in priorities)
        owed = int(self._owed)
        self._owed -= owed
        return await self._move_tasks(owed, lowest_first=True, priority=max(priorities)) if owed else []

    async def _move_tasks(
        self, limit: int, *, lowest_first: bool = False, above: int = -1, priority: int | None = None
    ) -> list[int]:
        """Up to `limit`, published with `priority` or else their own; the own priorities of those moved."""
        if limit <= 0:
            return []
        async with self.engine.begin() as conn:
            rows = await table.claim(
                conn,
                Queue.TASKS,
                limit,
                self.holder,
                PUBLISHING_LEASE,
                lowest_first=lowest_first,
                above=above,
                is_delivery=False,
            )
        if not rows:
            return []
        messages = [to_message(row) for row in rows]
        if priority is not None:
            messages = [replace(message, priority=priority) for message in messages]
        errors = await self.rabbit.publish_each(messages)
        for message, error in zip(messages, errors, strict=True):
            if error is None:
                log.info("moved to RabbitMQ", **message.about())
        confirmed = [row.id for row, error in zip(rows, errors, strict=True) if error is None]
        refused = [row.id for row, error in zip(rows, errors, strict=True) if error is not None]
        first_error = next((error for error in errors if error is not None), None)
        self._refusals = self._refusals + 1 if first_error else 0
        delay = 0.0
        if first_error and not first_error.is_silence and self.rabbit.unreachable_since is None:
            # Refused by a server that answers, as from a full queue: leave it alone for a while.
            delay = Backoff(BACKOFF_SECONDS, self.options.backoff_max).equal_jitter(self._refusals)
        async with self.engine.begin() as conn:
            await table.confirm_relayed(conn, self.holder, confirmed, table.RELAY_LEASE)
            await table.postpone(conn, self.holder, refused, delay)
        if first_error:
            log.warning(
                "not taken by RabbitMQ",
                messages=len(refused),
                task_ids=[str(row.task_id) for row, error in zip(rows, errors, strict=True) if error is not None],
                error=str(first_error),
                again_in_s=round(delay, 2),
            )
            raise first_error
        return [row.priority for row in rows]

    async def _move_cancels(self) -> int:
        async with self.engine.begin() as conn:
            rows = await table.claim(conn, CANCELS, self.options.window, self.holder, PUBLISHING_LEASE)
        if rows:
            await self.rabbit.publish([to_message(row) for row in rows])
            async with self.engine.begin() as conn:
                await table.remove(conn, self.holder, [row.id for row in rows])
        return len(rows)

    async def _look_for_lost(self) -> None:
        """An empty queue cannot hold what we believe to be in it, once all that was reported is applied."""
        self._checked = time.monotonic()
        if await self.rabbit.depth(Queue.RESULTS):
            return
        async with reading(self.engine) as conn:
            if await table.depth(conn, Queue.RESULTS, in_hand=True):
                return
        async with self.engine.begin() as conn:
            found = await table.take_back(conn, older_than=self.options.missing)
        if found:
            log.warning("RabbitMQ had lost messages: queued again", messages=found)

    async def _away(self, error: BrokerAway) -> None:
        now = time.monotonic()
        self.away_reason = str(error)
        if self._away_since is None:
            self._away_since = now
            log.warning("relay waits for RabbitMQ; workers take tasks from the database meanwhile", error=str(error))
        elif now - self._away_since > self.options.away:
            async with self.engine.begin() as conn:
                found = await table.take_back(conn, older_than=0.0)
            if found:
                log.warning("RabbitMQ stays away: what it had is queued again", messages=found)
        await asyncio.sleep(self.options.poll)
