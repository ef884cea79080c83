"""Request: several tasks that the child does together, with a deadline that covers them all."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from spheroseg.broker import Delivery
from spheroseg.messages import FailureCause, TaskNew
from spheroseg.worker.child import Child, ChildDied
from spheroseg.worker.pipe import Answer


@dataclass(frozen=True)
class Limits:
    """deadline: seconds for one request, of one task or several.

    grace: seconds that a request may go on after `stopping` is set.
    """

    deadline: float
    grace: float
    stopping: asyncio.Event


@dataclass(frozen=True, eq=False)
class Assignment:
    """A task that this worker has started, and the delivery that it came with."""

    delivery: Delivery
    task: TaskNew
    started: datetime


@dataclass(frozen=True)
class Interruption:
    """Why a request ended before all of its tasks were answered. The fields are those of a TaskFailed."""

    reason: str
    sentence: str
    cause: FailureCause = "failed"


@dataclass(eq=False)
class Request:
    """Has the child do `assignments`, until each is answered or revoked, or the request is interrupted.

    on_answer: called for each assignment with its answer as soon as it comes, or with None if it was revoked.
    unanswered: the assignments for which `on_answer` was not called yet.
    """

    child: Child
    assignments: Sequence[Assignment]
    limits: Limits
    on_answer: Callable[[Assignment, Answer | None], None]
    unanswered: list[Assignment] = field(init=False)
    _is_done: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self.unanswered = list(self.assignments)

    async def perform(self) -> Interruption | None:
        """Return None if no assignment is unanswered, otherwise why the request was interrupted.

        Kills the child after an interruption, when only revoked tasks keep it busy, and when cancelled. Raises
        ModelUnusable if the child cannot be started again.
        """
        tasks = [assignment.task for assignment in self.assignments]
        performing = asyncio.create_task(self.child.perform_all(tasks, self._receive))
        try:
            return await self._watch(performing)
        except ChildDied as death:
            await self.child.kill()
            return Interruption(death.reason, str(death))
        except asyncio.CancelledError:
            await self.child.kill()
            raise
        finally:
            await _cancel(performing)

    async def _watch(self, performing: asyncio.Task[None]) -> Interruption | None:
        """Wait for the answers, the revocations, the deadline and the end of the grace period."""
        deadline = _now() + self.limits.deadline
        done = asyncio.create_task(self._is_done.wait())
        stopped = asyncio.create_task(self._wait_for_stop())
        revocations = {
            asyncio.create_task(assignment.delivery.revoked.wait()): assignment for assignment in self.assignments
        }
        try:
            while True:
                events = {performing, done, stopped, *revocations}
                await asyncio.wait(events, timeout=deadline - _now(), return_when=asyncio.FIRST_COMPLETED)
                if performing.done():
                    performing.result()
                    return None
                for revocation in [revocation for revocation in revocations if revocation.done()]:
                    self._finish(revocations.pop(revocation), None)
                # While a task is unanswered the child goes on, and its answers to revoked tasks are ignored.
                if not self.unanswered or stopped.done() or _now() >= deadline:
                    break
            await self.child.kill()
            if not self.unanswered:
                return None
            if stopped.done():
                return Interruption("handed_back", "the worker was stopped", "handed_back")
            return Interruption("timeout", f"not finished within {self.limits.deadline:g} s, and stopped")
        finally:
            await _cancel(done, stopped, *revocations)

    def _receive(self, index: int, answer: Answer) -> None:
        self._finish(self.assignments[index], answer)

    def _finish(self, assignment: Assignment, answer: Answer | None) -> None:
        if assignment in self.unanswered:
            self.unanswered.remove(assignment)
            self.on_answer(assignment, answer)
        if not self.unanswered:
            self._is_done.set()

    async def _wait_for_stop(self) -> None:
        await self.limits.stopping.wait()
        await asyncio.sleep(self.limits.grace)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
