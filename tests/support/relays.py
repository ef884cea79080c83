"""Relay, worker and collect on a database and a RabbitMQ node, for tests of the path between them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Broker
from spheroseg.broker.fallback import FallbackBroker
from spheroseg.broker.rabbit import RabbitBroker
from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import reading
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.schema import segmentation_queue, segmentation_tasks
from spheroseg.messages import Queue
from spheroseg.queueing.collect import collect
from spheroseg.queueing.relay import Relay, RelayOptions
from spheroseg.tasks import RetryPolicy
from spheroseg.worker.loop import WorkerOptions, work

from ..conftest import eventually
from .lab import read_results
from .rabbitmq import RabbitNode

COMMAND = [sys.executable, "-m", "tests.support.children"]
POLICY = RetryPolicy(max_retries=1, max_losses=3, backoff=0.05, silence=20.0)
# lost_after: on a busy machine it takes a worker a second to report that it has started.
QUICK = RelayOptions(poll=0.05, give_up_after=2.0, lost_after=3.0, backoff_max=0.5)


@dataclass
class Lab:
    """A database, a virtual host, and the services that a test runs on them in its own process."""

    engine: AsyncEngine
    node: RabbitNode
    vhost: str

    def rabbit(self) -> RabbitBroker:
        return RabbitBroker(self.node.vhost_url(self.vhost), timeout=1.0, heartbeat=5)

    @asynccontextmanager
    async def relay(self, options: RelayOptions = QUICK) -> AsyncIterator[Relay]:
        rabbit = self.rabbit()
        relay = Relay(self.engine, rabbit, options)
        async with running(relay.run()):
            yield relay
        await rabbit.close()

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[None]:
        rabbit = self.rabbit()
        brokers: list[Broker] = [TableBroker(self.engine, poll=0.05), rabbit]
        async with running(collect(self.engine, brokers, POLICY, sweep_seconds=0.5)):
            yield
        await rabbit.close()

    @asynccontextmanager
    async def working(
        self, *, with_database: bool = True, slots: int = 1, deadline: float = 30.0, **options: Any
    ) -> AsyncIterator[asyncio.Event]:
        rabbit = self.rabbit()
        table = TableBroker(self.engine, poll=0.05, lease=5.0)
        broker: Broker = FallbackBroker(rabbit, table, take_after_seconds=1.0) if with_database else rabbit
        stopping = asyncio.Event()
        worker = WorkerOptions("test", COMMAND, slots=slots, deadline=deadline, **options)
        async with running(work(broker, worker, stopping)):
            yield stopping
        await rabbit.close()

    @asynccontextmanager
    async def everything(self, **worker: Any) -> AsyncIterator[Relay]:
        async with self.collecting(), self.working(**worker), self.relay() as relay:
            yield relay

    async def states(self) -> dict[UUID, str]:
        async with reading(self.engine) as conn:
            rows = await conn.execute(select(segmentation_tasks.c.id, segmentation_tasks.c.state))
            return {row.id: row.state for row in rows}

    async def all_completed(self, task_ids: Sequence[UUID], within: float = 30.0) -> None:
        async def done() -> bool:
            states = await self.states()
            return all(states[task_id] == "completed" for task_id in task_ids)

        await eventually(done, within, "the tasks did not complete")
        for task_id in task_ids:
            applied = [result for result in await read_results(self.engine, task_id) if not result.superseded]
            assert len(applied) == 1

    async def at_rabbitmq(self) -> int:
        async with reading(self.engine) as conn:
            rows = await conn.execute(select(segmentation_queue).where(segmentation_queue.c.holder == AT_RABBITMQ))
            return len(rows.all())

    async def row_count(self) -> int:
        async with reading(self.engine) as conn:
            return len((await conn.execute(select(segmentation_queue.c.id))).all())

    def policy(self, queue: Queue, **definition: Any) -> None:
        body = {"pattern": f"^{queue}$", "definition": definition, "apply-to": "queues"}
        self.node.api("PUT", f"/api/policies/{self.vhost}/{queue}", body)

    async def declared(self) -> None:
        """Declare the topology, by connecting once."""
        rabbit = self.rabbit()
        await rabbit.depth(Queue.TASKS)
        await rabbit.close()


@asynccontextmanager
async def running(service: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(service)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
