"""`spheroseg doctor`: looks at all that a site needs, changes nothing, says what is wrong and what to do."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from spheroseg.errors import BadSettings
from spheroseg.extras import extra_of, install_command
from spheroseg.monitoring.doctor import amqp, database, machine, management
from spheroseg.monitoring.doctor.findings import Check, Finding, Site, Verdict, ok, problem, skipped
from spheroseg.settings import Settings, read_settings

__all__ = ["Finding", "Verdict", "examine"]

# The first check of a chain is what the others stand on. The chains run side by side.
CHAINS: Sequence[Sequence[Check]] = (
    [Check("secrets", machine.look_at_secrets)],
    [
        Check("database", database.look_at_database),
        Check("schema", database.look_at_schema),
        Check("database clock", database.look_at_clock),
        Check("processes", database.look_at_processes),
        Check("work", database.look_at_work),
        Check("failures", database.look_at_failures),
    ],
    [Check("storage", machine.look_at_storage, limit=5.0)],
    [Check("model", machine.look_at_model), Check("child process", machine.look_at_child, limit=45.0)],
    [
        Check("RabbitMQ", amqp.look_at_server, limit=15.0),
        Check("messages", amqp.look_at_round_trip, limit=15.0),
        Check("queues", amqp.look_at_queues),
    ],
    [
        Check("management API", management.look_at_management),
        Check("alarms", management.look_at_alarms),
        Check("topology", management.look_at_topology),
        Check("limits", management.look_at_limits),
        Check("deliveries", management.look_at_deliveries),
        Check("connections", management.look_at_connections),
        Check("RabbitMQ clock", management.look_at_clock),
    ],
)


def _local_now() -> datetime:
    return datetime.now(UTC)


async def examine(
    read: Callable[[], Settings] = read_settings,
    *,
    now: Callable[[], datetime] = _local_now,
    chains: Sequence[Sequence[Check]] = CHAINS,
) -> list[Finding]:
    """Run all checks; their findings in the order of the checks. Never raises for what it looks at.

    now: this machine's clock.
    """
    try:
        settings = read()
    except BadSettings as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        step = "correct it in the environment or in .env: `spheroseg settings` shows every variable and its meaning"
        rest = [check.name for chain in chains for check in chain]
        return [problem("settings", fault, step) for fault in faults] + [
            skipped(name, "not looked at: settings come first") for name in rest
        ]
    site = Site(settings, now)
    found = [ok("settings", f"can be read; SPHEROSEG_ENV={settings.spheroseg_env}")]
    try:
        for findings in await asyncio.gather(*(_follow(chain, site) for chain in chains)):
            found += findings
    finally:
        await site.close()
    return found


async def _follow(chain: Sequence[Check], site: Site) -> list[Finding]:
    first, *others = chain
    found = await _guarded(first, site)
    # Of a first one that is skipped, the reason is that of all.
    reason = next((finding.what for finding in found if finding.verdict == Verdict.SKIPPED), None)
    if any(finding.verdict == Verdict.PROBLEM for finding in found):
        reason = f"not looked at: {first.name} comes first"
    for check in others:
        found += [skipped(check.name, reason)] if reason else await _guarded(check, site)
    return found


async def _guarded(check: Check, site: Site) -> list[Finding]:
    """What the check finds. That it raises or hangs is a finding too."""
    found: list[Finding] = []

    async def look() -> None:
        async for finding in check.look(site):
            found.append(finding)

    # In a task of its own: a library that swallows a cancellation, or sends one, concerns nobody else.
    looking = asyncio.ensure_future(look())
    await asyncio.wait({looking}, timeout=check.limit)
    if not looking.done():
        looking.cancel()
        return [
            *found,
            problem(
                check.name,
                f"no answer within {check.limit:g} s",
                "something that it needs hangs: look at the network, the disk, and the other lines here",
            ),
        ]
    error = asyncio.CancelledError("cancelled") if looking.cancelled() else looking.exception()
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error)):
        what = f"the extra {extra!r} of spheroseg is not installed ({error})"
        found.append(problem(check.name, what, install_command(extra)))
    elif error is not None:
        what = f"the check itself failed: {type(error).__name__}: {error}"
        found.append(problem(check.name, what, "look at the other lines first; then report this as a fault of ours"))
    return found
