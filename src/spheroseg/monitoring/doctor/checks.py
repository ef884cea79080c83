"""What a check of the doctor is, what it is given, and what it reports."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.broker.management import Management
from spheroseg.settings import Settings

T = TypeVar("T")

# A larger difference makes the expiry of tokens, certificates and the times in logs wrong.
MAX_CLOCK_DIFFERENCE_SECONDS = 5.0
DISPOSE_TIMEOUT_SECONDS = 2.0


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CheckResult:
    """One sentence about one thing and, unless it is ok, what to do about it."""

    check: str
    verdict: Verdict
    message: str
    advice: str = ""


def ok(check: str, message: str) -> CheckResult:
    return CheckResult(check, Verdict.OK, message)


def warning(check: str, message: str, advice: str) -> CheckResult:
    return CheckResult(check, Verdict.WARNING, message, advice)


def problem(check: str, message: str, advice: str) -> CheckResult:
    return CheckResult(check, Verdict.PROBLEM, message, advice)


def skipped(check: str, message: str, advice: str = "") -> CheckResult:
    return CheckResult(check, Verdict.SKIPPED, message, advice)


@dataclass
class CheckContext:
    """What the checks share. The first check of a chain sets `engine` or `management` once it has connected."""

    settings: Settings
    now: Callable[[], datetime]
    engine: AsyncEngine | None = None
    management: Management | None = None

    async def close(self) -> None:
        if self.management is not None:
            await self.management.close()
        if self.engine is not None:
            # A server that does not answer must not keep the doctor from ending.
            with suppress(TimeoutError):
                async with asyncio.timeout(DISPOSE_TIMEOUT_SECONDS):
                    await self.engine.dispose()


@dataclass(frozen=True)
class Check:
    """A named check. After `limit` seconds it is cancelled, and what it has reported so far is kept."""

    name: str
    run: Callable[[CheckContext], AsyncIterator[CheckResult]]
    limit: float = 10.0


def pluralize(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def compare_clocks(check: str, whose: str, seconds: float) -> CheckResult:
    """seconds: by how much that clock is ahead of this machine's."""
    if abs(seconds) < MAX_CLOCK_DIFFERENCE_SECONDS:
        return ok(check, f"the clock of {whose} agrees with this machine's")
    direction = "ahead of" if seconds > 0 else "behind"
    return warning(
        check,
        f"the clock of {whose} is {abs(seconds):.0f} s {direction} this machine's",
        "set both by NTP (`timedatectl`): leases use the database's clock and stay right, but certificates, the "
        "expiry of tokens and the times in logs do not",
    )


async def run_in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking `work` as asyncio.to_thread does, but in a daemon thread.

    Work that hangs, as on an unreachable network disk, then does not keep the program from ending.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def in_loop(set_answer: Callable[[], None]) -> None:
        def set_unless_done() -> None:
            if not answer.done():
                set_answer()

        # The loop may have been closed meanwhile, when nobody waits any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(set_unless_done)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            failure = error
            in_loop(lambda: answer.set_exception(failure))
        else:
            in_loop(lambda: answer.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await answer
