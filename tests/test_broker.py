"""The behaviour of every broker: one suite, which each implementation must pass."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker import Broker, Delivery
from spheroseg.broker.rabbit import RabbitBroker
from spheroseg.broker.table import TableBroker
from spheroseg.database import queue
from spheroseg.database.engine import reading
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message, Queue, QueueType

from .conftest import Postgres, empty_database, eventually, execute
from .support.rabbitmq import RabbitNode

LEASE = 1.5


@pytest.fixture(
    params=["table-sqlite", "table-postgres", "rabbitmq-3.10", "rabbitmq-4.0", "rabbitmq-4.0-quorum"],
)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    kind, _, variant = request.param.partition("-")
    if kind == "rabbitmq":
        node: RabbitNode = request.getfixturevalue("rabbit_3" if variant == "3.10" else "rabbit_4")
        with node.fresh_vhost() as vhost:
            queue_type = QueueType.QUORUM if variant.endswith("quorum") else QueueType.CLASSIC
            rabbit = RabbitBroker(node.vhost_url(vhost), queue_type=queue_type)
            yield rabbit
            await rabbit.close()
        return
    postgres: Postgres | None = request.getfixturevalue("postgres") if variant == "postgres" else None
    async with empty_database(postgres.url if postgres else f"sqlite:///{tmp_path / 'test.db'}") as engine:
        yield TableBroker(engine, lease=LEASE, poll=0.05, low_share=0.0)


def message(name: str = "m", **facts: object) -> Message:
    return Message(id=name, routing_key="task.new", body=name.encode(), **facts)  # type: ignore[arg-type]


def names(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message.body.decode() for delivery in deliveries]


async def drain(broker: Broker, name: Queue = Queue.TASKS, wait: float = 0.3) -> list[str]:
    """Take everything in the queue, one message at a time. Return the names in the order of delivery."""
    drained = []
    async with broker.consume(name, prefetch=1) as consumer:
        while deliveries := await consumer.take(1, wait):
            drained += names(deliveries)
            await consumer.ack(deliveries)
    return drained


async def test_a_message_arrives_as_it_was_published(broker: Broker) -> None:
    sent = Message(
        id="one",
        routing_key="task.new",
        body=b"\x00 body \xff",
        priority=7,
        task_id=uuid.uuid4(),
        user_id=uuid.uuid4(),
        headers={"x-note": "kept"},
    )
    await broker.publish([sent])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        (delivery,) = await consumer.take(1, 5)
        assert delivery.message == sent
        assert not delivery.redelivered


async def test_an_acknowledged_message_is_gone(broker: Broker) -> None:
    await broker.publish([message()])
    assert await drain(broker) == ["m"]
    assert await broker.depth(Queue.TASKS) == 0
    assert await drain(broker) == []


@pytest.mark.parametrize(
    ("routing_key", "queue_name"),
    [
        ("task.new", Queue.TASKS),
        ("task.started", Queue.RESULTS),
        ("task.completed", Queue.RESULTS),
        ("task.failed", Queue.RESULTS),
    ],
)
async def test_the_routing_key_chooses_the_queue(broker: Broker, routing_key: str, queue_name: Queue) -> None:
    await broker.publish([Message(id="r", routing_key=routing_key, body=b"r")])
    assert {name: await broker.depth(name) for name in Queue} == {name: int(name == queue_name) for name in Queue}
    assert await drain(broker, queue_name) == ["r"]


async def test_a_consumer_holds_no_more_than_the_prefetch(broker: Broker) -> None:
    await broker.publish([message(str(n)) for n in range(5)])
    async with broker.consume(Queue.TASKS, prefetch=2) as consumer:
        first = await consumer.take(10, 5)
        assert len(first) == 2
        assert await consumer.take(10, 0.3) == []
        await consumer.ack(first[:1])
        assert len(await consumer.take(10, 5)) == 1


async def test_a_higher_priority_overtakes_waiting_messages(broker: Broker) -> None:
    await broker.publish([message(f"regular-{n}", priority=1) for n in range(20)])
    await broker.publish([message("premium", priority=10)])
    assert (await drain(broker))[0] == "premium"


async def test_messages_of_equal_priority_come_in_the_order_of_publishing(broker: Broker) -> None:
    sent = [f"m{n}" for n in range(20)]
    for name in sent:
        await broker.publish([message(name, priority=1)])
    assert await drain(broker) == sent


async def test_two_consumers_never_have_the_same_message(broker: Broker) -> None:
    await broker.publish([message(str(n)) for n in range(60)])

    async def consume() -> list[str]:
        return await drain(broker, wait=0.5)

    taken = await asyncio.gather(*(consume() for _ in range(4)))
    assert sorted(name for names_ in taken for name in names_) == sorted(str(n) for n in range(60))


async def test_a_waiting_consumer_gets_a_new_message_at_once(broker: Broker) -> None:
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        taking = asyncio.create_task(consumer.take(1, 10))
        await asyncio.sleep(0.2)
        await broker.publish([message("late")])
        async with asyncio.timeout(3):
            assert names(await taking) == ["late"]


async def test_a_take_that_finds_nothing_ends_in_time(broker: Broker) -> None:
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        async with asyncio.timeout(3):
            assert await consumer.take(1, 0.2) == []


async def test_an_unsettled_message_is_delivered_again_and_marked_redelivered(broker: Broker) -> None:
    await broker.publish([message()])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        assert not (await consumer.take(1, 5))[0].redelivered
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        (again,) = await consumer.take(1, 5)
        assert again.redelivered
        assert again.message.body == b"m"


async def test_a_rejected_message_becomes_a_dead_letter_with_the_reason(broker: Broker) -> None:
    await broker.publish([message("bad", task_id=uuid.uuid4())])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        await consumer.reject(await consumer.take(1, 5))
    assert await broker.depth(Queue.TASKS) == 0
    async with broker.consume(Queue.DEAD_LETTERS, prefetch=1) as consumer:
        (dead,) = await consumer.take(1, 5)
        assert dead.message.body == b"bad"
        assert dead.message.id == "bad"
        death = dead.message.headers["x-death"][0]
        assert (death["reason"], death["queue"]) == ("rejected", "segmentation.tasks")
        await consumer.ack([dead])
    assert await broker.depth(Queue.DEAD_LETTERS) == 0


@pytest.mark.parametrize("reject", [False, True], ids=["acked", "rejected"])
async def test_report_and_settle_publishes_the_report_and_settles_the_message(broker: Broker, reject: bool) -> None:
    await broker.publish([message("done", task_id=uuid.uuid4())])
    report = Message(id="r", routing_key="task.failed", body=b"r")
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        (delivery,) = await consumer.take(1, 5)
        await consumer.report_and_settle(delivery, report, reject=reject)
    assert await drain(broker) == []
    assert await drain(broker, Queue.RESULTS) == ["r"]
    assert await drain(broker, Queue.DEAD_LETTERS, wait=2.0 if reject else 0.3) == ["done"] * reject


async def test_a_delivered_message_does_not_count_as_waiting(broker: Broker) -> None:
    await broker.publish([message("a"), message("b")])
    assert await broker.depth(Queue.TASKS) == 2
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        await consumer.take(1, 5)
        assert await broker.depth(Queue.TASKS) == 1


async def test_a_message_stays_with_its_worker_for_longer_than_a_lease(broker: Broker) -> None:
    await broker.publish([message("long")])
    async with broker.consume(Queue.TASKS, prefetch=1) as worker:
        (delivery,) = await worker.take(1, 5)
        async with broker.consume(Queue.TASKS, prefetch=1) as rival:
            assert await rival.take(1, 2.5 * LEASE) == []
        assert not delivery.revoked.is_set()
        await worker.ack([delivery])
    assert await broker.depth(Queue.TASKS) == 0


async def test_take_more_exceeds_the_prefetch_in_the_order_of_take(broker: Broker) -> None:
    await broker.publish([message(f"regular-{n}", priority=1) for n in range(3)])
    await broker.publish([message(f"premium-{n}", priority=10) for n in range(2)])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        first = await consumer.take(1, 5)
        others = await consumer.take_more(2, 0.0)
        assert names(first + others) == ["premium-0", "premium-1", "regular-0"]
        assert not any(delivery.redelivered for delivery in others)
        await consumer.ack(others[:1])
        await consumer.reject(others[1:])
        await consumer.ack(first)

        async def is_dead() -> bool:
            return await broker.depth(Queue.DEAD_LETTERS) == 1

        # A quorum queue dead-letters after the rejection has returned.
        await eventually(is_dead)
        assert names(await consumer.take(1, 5)) == ["regular-1"]


async def test_messages_beyond_the_limit_of_take_more_stay_in_the_queue(broker: Broker) -> None:
    await broker.publish([message(str(n)) for n in range(4)])
    async with broker.consume(Queue.TASKS, prefetch=1) as busy:
        first = await busy.take(1, 5)
        others = await busy.take_more(1, 0.0)
        await busy.ack(others)
        assert await broker.depth(Queue.TASKS) == 2, "the busy consumer holds none but the first"
        async with broker.consume(Queue.TASKS, prefetch=1) as idle:
            assert names(await idle.take(1, 5)) == ["2"]
        await busy.ack(first)


async def test_take_more_waits_for_messages_and_ends_in_time(broker: Broker) -> None:
    await broker.publish([message("first")])
    async with broker.consume(Queue.TASKS, prefetch=1) as consumer:
        await consumer.take(1, 5)
        async with asyncio.timeout(3):
            assert await consumer.take_more(3, 0.05) == []
        taking = asyncio.create_task(consumer.take_more(2, 10))
        await broker.publish([message("second"), message("third")])
        async with asyncio.timeout(5):
            assert names(await taking) == ["second", "third"]


async def test_messages_of_take_more_are_leased_and_redelivered_like_those_of_take(broker: Broker) -> None:
    await broker.publish([message(str(n)) for n in range(3)])
    async with broker.consume(Queue.TASKS, prefetch=1) as worker:
        held = await worker.take(1, 5) + await worker.take_more(2, 0.0)
        async with broker.consume(Queue.TASKS, prefetch=1) as rival:
            assert await rival.take(1, 2.5 * LEASE) == []
        assert not any(delivery.revoked.is_set() for delivery in held)
        await worker.ack(held[1:2])
    async with broker.consume(Queue.TASKS, prefetch=1) as worker:
        again = await worker.take(1, 5) + await worker.take_more(2, 0.0)
        assert sorted(names(again)) == ["0", "2"]
        assert all(delivery.redelivered for delivery in again)


class TestTable:
    """The behaviour of the table alone: leases, delays, fairness."""

    @pytest.fixture
    def table(self, engine: AsyncEngine) -> TableBroker:
        return TableBroker(engine, lease=LEASE, poll=0.05, low_share=0.0)

    async def test_a_silent_worker_loses_its_message_to_another(
        self, table: TableBroker, engine: AsyncEngine
    ) -> None:
        await table.publish([message("orphan")])
        # Nobody renews its leases, as if its process was frozen or killed.
        silent = table.consumer(Queue.TASKS, prefetch=1)
        (held,) = await silent.take(1, 5)
        async with table.consume(Queue.TASKS, prefetch=1) as heir:
            (again,) = await heir.take(1, 4 * LEASE)
            assert again.redelivered
            # The first holder wakes up and acknowledges: this must not remove the message of the second.
            await silent.ack([held])
            async with reading(engine) as conn:
                assert await queue.depth(conn, Queue.TASKS, with_claimed=True) == 1
            await heir.ack([again])

    async def test_a_message_whose_report_fails_stays_unsettled(
        self, table: TableBroker, engine: AsyncEngine
    ) -> None:
        await table.publish([message()])
        report = Message(id="r", routing_key="task.completed", body=b"r")
        async with table.consume(Queue.TASKS, prefetch=1) as consumer:
            (delivery,) = await consumer.take(1, 5)
            await execute(engine, "ALTER TABLE segmentation_queue RENAME TO away")
            with pytest.raises(BrokerAway):
                await consumer.report_and_settle(delivery, report, reject=False)
            await execute(engine, "ALTER TABLE away RENAME TO segmentation_queue")
            assert await consumer.take(1, 0) == [], "the prefetch is used up"
            await consumer.report_and_settle(delivery, report, reject=False)
        assert await drain(table) == []
        assert await drain(table, Queue.RESULTS) == ["r"]

    async def test_a_withdrawn_message_is_revoked_at_its_worker(
        self, table: TableBroker, engine: AsyncEngine
    ) -> None:
        task_id = uuid.uuid4()
        await table.publish([message("cancelled", task_id=task_id)])
        async with table.consume(Queue.TASKS, prefetch=1) as consumer:
            (delivery,) = await consumer.take(1, 5)
            async with engine.begin() as conn:
                assert await queue.withdraw(conn, [task_id]) == 1
            await eventually(delivery.revoked.is_set, within=LEASE)

    async def test_a_delayed_message_waits_and_does_not_delay_others(self, table: TableBroker) -> None:
        await table.publish([message("later", delay=0.8, priority=10), message("now", priority=1)])
        async with table.consume(Queue.TASKS, prefetch=2) as consumer:
            assert names(await consumer.take(1, 0.3)) == ["now"]
            assert await consumer.take(1, 0.2) == []
            (later,) = await consumer.take(1, 3)
            assert names([later]) == ["later"]
            assert not later.redelivered

    async def test_users_of_one_priority_take_turns(self, table: TableBroker) -> None:
        many, few = uuid.uuid4(), uuid.uuid4()
        await table.publish([message(f"many-{n}", user_id=many, priority=1) for n in range(50)])
        await table.publish([message(f"few-{n}", user_id=few, priority=1) for n in range(5)])
        order = await drain(table)
        assert [order.index(f"few-{n}") for n in range(5)] == [1, 3, 5, 7, 9]

    async def test_a_later_user_joins_at_the_current_turn(self, table: TableBroker) -> None:
        many, few = uuid.uuid4(), uuid.uuid4()
        await table.publish([message(f"many-{n}", user_id=many, priority=1) for n in range(50)])
        async with table.consume(Queue.TASKS, prefetch=1) as consumer:
            for _ in range(20):
                await consumer.ack(await consumer.take(1, 5))
        await table.publish([message(f"few-{n}", user_id=few, priority=1) for n in range(3)])
        order = await drain(table)
        assert [order.index(f"few-{n}") for n in range(3)] == [1, 3, 5]

    async def test_submitting_one_by_one_gains_no_larger_share(self, table: TableBroker) -> None:
        fair, greedy = uuid.uuid4(), uuid.uuid4()
        await table.publish([message(f"fair-{n}", user_id=fair, priority=1) for n in range(10)])
        for n in range(10):
            await table.publish([message(f"greedy-{n}", user_id=greedy, priority=1)])
        order = await drain(table)
        assert sum(name.startswith("fair") for name in order[:10]) == 5

    async def test_the_lowest_priority_gets_its_share_while_a_higher_one_waits(self, engine: AsyncEngine) -> None:
        table = TableBroker(engine, low_share=0.1)
        await table.publish([message(f"premium-{n}", priority=10) for n in range(200)])
        await table.publish([message(f"regular-{n}", priority=1) for n in range(200)])
        async with table.consume(Queue.TASKS, prefetch=1) as consumer:
            taken = []
            for _ in range(200):
                deliveries = await consumer.take(1, 5)
                taken += names(deliveries)
                await consumer.ack(deliveries)
        served = sum(name.startswith("regular") for name in taken)
        # Binomial(200, 0.1) lies outside of 4 to 45 once in 10^6 runs.
        assert 4 <= served <= 45
        assert taken.index("regular-0") < taken.index("regular-1")

    async def test_ten_thousand_delayed_retries_do_not_hide_a_ready_message(self, table: TableBroker) -> None:
        await table.publish([message(f"later-{n}", delay=3600, priority=10) for n in range(10_000)])
        await table.publish([message("now", priority=1)])
        assert await drain(table, wait=0.2) == ["now"]
