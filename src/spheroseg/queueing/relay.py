"""relay: moves task messages from the table to RabbitMQ, in fair order, within a window.

The row of a message is its record until a worker begins. The relay claims the row while it publishes the message: if
the relay dies, the row becomes ready again after a short lease. Once RabbitMQ has confirmed the message, the row
counts as held by RabbitMQ. If RabbitMQ stays unreachable, is wiped or purged, its rows are made ready again, so that
no task is stranded.
"""

import asyncio
import random
import time
from collections.abc import Sequence
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
from spheroseg.database.queue import QueueRow
from spheroseg.database.relayed import confirm_relayed, postpone, take_back
from spheroseg.errors import BrokerAway
from spheroseg.messages import CANCELS, Queue

if TYPE_CHECKING:  # aio-pika belongs to an extra
    from spheroseg.broker.rabbit import RabbitBroker

log = structlog.get_logger()

PUBLISHING_LEASE_SECONDS = 60.0
BACKOFF_SECONDS = 1.0
# Tasks with a higher priority are premium. If the window is full, they are moved until two windows are full.
PREMIUM_ABOVE = 1
SWITCH_CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class RelayOptions:
    """window: messages that may wait at RabbitMQ. All times are in seconds.

    poll: time between two polls of the table. low_share: share of the moves that take the lowest priority first.
    give_up_after: after this long without an answer, the messages that RabbitMQ had are made ready again. lost_after:
    after this long, a message that RabbitMQ confirmed but that is not in its empty queue counts as lost. backoff_max:
    longest wait after RabbitMQ has refused a message.
    """

    window: int = 64
    poll: float = 0.25
    low_share: float = 0.1
    give_up_after: float = 60.0
    lost_after: float = 30.0
    backoff_max: float = 15.0


