"""Child: the parent's side of a child process. `child_server.py` is the other side, `pipe.py` what they exchange."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic_core import from_json

from spheroseg.errors import ModelUnusable
from spheroseg.messages import TaskNew
from spheroseg.worker.pipe import Answer, Greeting, frame, receive_frame

START_TIMEOUT_SECONDS = 120.0


def child_command(storage_url: str, model: str, model_dirs: Sequence[Path] = ()) -> list[str]:
    """Return the command that starts a child, which loads `model` first and other models when tasks name them."""
    command = [sys.executable, "-m", "spheroseg.worker.segment", "--storage", storage_url, "--model", model]
    return [*command, "--model-dirs", os.pathsep.join(map(str, model_dirs))] if model_dirs else command


class ChildDied(Exception):
    """The child ended before it answered. `reason` is an error code, the message a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Child:
    """A process that does one request at a time and can be killed at any moment.

    command: starts the process. start_timeout: seconds until it must be ready. stderr: where its stderr goes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_timeout: float = START_TIMEOUT_SECONDS,
        stderr: IO[str] | int | None = None,
    ) -> None:
        self._command = command
        self._start_timeout = start_timeout
        self._stderr = stderr
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process if it is not running, and wait until it is ready.

        Raises ModelUnusable if it says that it cannot load what it needs, ChildDied if it ends or says nothing.
        """
        if self._process and self._process.returncode is None:
            return
        await self.kill()
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            # Its own process group, so that all of it can be killed and a terminal's Ctrl-C does not reach it.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                greeting: Greeting = from_json(await _receive(process))
        except ChildDied as death:
            await self.kill()
            raise ChildDied(death.reason, f"{death}, before it was ready") from None
        except TimeoutError:
            await self.kill()
            raise ChildDied("not_started", f"no process was ready within {self._start_timeout:g} s") from None
        if "unusable" in greeting:
            await self.kill()
            raise ModelUnusable(greeting["unusable"])

    async def perform(self, task: TaskNew) -> Answer:
        """Return the child's answer to one task. Raises what `perform_all` raises."""
        answers: list[Answer] = []
        await self.perform_all([task], lambda _, answer: answers.append(answer))
        return answers[0]

    async def perform_all(self, tasks: Sequence[TaskNew], on_answer: Callable[[int, Answer], None]) -> None:
        """Have the child do `tasks` as one request. Start the child first if it is not running.

        on_answer: called for each answer as it comes, with the index of its task in `tasks`. Raises ChildDied if the
        child ends before it has answered all, and what `start` raises.
        """
        await self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        request = b"[" + b",".join(task.model_dump_json().encode() for task in tasks) + b"]"
        # If the pipe is broken, `_receive` raises ChildDied, which says more.
        with suppress(ConnectionError):
            process.stdin.write(frame(request))
            await process.stdin.drain()
        for _ in tasks:
            # `from_json` takes a quarter of the time of `json.loads`.
            answer: Answer = from_json(await _receive(process))
            on_answer(answer["task"], answer)

    async def kill(self) -> None:
        """End the child and every process it started, at once, even if native code is running."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._process = None


async def _receive(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    try:
        return await receive_frame(process.stdout)
    except asyncio.IncompleteReadError:
        raise _death(await process.wait()) from None


def _death(exit_code: int) -> ChildDied:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        cause = "; the usual cause is that the machine ran out of memory" if exit_code == -signal.SIGKILL else ""
        return ChildDied("killed", f"the process that did the work was killed by {name}{cause}")
    return ChildDied("crashed", f"the process that did the work ended with exit code {exit_code}")
