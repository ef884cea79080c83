"""What a check says, and what the checks look at."""

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

# Clocks further apart make tokens, certificates and the times that people read wrong.
CLOCK_SECONDS = 5.0


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One sentence about one thing, and, where it is not ok, what to do."""

    check: str
    verdict: Verdict
    what: str
    step: str = ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Verdict.OK, what)


def warning(check: str, what: str, step: str) -> Finding:
    return Finding(check, Verdict.WARNING, what, step)


def problem(check: str, what: str, step: str) -> Finding:
    return Finding(check, Verdict.PROBLEM, what, step)


def skipped(check: str, what: str, step: str = "") -> Finding:
    return Finding(check, Verdict.SKIPPED, what, step)


@dataclass
class Site:
    """What is looked at. `engine` and `management` are there once the check that reaches them has."""

    settings: Settings
    now: Callable[[], datetime]
    engine: AsyncEngine | None = None
    management: Management | None = None

    async def close(self) -> None:
        if self.management is not None:
            await self.management.close()
        if self.engine is not None:
            # A server that does not answer must not keep us here.
            with suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self.engine.dispose()


@dataclass(frozen=True)
class Check:
    """`limit`: seconds; after them the check is given up, and what it has found so far is kept."""

    name: str
    look: Callable[[Site], AsyncIterator[Finding]]
    limit: float = 10.0


def several(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def compare_clocks(check: str, whose: str, seconds: float) -> Finding:
    """`seconds`: how far that clock is ahead of this machine's."""
    if abs(seconds) < CLOCK_SECONDS:
        return ok(check, f"the clock of {whose} agrees with this machine's")
    way = "ahead of" if seconds > 0 else "behind"
    return warning(
        check,
        f"the clock of {whose} is {abs(seconds):.0f} s {way} this machine's",
        "set both by NTP (`timedatectl`): leases use the database's clock and stay right, but certificates, the "
        "expiry of tokens and the times in logs do not",
    )


async def in_thread(work: Callable[[], T]) -> T:
    """As asyncio.to_thread, but work that hangs, as on a dead network disk, does not keep the program alive."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(set_: Callable[[], None]) -> None:
        def now() -> None:
            if not answer.done():
                set_()

        # Nobody may be waiting any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(now)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            failure = error
            tell(lambda: answer.set_exception(failure))
        else:
            tell(lambda: answer.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await answer