class Relay:
    """unreachable_reason: why RabbitMQ is unreachable, or None. is_paused: an administrator has paused the relay."""

    def __init__(self, engine: AsyncEngine, rabbit: "RabbitBroker", options: RelayOptions) -> None:
        self.engine = engine
        self.rabbit = rabbit
        self.options = options
        self.holder = f"relay-{uuid.uuid7()}"
        self.unreachable_reason: str | None = None
        self.is_paused = False
        self._table = TableBroker(engine)
        self._backoff = Backoff(BACKOFF_SECONDS, options.backoff_max)
        self._refusals = 0
        # Number of tasks of the lowest priority that may still be moved with premium ones. It may have a fraction.
        self._low_allowance = 0.0
        self._unreachable_since: float | None = None
        self._lost_checked_at = time.monotonic()
        self._switch_checked_at = -SWITCH_CHECK_SECONDS

    async def run(self) -> None:
        """Move messages until cancelled."""
        while True:
            try:
                moved = await self.move()
            except BrokerAway as error:
                await self._wait_for_rabbitmq(error)
            except (SQLAlchemyError, OSError) as error:
                log.warning("relay waits for the database", error=str(error))
                await asyncio.sleep(1.0)
            else:
                if not moved:
                    await asyncio.sleep(self.options.poll)

    async def move(self) -> int:
        """Do one round: fill the window, pass cancels on, queue again what RabbitMQ has lost.

        Return the number of moved messages. Raises BrokerAway if RabbitMQ is unreachable or refuses a message.
        """
        await self.rabbit.open()
        ready = await self.rabbit.depth(Queue.TASKS)
        self._note_answer()
        await self._table.wake_due()
        moved = await self._move_cancels()
        await self._check_switch()
        # Cancels are moved even while the relay is paused: their tasks are at RabbitMQ.
        if not self.is_paused:
            moved += await self._fill_window(self.options.window - ready)
        if ready == 0 and time.monotonic() - self._lost_checked_at > self.options.lost_after:
            await self._requeue_lost()
        return moved

    def _note_answer(self) -> None:
        if self._unreachable_since is not None:
            log.info("relay goes on", away_seconds=round(time.monotonic() - self._unreachable_since, 1))
        self._unreachable_since = None
        self.unreachable_reason = None

    async def _check_switch(self) -> None:
        """Read the administrator's switch, at most once in `SWITCH_CHECK_SECONDS`."""
        if time.monotonic() - self._switch_checked_at < SWITCH_CHECK_SECONDS:
            return
        async with reading(self.engine) as conn:
            is_on = await switches.is_on(conn, switches.RELAY)
        self._switch_checked_at = time.monotonic()
        if is_on == self.is_paused:
            log.info("relay goes on" if is_on else "relay is paused: workers take tasks from the database")
        self.is_paused = not is_on

    async def _fill_window(self, room: int) -> int:
        """Move as many tasks as the window has `room` for. Return the number of moved tasks."""
        if self._refusals:
            # One message shows whether RabbitMQ takes messages again, before many wait for an answer.
            priorities = await self._move_tasks(1)
        elif room > 0:
            low = sum(random.random() < self.options.low_share for _ in range(room))  # noqa: S311 (a share)
            priorities = await self._move_tasks(low, lowest_first=True)
            priorities += await self._move_tasks(room - low)
        else:
            priorities = await self._move_tasks(room + self.options.window, above=PREMIUM_ABOVE)
        priorities += await self._move_low_with_premium(priorities)
        return len(priorities)

    async def _move_low_with_premium(self, priorities: Sequence[int]) -> list[int]:
        """Move some tasks of the lowest priority, published with that of the premium tasks that were just moved.

        A classic queue is strictly ordered: with its own priority no such task would be delivered while premium ones
        keep arriving.
        """
        self._low_allowance += self.options.low_share * sum(priority > PREMIUM_ABOVE for priority in priorities)
        count = int(self._low_allowance)
        self._low_allowance -= count
        return await self._move_tasks(count, lowest_first=True, priority=max(priorities)) if count else []

    async def _move_tasks(
        self, limit: int, *, lowest_first: bool = False, above: int = -1, priority: int | None = None
    ) -> list[int]:
        """Move up to `limit` tasks, published with `priority` or else with their own.

        Return their own priorities. Raises BrokerAway if RabbitMQ did not take all of them.
        """
        if limit <= 0:
            return []
        async with self.engine.begin() as conn:
            rows = await table.claim(
                conn,
                Queue.TASKS,
                limit,
                self.holder,
                PUBLISHING_LEASE_SECONDS,
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
                log.info("moved to RabbitMQ", **message.log_fields())
        await self._settle(rows, errors)
        return [row.priority for row in rows]

    async def _settle(self, rows: Sequence[QueueRow], errors: Sequence[BrokerAway | None]) -> None:
        """Record which rows RabbitMQ has confirmed, and postpone the others. Raises the first error."""
        confirmed = [row.id for row, error in zip(rows, errors, strict=True) if error is None]
        refused = [row for row, error in zip(rows, errors, strict=True) if error is not None]
        first_error = next((error for error in errors if error is not None), None)
        self._refusals = self._refusals + 1 if first_error else 0
        delay = 0.0
        if first_error and not first_error.is_silence and self.rabbit.unreachable_since is None:
            # The server answers and refused it, for example because the queue is full: wait before the next try.
            delay = self._backoff.equal_jitter(self._refusals)
        async with self.engine.begin() as conn:
            await confirm_relayed(conn, self.holder, confirmed)
            await postpone(conn, self.holder, [row.id for row in refused], delay)
        if first_error:
            log.warning(
                "RabbitMQ did not take messages",
                messages=len(refused),
                task_ids=[str(row.task_id) for row in refused],
                error=str(first_error),
                retry_after_s=round(delay, 2),
            )
            raise first_error

    async def _move_cancels(self) -> int:
        async with self.engine.begin() as conn:
            rows = await table.claim(conn, CANCELS, self.options.window, self.holder, PUBLISHING_LEASE_SECONDS)
        if rows:
            await self.rabbit.publish([to_message(row) for row in rows])
            async with self.engine.begin() as conn:
                await table.remove(conn, self.holder, [row.id for row in rows])
        return len(rows)

    async def _requeue_lost(self) -> None:
        """Queue messages again that RabbitMQ confirmed and does not have any more.

        Its empty task queue cannot hold them. A worker may have begun on one, which is known once every report has
        been applied; so nothing is done while reports wait.
        """
        self._lost_checked_at = time.monotonic()
        if await self.rabbit.depth(Queue.RESULTS):
            return
        async with reading(self.engine) as conn:
            if await table.depth(conn, Queue.RESULTS, with_claimed=True):
                return
        async with self.engine.begin() as conn:
            count = await take_back(conn, older_than=self.options.lost_after)
        if count:
            log.warning("RabbitMQ had lost messages: they are queued again", messages=count)

    async def _wait_for_rabbitmq(self, error: BrokerAway) -> None:
        """Wait for one poll. If RabbitMQ has been unreachable for too long, queue its messages again."""
        now = time.monotonic()
        self.unreachable_reason = str(error)
        if self._unreachable_since is None:
            self._unreachable_since = now
            log.warning("relay waits for RabbitMQ; workers take tasks from the database meanwhile", error=str(error))
        elif now - self._unreachable_since > self.options.give_up_after:
            async with self.engine.begin() as conn:
                count = await take_back(conn, older_than=0.0)
            if count:
                log.warning("RabbitMQ stays unreachable: its messages are queued again", messages=count)
        await asyncio.sleep(self.options.poll)
