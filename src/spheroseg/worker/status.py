"""What a worker is doing, in a small file, for a process beside it that is asked."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STALE_SECONDS = 15.0


@dataclass
class Status:
    """slots: what each is doing: starting, idle, busy, or away (its queue does not answer). finished: by outcome."""

    worker: str
    slots: dict[str, str] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)

    def write(self, path: Path) -> None:
        """Replace the file; whoever reads finds the old one or the new one."""
        content = {**vars(self), "written_at": time.time()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(path)


@dataclass(frozen=True)
class Readiness:
    """`reason` says why a worker is not ready; `status` is what the file says, if there is one.

    is_fresh: the worker has said so a moment ago.
    """

    ready: bool
    reason: str
    status: dict[str, Any] | None
    is_fresh: bool = True


def read_readiness(path: Path) -> Readiness:
    """Ready means: every slot takes messages or works on one, and said so a moment ago."""
    try:
        status = json.loads(path.read_text())
    except FileNotFoundError:
        return Readiness(False, "no worker has started here", None, is_fresh=False)
    age = time.time() - status["written_at"]
    if age > STALE_SECONDS:
        return Readiness(False, f"the worker has been silent for {age:.0f} s", status, is_fresh=False)
    idle = {name: state for name, state in status["slots"].items() if state not in ("idle", "busy")}
    if idle or not status["slots"]:
        states = ", ".join(f"{name} is {state}" for name, state in idle.items()) or "the worker has no slot yet"
        return Readiness(False, states, status)
    return Readiness(True, "consuming", status)
