"""Random histories of the task system must keep its invariants.

Tasks are submitted, worked on, lost, reported twice, late or never, cancelled, retried, purged and swept in any
order. After every step and at the end, these invariants must hold on the real database.
"""

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, text

from spheroseg.broker import Delivery
from spheroseg.broker.table import TableBroker
from spheroseg.broker.table_consumer import TableConsumer
from spheroseg.database.engine import open_engine, reading
from spheroseg.database.revisions import create_tables
from spheroseg.database.schema import metadata, segmentation_failures, segmentation_queue, segmentation_results
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.messages import (
    Message,
    Queue,
    TaskCompleted,
    TaskFailed,
    TaskNew,
    TaskStarted,
    decode_report,
    decode_task,
)
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.submit import cancel, retry
from spheroseg.queueing.sweep import sweep
from spheroseg.queueing.undelivered import apply_dead_letter
from spheroseg.tasks import FINISHED, RetryPolicy, TaskState

from .conftest import Postgres
from .support.lab import submit_images

pytestmark = pytest.mark.slow

POLICY = RetryPolicy(max_retries=2, max_losses=2, backoff=0.0)
LEASE = 3600.0


@dataclass
class Hand:
    """A worker that has a message. While alive it will settle it; once lost it may still report much later."""

    consumer: TableConsumer
    delivery: Delivery
    task: TaskNew


