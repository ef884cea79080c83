"""The specified rollback while tasks are processed, and the upgrade after it, with real processes and psql."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.database.engine import reading
from spheroseg.database.projects import NewImage
from spheroseg.database.revision_010 import set_revision_010
from spheroseg.database.schema import segmentation_failures
from spheroseg.messages import Queue
from spheroseg.run.inputs import find_inputs
from spheroseg.segmentation.model import DEFAULT_MODEL

from .conftest import Postgres, eventually
from .support.lab import read_results, read_task, submit_images
from .support.processes import Site, open_site
from .support.rabbitmq import RabbitNode
from .support.schemas import BACK_SQL, FORWARD_SQL, psql
from .support.stack import EXAMPLE, stack_on, switch

pytestmark = pytest.mark.slow

# A short window, so that tasks wait in the table too, and a long backoff, so that some wait for their retry.
SETTINGS = {"RELAY_WINDOW": "12", "RETRY_BACKOFF_SECONDS": "12"}
OFF = {**SETTINGS, "ENABLE_MESSAGE_QUEUE": "false"}


@pytest.fixture
async def site(restored_rabbit: RabbitNode, postgres: Postgres, tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(restored_rabbit, postgres.url, tmp_path) as opened:
        yield opened


async def pause_between_transactions(site: Site, name: str) -> None:
    """Stop a process between two transactions. One that is stopped inside a transaction would keep its locks."""
    while True:
        site.services[name].signal(signal.SIGSTOP)
        async with site.engine.connect() as conn:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()"
            await asyncio.sleep(0.05)
            if not (await conn.execute(text(f"{busy} AND pid <> pg_backend_pid()"))).scalar_one():
                return
        site.services[name].signal(signal.SIGCONT)
        await asyncio.sleep(0.1)


async def unread(site: Site) -> int:
    return (await site.depths())[Queue.RESULTS]


async def all_failures(site: Site) -> list[Any]:
    async with reading(site.engine) as conn:
        return [tuple(row) for row in await conn.execute(select(segmentation_failures).order_by("id"))]


async def every_task_ended_once(site: Site, expected: dict[str, int]) -> None:
    await site.all_ended(within=90)
    tasks = await site.tasks()
    assert Counter(task.state for task in tasks.values()) == expected, site.tails()
    applied = [result.task_id for result in await site.results() if not result.superseded]
    assert sorted(applied) == sorted(task.id for task in tasks.values() if task.state == "completed")


async def test_rolled_back_in_the_middle_of_its_work_it_ends_every_task_and_forward_again_goes_on(
    site: Site,
) -> None:
    site.start("relay", "collect", "worker-1", "worker-2", port=None, **SETTINGS)
    await submit_images(site.engine, 3, do="fail")
    retried = (await submit_images(site.engine, 6, failures=1)).task_ids
    await submit_images(site.engine, 50, seconds=0.4)

    async def is_in_full_swing() -> bool:
        return len(await site.failures()) == 9 and await site.count("processing") >= 2

    await eventually(is_in_full_swing, 60, site.tails())
    await pause_between_transactions(site, "collect")
    await eventually(lambda: _at_least(site, 6), 30)

    # 1. Stop consumers. They finish their tasks, and nobody has read their reports.
    await site.stop("worker-1", "worker-2")
    # 2. ENABLE_MESSAGE_QUEUE=false takes effect at the restart.
    # 3. Rollback database while the relay and collect go on running.
    waiting, running = await site.count("queued"), await site.count("processing")
    assert await site.at_rabbitmq() > 0
    assert running > 0
    failures = await all_failures(site)
    standing = {task.id: (task.state, task.attempt) for task in (await site.tasks()).values()}
    assert "revision 009 now" in await psql(site.database_url, BACK_SQL)
    set_revision_010(site.engine, False)
    site.services["collect"].signal(signal.SIGCONT)
    await site.wait_for_event("collect", "collect waits for the database")
    assert "not at the revision at which this process found them: restart it" in site.services["collect"].tail()
    assert {task.id: (task.state, task.attempt) for task in (await site.tasks()).values()} == standing
    set_revision_010(site.engine, True)
    with pytest.raises(SQLAlchemyError):
        await submit_images(site.engine, 5)
    set_revision_010(site.engine, False)
    assert len(await site.tasks()) == 59, "refused whole"
    assert (await site.count("queued"), await site.count("processing")) == (waiting, running)

    # 4. Restart services. RabbitMQ is stopped.
    await site.stop("relay", "collect")
    assert await unread(site) >= 6
    await asyncio.to_thread(site.node.stop)
    site.start("collect", "worker-1", port=None, **OFF)
    await site.wait_for_event("collect", "the message queue is switched off: messages at RabbitMQ are queued again")
    await submit_images(site.engine, 4, failures=1)
    await every_task_ended_once(site, {"completed": 60, "failed": 3})
    tasks = await site.tasks()
    assert all(tasks[task_id].attempt == 2 for task_id in retried)
    assert Counter(task.retry_count for task in tasks.values()) == {0: 53, 1: 10}
    assert not any(task.lost_count for task in tasks.values()), "nobody was lost, no try was burnt"

    # Upgrade again, while workers take tasks from the database.
    slow = await submit_images(site.engine, 12, seconds=0.4)
    await eventually(lambda: _is_running(site), 30)
    heard = {name: len(service.events()) for name, service in site.services.items()}
    assert "revision 010 now" in await psql(site.database_url, FORWARD_SQL)
    await every_task_ended_once(site, {"completed": 72, "failed": 3})
    for name, service in site.services.items():
        assert all(line["level"] == "info" for line in service.events()[heard[name] :]), site.tails()
    set_revision_010(site.engine, True)
    assert [failure for failure in await all_failures(site) if failure in failures] == failures
    await site.stop("collect", "worker-1")
    await asyncio.to_thread(site.node.start)
    site.start("relay", "collect", "worker-1", "worker-2", port=None, **SETTINGS)
    again = await submit_images(site.engine, 20, failures=1)
    await every_task_ended_once(site, {"completed": 92, "failed": 3})
    await site.queues_empty()
    await every_task_ended_once(site, {"completed": 92, "failed": 3})
    tasks = await site.tasks()
    assert all(tasks[task_id].retry_count == 1 for task_id in [*retried, *again.task_ids])
    assert slow.task_ids[0] in tasks
    assert len(await site.failures()) > len(failures)
    await site.stop()


async def test_the_services_of_the_compose_files_are_rolled_back_by_the_manual_and_the_backend_alone_ends_it(
    postgres: Postgres, shipped_rabbit: RabbitNode, tmp_path: Path
) -> None:
    (item,) = find_inputs([EXAMPLE]).inputs
    images = [NewImage(f"{number}.png", item.storage_key, item.sha256) for number in range(14)]
    async with stack_on(postgres, shipped_rabbit, tmp_path) as stack:
        backend = stack.start("backend", message_queue=True)
        ml = stack.start("ml", message_queue=True)
        await backend.becomes_healthy()
        await ml.becomes_healthy()
        submitted = await submit_images(stack.engine, images, model=DEFAULT_MODEL)

        async def states() -> Counter[str]:
            return Counter([(await read_task(stack.engine, task_id)).state for task_id in submitted.task_ids])

        async def is_begun() -> bool:
            return (await states())["completed"] >= 2

        await eventually(is_begun, 60, ml.tail())
        await ml.stop()
        assert (await states())["queued"] > 0
        switch(backend, False)
        await psql(postgres.url, BACK_SQL)
        set_revision_010(stack.engine, False)
        await backend.stop()
        backend.start()

        async def is_ended() -> bool:
            return await states() == {"completed": 14}

        await eventually(is_ended, 90, backend.tail())
        for task_id in submitted.task_ids:
            assert [result.superseded for result in await read_results(stack.engine, task_id)] == [False]
        await backend.becomes_healthy()
        await backend.stop()


async def _at_least(site: Site, count: int) -> bool:
    return await unread(site) >= count


async def _is_running(site: Site) -> bool:
    return await site.count("processing") > 0
