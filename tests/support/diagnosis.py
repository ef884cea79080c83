"""`spheroseg doctor` in a test: run some of its chains of checks and look for expected results."""

from collections.abc import Awaitable, Callable
from typing import Any

from spheroseg.monitoring.doctor import CHAINS, CheckResult, Verdict, run_checks
from spheroseg.settings import Settings

from ..conftest import eventually


async def diagnose(*chains: str, **settings: Any) -> list[CheckResult]:
    """Run the chains that begin with the checks of these names."""
    chosen = [chain for chain in CHAINS if chain[0].name in chains]
    assert len(chosen) == len(chains)
    return await run_checks(lambda: Settings(_env_file=None, **settings), chains=chosen)


def is_reported(results: list[CheckResult], verdict: str, *words: str) -> bool:
    """Return whether one result of that verdict has all the words in its message or its advice."""
    return any(
        result.verdict == verdict and all(word in f"{result.message} {result.advice}" for word in words)
        for result in results
    )


def expect(results: list[CheckResult], verdict: str, *words: str) -> None:
    assert is_reported(results, verdict, *words), f"no result is {verdict} with {words}:\n" + as_text(results)


def faults_of(results: list[CheckResult]) -> list[CheckResult]:
    return [result for result in results if result.verdict in (Verdict.PROBLEM, Verdict.WARNING)]


def expect_no_faults(results: list[CheckResult]) -> None:
    assert not faults_of(results), as_text(faults_of(results))


async def expect_soon(
    repeat: Callable[[], Awaitable[list[CheckResult]]], verdict: str, *words: str, within: float = 20.0
) -> list[CheckResult]:
    """Repeat the checks until the result is there: RabbitMQ's management API shows changes a moment later."""
    latest: list[CheckResult] = []

    async def is_reported_now() -> bool:
        latest[:] = await repeat()
        return is_reported(latest, verdict, *words)

    try:
        await eventually(is_reported_now, within)
    except AssertionError:
        expect(latest, verdict, *words)
    return latest


def as_text(results: list[CheckResult]) -> str:
    return "\n".join(f"{result.verdict} {result.check}: {result.message} → {result.advice}" for result in results)
