"""Processor time, which says what work costs even where other programs are busy on the same cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """`per_second`: images by the clock. `milliseconds`: of processor time for one, in all processes together."""

    per_second: float
    milliseconds: float


def seconds_used() -> float:
    """Processor time of this process and of all that descend from it and are still running, from /proc."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it has just ended
            # Behind the name, which may hold anything: state, parent, ...; user and system time.
            fields = stat.rpartition(")")[2].split()
            found[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in found.items() if parent in ours} - ours
        ours |= more
        grown = bool(more)
    return sum(found[pid][1] for pid in ours) / _TICKS


@contextmanager
def only(cores: int) -> Iterator[None]:
    """This process and those that it starts meanwhile have so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
