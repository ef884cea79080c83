"""Measures the WebSocket under load: many clients of one backend process, and the delay of their updates.

    python benchmarks/live.py [--clients 1000] [--tasks 500]

The backend is a separate process on PostgreSQL; the clients run in this one. All clients watch one batch, whose tasks
are then completed in one transaction. The delay is from its commit until a client has the final state of all tasks.
"""

import sys
from pathlib import Path

# Python puts the folder of a script first on its path, where queue.py would hide the standard library's module.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

from websockets.asyncio.client import connect

from benchmarks.databases import postgresql
from spheroseg.database.accounts import add_user, create_token
from spheroseg.database.engine import open_engine
from spheroseg.database.projects import add_member
from spheroseg.database.schema import projects
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.tasks import RetryPolicy
from tests.conftest import eventually
from tests.support.lab import submit_images
from tests.support.ports import free_port
from tests.support.watchers import Watcher
from tests.test_collect import completed


@contextmanager
def backend(url: str, port: int) -> Iterator[Popen[bytes]]:
    """Run the backend on a database without workers and collect."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "BACKEND_PORT": str(port),
        "SERVE_WORKERS": "false",
        "SERVE_COLLECT": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        environment["SPHEROSEG_DATA_DIR"] = folder
        process = Popen([sys.executable, "-m", "spheroseg.cli", "serve"], env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


class TimedWatcher(Watcher):
    """A client that records when it had the final state of a batch."""

    finished_at = 0.0

    async def follow(self, batch_id: str) -> None:
        async for text in self.socket:
            self.apply(json.loads(text))
            if self.batches.get(batch_id, {}).get("is_finished") and self.knows(batch_id):
                self.finished_at = time.monotonic()
                return


def usage(process: Popen[bytes]) -> tuple[float, float]:
    """Return the processor time (s) and the memory (MB) of a process."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / ticks, pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(clients: int, tasks: int) -> None:
    # Both ends of every connection are in this process or its child.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    port = free_port()
    with postgresql() as server:
        if server is None:
            sys.exit("PostgreSQL is not installed: make servers")
        url = await server.create("live")
        engine = open_engine(url)
        batch = await submit_images(engine, tasks)
        async with engine.begin() as conn:
            user = await add_user(conn, "watcher")
            await add_member(conn, (await conn.execute(projects.select())).one().id, user.id)
            token, _ = await create_token(conn, user.id, "benchmark")
        with backend(url, port) as process:
            address = f"ws://127.0.0.1:{port}/api/live"
            key = str(batch.batch_id)
            headers = {"Authorization": f"Bearer {token}"}
            await eventually(lambda: _listens(port), within=30)
            idle = usage(process)
            began = time.monotonic()
            watchers = []
            for _ in range(clients):
                socket = await connect(address, additional_headers=headers, max_size=None, open_timeout=60)
                await socket.send(json.dumps({"watch": {"batch_id": key}}))
                watchers.append(TimedWatcher(socket))
            following = [asyncio.create_task(watcher.follow(key)) for watcher in watchers]
            await eventually(lambda: all(watcher.knows(key) for watcher in watchers), within=120)
            connected_seconds = time.monotonic() - began
            before = usage(process)
            async with engine.begin() as conn:
                await apply_reports(conn, [completed(task_id) for task_id in batch.task_ids], RetryPolicy())
            committed = time.monotonic()
            await asyncio.gather(*following)
            after = usage(process)
            delays = sorted(watcher.finished_at - committed for watcher in watchers)
            messages = sum(watcher.messages for watcher in watchers) / clients
            print(f"{clients} clients, {tasks} tasks: all connected and up to date after {connected_seconds:.1f} s")
            print(f"every client had the true final state, after {messages:.1f} messages each")
            first, middle, last = delays[0], delays[len(delays) // 2], delays[-1]
            print(f"from the commit: first {first:.2f} s, median {middle:.2f} s, last {last:.2f} s")
            print(f"processor time of the backend for it: {after[0] - before[0]:.2f} s")
            print(f"memory of the backend: {idle[1]:.0f} MB without clients, {after[1]:.0f} MB with them")
            for watcher in watchers:
                await watcher.socket.close()
        await engine.dispose()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=500)
    options = parser.parse_args()
    asyncio.run(measure(options.clients, options.tasks))