class Histories(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.engine = open_engine(self.url)
        self.broker = TableBroker(self.engine, lease=LEASE, poll=0.0, low_share=0.2)
        self.hands: list[Hand] = []
        self.lost: list[TaskNew] = []
        self.reports: list[Message] = []
        self.final: dict[UUID, tuple[str, int]] = {}

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _empty(self) -> None:
        if self.url.startswith("postgresql"):
            async with self.engine.begin() as conn:
                await conn.run_sync(metadata.drop_all)
        await create_tables(self.engine)

    @initialize()
    def begin(self) -> None:
        self.do(self._empty())

    @rule(count=st.integers(1, 3), user=st.sampled_from(["ada", "grace"]))
    def submit(self, count: int, user: str) -> None:
        self.do(submit_images(self.engine, count, user=user, tier="premium" if user == "grace" else "regular"))

    @rule()
    def take(self) -> None:
        async def taking() -> None:
            consumer = self.broker.consumer(Queue.TASKS, prefetch=1)
            for delivery in await consumer.take(1, 0.0):
                task = decode_task(delivery.message)
                if delivery.redelivered:
                    await self._report(self._failed(task, "lost"))
                    await consumer.reject([delivery])
                else:
                    await self._report(TaskStarted(**self._about(task), at=datetime.now(UTC)))
                    self.hands.append(Hand(consumer, delivery, task))

        self.do(taking())

    def _about(self, task: TaskNew) -> dict[str, Any]:
        return {"task_id": task.task_id, "attempt": task.attempt, "worker": "w"}

    def _failed(self, task: TaskNew, cause: str, *, retryable: bool = True) -> TaskFailed:
        return TaskFailed.model_validate(
            {
                **self._about(task),
                "at": datetime.now(UTC),
                "cause": cause,
                "reason": "crashed",
                "error": "it broke",
                "retryable": retryable,
            }
        )

    def _completed(self, task: TaskNew) -> TaskCompleted:
        now = datetime.now(UTC)
        return TaskCompleted(**self._about(task), at=now, started_at=now, result={"attempt": task.attempt})

    async def _report(self, report: TaskStarted | TaskCompleted | TaskFailed) -> None:
        message = report.message()
        self.reports.append(message)
        await self.broker.publish([message])

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), ending=st.sampled_from(["completed", "failed", "corrupt", "handed_back"]))
    def finish(self, data: st.DataObject, ending: str) -> None:
        hand = self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))

        async def finishing() -> None:
            if ending == "completed":
                await self._report(self._completed(hand.task))
                await hand.consumer.ack([hand.delivery])
            elif ending == "handed_back":
                await self._report(self._failed(hand.task, "handed_back"))
                await hand.consumer.ack([hand.delivery])
            else:
                await self._report(self._failed(hand.task, "failed", retryable=ending == "failed"))
                await hand.consumer.reject([hand.delivery])

        self.do(finishing())

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), reported=st.booleans())
    def lose(self, data: st.DataObject, reported: bool) -> None:
        """A worker vanishes before it settles its message, and before or after it reports."""
        hand = self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))

        async def losing() -> None:
            if reported:
                await self._report(self._completed(hand.task))
            await hand.consumer.release_all()

        self.do(losing())
        self.lost.append(hand.task)

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), well=st.booleans())
    def report_late(self, data: st.DataObject, well: bool) -> None:
        """A worker that was thought lost was only frozen, and reports."""
        task = data.draw(st.sampled_from(self.lost))
        self.do(self._report(self._completed(task) if well else self._failed(task, "failed")))

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def report_twice(self, data: st.DataObject) -> None:
        self.do(self.broker.publish([data.draw(st.sampled_from(self.reports))]))

    @rule()
    def collect(self) -> None:
        self.do(self._collect())

    async def _collect(self) -> None:
        for queue in (Queue.RESULTS, Queue.DEAD_LETTERS):
            consumer = self.broker.consumer(queue, prefetch=100)
            deliveries = await consumer.take(100, 0.0)
            async with self.engine.begin() as conn:
                if queue == Queue.RESULTS:
                    reports = [decode_report(delivery.message) for delivery in deliveries]
                    await apply_reports(conn, reports, POLICY)
                else:
                    for delivery in deliveries:
                        await apply_dead_letter(conn, delivery.message, POLICY)
            await consumer.ack(deliveries)

    @rule(data=st.data(), again=st.booleans())
    def decide(self, data: st.DataObject, again: bool) -> None:
        """A person cancels or retries a task."""

        async def deciding() -> None:
            async with self.engine.begin() as conn:
                tasks = list(await conn.execute(select(t.c.id).order_by(t.c.id)))
                if not tasks:
                    return
                chosen = data.draw(st.sampled_from([row.id for row in tasks]))
                changed = await (retry if again else cancel)(conn, [chosen])
            if again:
                for task_id in changed:
                    self.final.pop(task_id, None)

        self.do(deciding())

    @rule()
    def purge(self) -> None:
        """An operator empties `segmentation.tasks` by hand."""

        async def purging() -> None:
            async with self.engine.begin() as conn:
                await conn.execute(text("DELETE FROM segmentation_queue WHERE queue = 'segmentation.tasks'"))

        self.do(purging())

    @rule()
    def sweep(self) -> None:
        self.do(sweep(self.engine, POLICY))

    @invariant()
    def promises_hold(self) -> None:
        async def checking() -> None:
            r, f = segmentation_results, segmentation_failures
            async with reading(self.engine) as conn:
                tasks = list(await conn.execute(select(t)))
                applied = list(await conn.execute(select(r.c.task_id, r.c.attempt).where(~r.c.superseded)))
                results = dict(applied)
                assert len(results) == len(applied), "one result row, never two"
                attempts = list(
                    await conn.execute(
                        select(f.c.task_id, f.c.attempt).where(~f.c.superseded, f.c.cause.in_(["failed", "lost"]))
                    )
                )
                assert len(set(attempts)) == len(attempts), "an attempt fails once"
                recorded = await conn.execute(
                    select(f.c.task_id, f.c.cause, func.count())
                    .where(~f.c.superseded)
                    .group_by(f.c.task_id, f.c.cause)
                )
                failures = {(task_id, cause): count for task_id, cause, count in recorded}
            for task in tasks:
                expected = task.attempt if task.state == TaskState.COMPLETED else None
                assert results.get(task.id) == expected, "the result is that of the current attempt, if completed"
                assert task.retry_count <= POLICY.max_retries
                assert task.lost_count <= POLICY.max_losses
                if task.state == TaskState.FAILED:
                    assert task.reason, "a failed task says why"
                if task.id in self.final:
                    assert self.final[task.id] == (task.state, task.attempt), "a finished task never changes"
                if task.state in FINISHED:
                    assert task.finished_at is not None
                    self.final[task.id] = (task.state, task.attempt)
                spent = failures.get((task.id, "failed"), 0) + failures.get((task.id, "lost"), 0)
                assert spent >= task.retry_count + task.lost_count, "no retry without a failure row"

        self.do(checking())

    def teardown(self) -> None:
        async def ending() -> None:
            # From here on nothing fails, so every task must reach a final state.
            for hand in self.hands:
                await hand.consumer.release_all()
            for _ in range(200):
                await sweep(self.engine, POLICY)
                consumer = self.broker.consumer(Queue.TASKS, prefetch=1)
                for delivery in await consumer.take(1, 0.0):
                    task = decode_task(delivery.message)
                    await self._report(self._failed(task, "lost") if delivery.redelivered else self._completed(task))
                    await consumer.ack([delivery])
                await self._collect()
                async with reading(self.engine) as conn:
                    left = (
                        await conn.execute(select(func.count()).where(t.c.state.in_(["queued", "processing"])))
                    ).scalar_one()
                    waiting = (await conn.execute(select(func.count()).select_from(segmentation_queue))).scalar_one()
                if not left and not waiting:
                    break
            assert left == 0, "every task ends"
            assert waiting == 0, "every queue is empty at the end"

        try:
            self.do(ending())
            self.promises_hold()
        finally:
            self.do(self.engine.dispose())
            self.loop.close()


def run_histories(machine: type[Histories], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            # For a long run: HISTORIES=1000 make test
            max_examples=examples * int(os.environ.get("HISTORIES", "1")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_invariants_hold_in_every_history_on_sqlite() -> None:
    class Machine(Histories):
        def __init__(self) -> None:
            # One file per history, because that is cheaper than emptying one.
            self.folder = TemporaryDirectory()
            self.url = f"sqlite:///{Path(self.folder.name) / 'test.db'}"
            super().__init__()

        def teardown(self) -> None:
            super().teardown()
            self.folder.cleanup()

    run_histories(Machine, examples=40)


def test_the_invariants_hold_in_every_history_on_postgres(postgres: Postgres) -> None:
    class Machine(Histories):
        url = postgres.url

    run_histories(Machine, examples=10)
