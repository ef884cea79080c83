"""The real processes of the message-driven path, on a database and a broker that belong to one test."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import open_engine, reading
from spheroseg.database.queue import AT_RABBITMQ
from spheroseg.database.revision_010 import readable_task_columns
from spheroseg.database.revisions import create_tables
from spheroseg.database.schema import (
    segmentation_failures,
    segmentation_queue,
    segmentation_results,
    segmentation_tasks,
)
from spheroseg.messages import Queue

from ..conftest import eventually, new_database
from .rabbitmq import RabbitNode

ROOT = Path(__file__).parents[2]
UNFINISHED = {"queued", "processing"}
# Services that are not started as `spheroseg NAME`.
MODULES = {
    "worker": ["tests.support.worker_process"],
    "worker-http": ["spheroseg.cli", "worker-http"],
    "exporter": ["tests.support.exporter_process"],
}


class Service:
    """One process that a test may kill, pause and start again. All its runs write to one log file."""

    def __init__(self, name: str, module: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        # If the tests are killed, the kernel kills the process too.
        self._command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *module]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended by itself:\n{self.tail()}"
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def stop(self, within: float = 60.0) -> None:
        """Stop the process gracefully with SIGTERM, and check that it ends with exit code 0."""
        self.signal(signal.SIGTERM)
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None, within, f"{self.name} does not stop")
        assert process.returncode == 0, f"{self.name} ended with {process.returncode}:\n{self.tail()}"

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the log, in order. The children of a worker, which may be killed, share its log."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        odd = [line for line in lines if not line.startswith("{")]
        is_child = self.name.startswith("worker") and "tests/support/children.py" in "".join(odd)
        assert not odd or is_child, f"{self.name} printed lines that are not events:\n" + "\n".join(odd[:60])
        return [json.loads(line) for line in lines if line.startswith("{")]

    def has_logged(self, event: str, **facts: Any) -> bool:
        return any(
            line["event"] == event and all(line.get(name) == value for name, value in facts.items())
            for line in self.events()
        )

    def tail(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""


class Site:
    """A database, a virtual host, and the processes that use them."""

    def __init__(self, engine: AsyncEngine, database_url: str, node: RabbitNode, vhost: str, folder: Path) -> None:
        self.engine = engine
        self.node = node
        self.vhost = vhost
        self.folder = folder
        self.services: dict[str, Service] = {}
        self.database_url = database_url

    def start(self, *names: str, port: int | None = None, **settings: str) -> None:
        """Start services by name: relay, collect, worker-1 …

        port: of a proxy in front of the broker. settings: more environment variables.
        """
        for name in names:
            # A name such as worker-2 starts another worker.
            module = MODULES.get(name) or MODULES.get(name.split("-")[0]) or ["spheroseg.cli", name]
            environment = {
                "PATH": os.environ["PATH"],
                # The code beside these tests, not another installed copy.
                "PYTHONPATH": str(ROOT / "src"),
                # `leftovers` recognises our processes and their children by this folder.
                "SPHEROSEG_DATA_DIR": str(self.folder),
                "ENABLE_MESSAGE_QUEUE": "true",
                "RABBITMQ_URL": self.node.vhost_url(self.vhost, port),
                "DATABASE_URL": self.database_url,
                "BROKER_AWAY_SECONDS": "4",
                "LEASE_SECONDS": "5",
                "RETRY_BACKOFF_SECONDS": "0.2",
                "TASK_TIMEOUT_SECONDS": "30",
                "WORKER_CONCURRENCY": "2",
                **settings,
            }
            service = Service(name, module, environment, self.folder / f"{name}.log")
            self.services[name] = service
            service.start()

    async def stop(self, *names: str) -> None:
        """Stop the services gracefully. Without names, stop all and check that no process of theirs is left."""
        await asyncio.gather(*(self.services.pop(name).stop() for name in names or list(self.services)))
        if not names:
            assert not self.leftovers()

    def kill(self) -> None:
        for service in self.services.values():
            service.kill()

    def leftovers(self) -> list[str]:
        """Return the command lines of the living processes that were started here, directly or indirectly."""
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.folder).encode() in (process / "environ").read_bytes():
                    commands.append((process / "cmdline").read_text().replace("\0", " "))
        return commands

    async def tasks(self) -> dict[UUID, Any]:
        async with reading(self.engine) as conn:
            return {row.id: row for row in await conn.execute(select(*readable_task_columns(conn)))}

    async def results(self) -> list[Any]:
        r = segmentation_results.c
        async with reading(self.engine) as conn:
            return list(await conn.execute(select(r.task_id, r.attempt, r.superseded)))

    async def failures(self) -> list[Any]:
        f = segmentation_failures.c
        async with reading(self.engine) as conn:
            return list(await conn.execute(select(f.task_id, f.cause, f.reason, f.superseded)))

    async def count(self, state: str) -> int:
        t = segmentation_tasks.c
        async with reading(self.engine) as conn:
            return int((await conn.execute(select(func.count()).where(t.state == state))).scalar_one())

    async def at_rabbitmq(self) -> int:
        q = segmentation_queue.c
        async with reading(self.engine) as conn:
            return int((await conn.execute(select(func.count()).where(q.holder == AT_RABBITMQ))).scalar_one())

    async def is_at_rabbitmq(self) -> bool:
        return await self.at_rabbitmq() > 0

    async def has_completed(self, count: int) -> bool:
        return await self.count("completed") >= count

    async def completed(self, task_ids: Sequence[UUID], within: float) -> None:
        """Wait until these tasks are completed, whatever happens to others."""

        async def are_completed() -> bool:
            tasks = await self.tasks()
            return all(tasks[task_id].state == "completed" for task_id in task_ids)

        try:
            await eventually(are_completed, within)
        except AssertionError:
            raise AssertionError(f"not completed within {within} s\n{self.tails()}") from None

    async def all_ended(self, within: float) -> None:
        async def have_ended() -> bool:
            return await self.count("queued") + await self.count("processing") == 0

        try:
            await eventually(have_ended, within)
        except AssertionError:
            unfinished = [task for task in (await self.tasks()).values() if task.state in UNFINISHED]
            raise AssertionError(
                f"{len(unfinished)} tasks have not ended, such as {unfinished[:3]}\n{self.tails()}"
            ) from None

    async def all_completed(self, within: float = 60.0) -> None:
        """Wait until all tasks have ended, and check that each is completed with one result and without a retry."""
        await self.all_ended(within)
        tasks = (await self.tasks()).values()
        odd = [task for task in tasks if (task.state, task.retry_count) != ("completed", 0)]
        assert not odd, f"{len(odd)} of {len(tasks)} did not simply complete, such as {odd[:3]}"
        applied = [result.task_id for result in await self.results() if not result.superseded]
        assert sorted(applied) == sorted(task.id for task in tasks)

    async def queues_empty(self, within: float = 90.0) -> None:
        """Wait until the queues in the table and at RabbitMQ hold no message, not even an unacknowledged one."""

        async def are_empty() -> bool:
            return not any((await self.depths()).values())

        try:
            await eventually(are_empty, within)
        except AssertionError:
            raise AssertionError(f"left in the queues: {await self.depths()}\n{self.tails()}") from None

    async def depths(self) -> dict[str, int]:
        async with reading(self.engine) as conn:
            rows = (await conn.execute(select(func.count()).select_from(segmentation_queue))).scalar_one()
        queues = await asyncio.to_thread(self.node.api, "GET", f"/api/queues/{self.vhost}")
        depths = {queue["name"]: queue.get("messages", 1) for queue in queues if queue["name"] in set(Queue)}
        return {"table": rows, **depths}

    def tails(self) -> str:
        return "\n".join(f"--- {service.name}\n{service.tail()}" for service in self.services.values())

    async def wait_for_event(self, name: str, event: str, within: float = 30.0, **facts: Any) -> None:
        """Wait until the log of the service `name` has the event with these facts."""
        service = self.services[name]
        try:
            await eventually(lambda: service.has_logged(event, **facts), within)
        except AssertionError:
            raise AssertionError(f"{name} has not logged {event!r} {facts}:\n{service.tail()}") from None

    def policy(self, queue: Queue, **definition: Any) -> None:
        body = {"pattern": f"^{queue}$", "definition": definition, "apply-to": "queues"}
        self.node.api("PUT", f"/api/policies/{self.vhost}/{queue}", body)


@asynccontextmanager
async def open_site(node: RabbitNode, server_url: str, folder: Path) -> AsyncIterator[Site]:
    """Yield an empty site. At the end, kill all of its processes."""
    async with new_database(server_url) as database_url:
        engine = open_engine(database_url)
        try:
            await create_tables(engine)
            with node.fresh_vhost() as vhost:
                site = Site(engine, database_url, node, vhost, folder)
                try:
                    yield site
                finally:
                    site.kill()
        finally:
            await engine.dispose()
