"""The parent's side of a slot's child process; `worker/child.py` is the other one, and says what they speak."""

import asyncio
import os
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from spheroseg.errors import ModelUnusable
from spheroseg.messages import TaskNew

_LENGTH = struct.Struct(">I")


def child_command(storage_url: str, model: str, model_dirs: Sequence[Path] = ()) -> list[str]:
    """How a worker slot starts its child process, which loads `model` first and others when tasks name them."""
    command = [sys.executable, "-m", "spheroseg.worker.segment", "--storage", storage_url, "--model", model]
    return [*command, "--model-dirs", os.pathsep.join(map(str, model_dirs))] if model_dirs else command


class ChildDied(Exception):
    """The child ended in the middle of a task. `reason` is a code, the message a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Child:
    """One killable process that does one request at a time."""

    def __init__(
        self, command: Sequence[str], *, start_timeout: float = 120.0, stderr: IO[str] | int | None = None
    ) -> None:
        self._command = command
        self._start_timeout = start_timeout
        self._stderr = stderr
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it if it is not running.

        Raises ModelUnusable where it says that it cannot load what it needs, ChildDied where it says nothing.
        """
        if self._process and self._process.returncode is None:
            return
        await self.kill()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            # A process group of its own: it is killed whole, and a terminal's Ctrl-C does not reach it.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                answer = await self._receive()
        except ChildDied as death:
            await self.kill()
            raise ChildDied(death.reason, f"{death}, before it was ready") from None
        except TimeoutError:
            await self.kill()
            raise ChildDied("not_started", f"no process was ready within {self._start_timeout:g} s") from None
        if "unusable" in answer:
            await self.kill()
            raise ModelUnusable(answer["unusable"])

    async def perform(self, task: TaskNew) -> dict[str, Any]:
        """The child's answer to one task: `result` or `failed`. Otherwise as `perform_all`."""
        answers: list[dict[str, Any]] = []
        await self.perform_all([task], lambda _, answer: answers.append(answer))
        return answers[0]

    async def perform_all(self, tasks: Sequence[TaskNew], hear: Callable[[int, dict[str, Any]], None]) -> None:
        """Have the child, started if need be, do `tasks` as one request.

        hear: called with the place of a task in `tasks` and the answer to it, as each comes. Raises ChildDied, and
        what `start` raises.
        """
        await self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        body = b"[" + b",".join(task.model_dump_json().encode() for task in tasks) + b"]"
        # A broken pipe is told better by what the process ended with.
        with suppress(ConnectionError):
            self._process.stdin.write(_LENGTH.pack(len(body)) + body)
            await self._process.stdin.drain()
        for _ in tasks:
            answer = await self._receive()
            hear(answer.pop("task"), answer)

    async def kill(self) -> None:
        """End the child and everything it started, now, even in native code."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._process = None

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(_LENGTH.size)
            body = await self._process.stdout.readexactly(*_LENGTH.unpack(head))
        except asyncio.IncompleteReadError:
            raise _death(await self._process.wait()) from None
        answer: dict[str, Any] = from_json(body)  # in a quarter of the time that `json` takes
        return answer


def _death(code: int) -> ChildDied:
    if code < 0:
        name = signal.Signals(-code).name
        cause = "; the usual cause is that the machine ran out of memory" if code == -signal.SIGKILL else ""
        return ChildDied("killed", f"the process that did the work was killed by {name}{cause}")
    return ChildDied("crashed", f"the process that did the work ended with exit code {code}")
