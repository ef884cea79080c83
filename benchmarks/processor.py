"""Processor time, which measures the cost of work even if other programs use the same cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """The rate of images. `per_second`: by the clock. `milliseconds`: processor time per image, in all processes."""

    per_second: float
    milliseconds: float


def seconds_used() -> float:
    """Return the processor time, s, of this process and its running descendants, from /proc."""
    processes = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # the process has just ended
            # After the name, which may contain anything, come state, parent, …, user time and system time.
            fields = stat.rpartition(")")[2].split()
            processes[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = {os.getpid()}
    has_grown = True
    while has_grown:
        more = {pid for pid, (parent, _) in processes.items() if parent in own} - own
        own |= more
        has_grown = bool(more)
    return sum(processes[pid][1] for pid in own) / _TICKS


@contextmanager
def limit_cores(cores: int) -> Iterator[None]:
    """Restrict this process, and those that it starts, to a number of cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
