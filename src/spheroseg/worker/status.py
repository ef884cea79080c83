"""WorkerStatus: what a worker is doing, written to a small file for other processes on the same machine."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

STALE_SECONDS = 15.0

# away: the queue does not answer.
SlotState = Literal["starting", "idle", "busy", "away"]


@dataclass
class WorkerStatus:
    """slots: the state of each slot by its name. finished: the number of finished tasks by outcome."""

    worker: str
    slots: dict[str, SlotState] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)

    def write(self, path: Path) -> None:
        """Replace the file in one step: a reader finds the old content or the new."""
        content = {**vars(self), "written_at": time.time()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(path)


@dataclass(frozen=True)
class Readiness:
    """Whether a worker takes tasks.

    reason: why it is not ready; `consuming` if it is. status: the content of its file, None if there is none.
    is_fresh: whether the file was written within STALE_SECONDS.
    """

    ready: bool
    reason: str
    status: dict[str, Any] | None
    is_fresh: bool = True


def read_worker_readiness(path: Path) -> Readiness:
    """Read the status file. A worker is ready if the file is fresh and every slot is idle or busy."""
    try:
        status = json.loads(path.read_text())
    except FileNotFoundError:
        return Readiness(False, "no worker has started here", None, is_fresh=False)
    age = time.time() - status["written_at"]
    if age > STALE_SECONDS:
        return Readiness(False, f"the worker has been silent for {age:.0f} s", status, is_fresh=False)
    not_ready = {name: state for name, state in status["slots"].items() if state not in ("idle", "busy")}
    if not_ready or not status["slots"]:
        states = ", ".join(f"{name} is {state}" for name, state in not_ready.items())
        return Readiness(False, states or "the worker has no slot yet", status)
    return Readiness(True, "consuming", status)
