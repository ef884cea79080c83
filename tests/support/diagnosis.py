"""`spheroseg doctor` in a test: some of its chains of checks, and looking for what they say."""

from collections.abc import Awaitable, Callable
from typing import Any

from spheroseg.monitoring.doctor import CHAINS, Finding, Verdict, examine
from spheroseg.settings import Settings

from ..conftest import eventually


async def look(*chains: str, **settings: Any) -> list[Finding]:
    """What the chains that begin with the checks of these names find."""
    chosen = [chain for chain in CHAINS if chain[0].name in chains]
    assert len(chosen) == len(chains)
    return await examine(lambda: Settings(_env_file=None, **settings), chains=chosen)


def is_told(findings: list[Finding], verdict: str, *words: str) -> bool:
    """Whether one finding of that verdict has all the words in its sentence or its advice."""
    return any(
        found.verdict == verdict and all(word in f"{found.what} {found.step}" for word in words) for found in findings
    )


def expect(findings: list[Finding], verdict: str, *words: str) -> None:
    assert is_told(findings, verdict, *words), f"nobody says {verdict} {words}:\n" + lines(findings)


def wrong_of(findings: list[Finding]) -> list[Finding]:
    return [found for found in findings if found.verdict in (Verdict.PROBLEM, Verdict.WARNING)]


def expect_nothing_wrong(findings: list[Finding]) -> None:
    assert not wrong_of(findings), lines(wrong_of(findings))


async def expect_soon(
    again: Callable[[], Awaitable[list[Finding]]], verdict: str, *words: str, within: float = 20.0
) -> list[Finding]:
    """Looks again until it is told: RabbitMQ's management API shows things a moment later."""
    seen: list[Finding] = []

    async def is_told_now() -> bool:
        seen[:] = await again()
        return is_told(seen, verdict, *words)

    try:
        await eventually(is_told_now, within)
    except AssertionError:
        expect(seen, verdict, *words)
    return seen


def lines(findings: list[Finding]) -> str:
    return "\n".join(f"{found.verdict} {found.check}: {found.what} → {found.step}" for found in findings)
