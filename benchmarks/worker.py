"""Runs a worker process with one slot and the no-op model: `python -P benchmarks/worker.py DATABASE_URL NAME`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from spheroseg.broker.table import TableBroker
from spheroseg.database.engine import open_engine
from spheroseg.logs import log_to
from spheroseg.worker.loop import WorkerOptions, work

NOOP = [sys.executable, "-P", str(Path(__file__).with_name("noop.py"))]


async def main(url: str, name: str) -> None:
    engine = open_engine(url)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await work(TableBroker(engine), WorkerOptions(name=name, command=NOOP), stopping)
    await engine.dispose()


if __name__ == "__main__":
    with open(os.devnull, "w") as log:
        # Log entries are rendered as usual and then discarded.
        log_to(log)
        asyncio.run(main(*sys.argv[1:]))
