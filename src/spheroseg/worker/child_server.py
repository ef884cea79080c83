"""The child's side of a worker slot: load once, then answer one request after another until killed.

`pipe.py` says what the two sides exchange. The child knows no queue and no database. The parent enforces the deadline
by killing the whole process group, because nothing in this process could interrupt native code.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from spheroseg.errors import SpherosegError
from spheroseg.messages import TaskNew
from spheroseg.worker.pipe import Answer, Failure, Greeting, Record, read_frame, write_frame

# The index of a task in its request, and its result or the error.
IndexedResult = tuple[int, Record | Exception]
# Does the tasks of one request. Yields one result or error for each task, in any order.
Work = Callable[[Sequence[TaskNew]], Iterable[IndexedResult]]


def serve(load: Callable[[], Work]) -> None:
    """Call `load` once, then answer requests with the function it returned until stdin ends.

    If `load` raises a SpherosegError, the child says that it is unusable and ends. Any exception of the work is
    answered as a failure of its task.
    """
    # Whatever a library prints to stdout must not land between two answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _die_with_parent()
    try:
        work = load()
    except SpherosegError as error:
        write_frame(answers, _encode(Greeting(unusable=str(error))))
        return
    write_frame(answers, _encode(Greeting(ready=True)))
    while (request := read_frame(sys.stdin.buffer)) is not None:
        for answer in _answers(work, json.loads(request)):
            write_frame(answers, answer)


def one_by_one(work: Callable[[TaskNew], Record]) -> Work:
    """Return `work` as a function of several tasks, for work that gains nothing from doing them together."""

    def work_one_by_one(tasks: Sequence[TaskNew]) -> Iterator[IndexedResult]:
        for index, task in enumerate(tasks):
            try:
                yield index, work(task)
            except Exception as error:
                yield index, error

    return work_one_by_one


def _answers(work: Work, request: Sequence[Any]) -> Iterator[bytes]:
    unanswered = set(range(len(request)))
    try:
        for index, outcome in work([TaskNew.model_validate(task) for task in request]):
            unanswered.discard(index)
            yield _answer(index, outcome)
    except Exception as error:
        for index in sorted(unanswered):
            yield _answer(index, error)


def _answer(index: int, outcome: Record | Exception) -> bytes:
    if not isinstance(outcome, Exception):
        try:
            return _encode(Answer(task=index, result=outcome))
        except Exception as error:
            outcome = error
    return _encode(Answer(task=index, failed=_failure(outcome)))


def _failure(error: Exception) -> Failure:
    if isinstance(error, SpherosegError):
        return Failure(reason=error.code, error=str(error), retryable=error.retryable)
    if isinstance(error, MemoryError):
        return Failure(reason="out_of_memory", error="not enough memory for this image", retryable=True)
    if isinstance(error, OSError):
        return Failure(reason="io_error", error=str(error), retryable=True)
    return Failure(reason="crashed", error=f"{type(error).__name__}: {error}", retryable=True)


def _encode(content: Answer | Greeting) -> bytes:
    # A measurement that is not a number is a bug, and must not become an empty cell.
    return json.dumps(content, allow_nan=False).encode()


def _die_with_parent() -> None:
    """Have Linux kill this process when the parent dies, even during native code.

    On other systems the process ends when stdin ends.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
