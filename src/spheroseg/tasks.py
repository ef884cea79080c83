"""The rules of a task: its states, the causes of each step between them, and what follows an outcome.

This module uses no clock, no randomness and no database. The SQL guard (`database/tasks.py`), `docs/states.md` and
the tests derive from `STEPS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from spheroseg.backoff import Backoff


class TaskState(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Cause(StrEnum):
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    UNDELIVERED = "undelivered"
    HANDED_BACK = "handed_back"
    CANCEL = "cancel"
    RETRY = "retry"


@dataclass(frozen=True)
class Step:
    """The steps that one cause may take: from any of `sources` to any of `targets`."""

    sources: frozenset[TaskState]
    targets: frozenset[TaskState]
    meaning: str


def _step(sources: str, targets: str, meaning: str) -> Step:
    return Step(frozenset(map(TaskState, sources.split())), frozenset(map(TaskState, targets.split())), meaning)


# A report may overtake the start of its own attempt, hence `queued` among the sources of every outcome.
STEPS: Mapping[Cause, Step] = {
    Cause.STARTED: _step("queued", "processing", "a worker began the attempt"),
    Cause.SUCCEEDED: _step("queued processing", "completed", "the result of the attempt is stored"),
    Cause.FAILED: _step("queued processing", "queued failed", "the attempt failed: a retry, or failed for good"),
    Cause.LOST: _step(
        "queued processing", "queued failed", "the worker vanished mid-task: again, within its own limit"
    ),
    Cause.UNDELIVERED: _step(
        "queued", "queued", "the queue dropped the message before a worker saw it: again, uses up nothing"
    ),
    Cause.HANDED_BACK: _step(
        "queued processing",
        "queued",
        "not finished: the worker stopped, its batch ran out of time, or RabbitMQ was switched off: again, uses up "
        "nothing",
    ),
    Cause.CANCEL: _step("queued processing", "cancelled", "a person cancelled"),
    Cause.RETRY: _step("failed", "queued", "a person asked for another try"),
}

FINISHED = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED})
UNFINISHED = frozenset(TaskState) - FINISHED


class BatchState(StrEnum):
    """The state of a batch. It is derived from the states of its tasks and stored nowhere.

    queued: no task has begun. processing: a task has begun, and not all are finished. completed: every task that was
    not cancelled has completed. completed_with_errors: some completed, some failed. failed: some failed, none
    completed. cancelled: all were cancelled.
    """

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"


def batch_state(counts: Mapping[TaskState, int]) -> BatchState:
    """Return the state of a batch from the number of its tasks in each state. A batch without tasks is completed."""
    completed, failed = counts.get(TaskState.COMPLETED, 0), counts.get(TaskState.FAILED, 0)
    if any(counts.get(state, 0) for state in UNFINISHED):
        has_begun = completed or failed or counts.get(TaskState.PROCESSING, 0)
        return BatchState.PROCESSING if has_begun else BatchState.QUEUED
    if failed:
        return BatchState.COMPLETED_WITH_ERRORS if completed else BatchState.FAILED
    if not completed and counts.get(TaskState.CANCELLED, 0):
        return BatchState.CANCELLED
    return BatchState.COMPLETED


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended. `reason` is a code, `error` a sentence for a person."""

    cause: Cause
    reason: str = ""
    error: str = ""
    retryable: bool = True


@dataclass(frozen=True)
class Attempt:
    """The current attempt of a task.

    number: counts every attempt of the task, from 1. A report of a lower number is late and changes nothing.
    retries: retries used since the task was submitted, or since a person last retried it.
    losses: attempts lost with their worker in the same span.
    """

    number: int = 1
    retries: int = 0
    losses: int = 0


@dataclass(frozen=True)
class RetryPolicy:
    """When a task is retried.

    max_retries, max_losses: how often a failed attempt, and one lost with its worker, is followed by another.
    backoff, backoff_max: the longest wait in seconds before the first retry, and before any.
    silence: seconds after the start of an attempt after which its worker counts as lost if it has not reported. Used
    if no queue in the database shows that the worker still has the task.
    """

    max_retries: int = 3
    max_losses: int = 3
    backoff: float = 5.0
    backoff_max: float = 300.0
    silence: float = 360.0

    def ceiling(self, n: int) -> float:
        """Return the longest wait in seconds before retry `n` (1, 2, …), to be drawn with full jitter."""
        return Backoff(self.backoff, self.backoff_max).ceiling(n)


@dataclass(frozen=True)
class Decision:
    """The step to take. delay_ceiling: the longest wait in seconds of the next message. None: there is no message."""

    state: TaskState
    attempt: Attempt
    delay_ceiling: float | None = None


def after(outcome: Outcome, attempt: Attempt, policy: RetryPolicy) -> Decision:
    """Return the step that follows `outcome` of `attempt`. Raises ValueError for a cause that only a person has."""
    number, retries, losses = attempt.number, attempt.retries, attempt.losses
    match outcome.cause:
        case Cause.STARTED:
            return Decision(TaskState.PROCESSING, attempt)
        case Cause.SUCCEEDED:
            return Decision(TaskState.COMPLETED, attempt)
        case Cause.FAILED if outcome.retryable and retries < policy.max_retries:
            return Decision(TaskState.QUEUED, Attempt(number + 1, retries + 1, losses), policy.ceiling(retries + 1))
        case Cause.LOST if losses < policy.max_losses:
            return Decision(TaskState.QUEUED, Attempt(number + 1, retries, losses + 1), 0.0)
        case Cause.FAILED | Cause.LOST:
            return Decision(TaskState.FAILED, attempt)
        case Cause.UNDELIVERED:
            return Decision(TaskState.QUEUED, attempt, policy.backoff)
        case Cause.HANDED_BACK:
            return Decision(TaskState.QUEUED, attempt, 0.0)
        case Cause.CANCEL | Cause.RETRY:
            raise ValueError(f"{outcome.cause} is a person's decision, not an outcome")
    raise AssertionError(outcome.cause)
