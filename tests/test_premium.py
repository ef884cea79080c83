"""Priorities: premium tasks overtake regular tasks that no worker holds, and regular tasks still get their share."""

from pathlib import Path

import pytest

from .conftest import Postgres, eventually
from .support.lab import submit_images
from .support.processes import open_site

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("server", "queue_type"), [("rabbit_3", "classic"), ("rabbit_4", "quorum")])
async def test_premium_overtakes_all_unclaimed_tasks_and_regular_still_gets_its_share(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: str,
    queue_type: str,
) -> None:
    async with open_site(request.getfixturevalue(server), postgres.url, tmp_path) as site:
        site.start("relay", "collect", RABBITMQ_QUEUE_TYPE=queue_type)
        slow = await submit_images(site.engine, 40, seconds=0.3)
        fast = await submit_images(site.engine, 960, seconds=0.01)
        regular = {*slow.task_ids, *fast.task_ids}

        async def is_filled() -> bool:
            return await site.at_rabbitmq() == 64

        await eventually(is_filled, within=60)
        site.start("worker-1", "worker-2", RABBITMQ_QUEUE_TYPE=queue_type)
        await eventually(lambda: site.has_completed(4), within=60)
        (premium,) = (await submit_images(site.engine, 1, user="grace", tier="premium")).task_ids
        await site.completed([premium], within=60)
        tasks = await site.tasks()
        asked, begun = tasks[premium].created_at, tasks[premium].started_at
        before = sum(1 for id_ in regular if (at := tasks[id_].started_at) and asked < at < begun)
        waiting = sum(1 for id_ in regular if not (at := tasks[id_].started_at) or at > begun)

        many = set((await submit_images(site.engine, 300, user="grace", tier="premium", seconds=0.05)).task_ids)
        await site.all_completed(within=150)
        tasks = await site.tasks()
        order = sorted(tasks.values(), key=lambda task: task.started_at)
        places = [place for place, task in enumerate(order) if task.id in many]
        # Without the regular tasks that were at RabbitMQ before the first of these premium tasks.
        while_coming = [task.id in regular for task in order[places[50] : places[270]]]
        share = sum(while_coming) / len(while_coming)
        with capsys.disabled():
            print(f"\n    {waiting} regular tasks overtaken by a premium task, {before} started before it meanwhile;")
            print(f"    {share:.0%} of the tasks started while premium tasks kept coming were regular")
        assert waiting > 900
        # Tasks that slots took before the relay saw it. Behind all tasks at RabbitMQ it would have been some 60.
        assert before <= 30
        assert 0.05 < share < 0.5
        await site.queues_empty()
        await site.stop()
