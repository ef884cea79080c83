"""The doctor: checks everything that a site needs, changes nothing, reports what is wrong and what to do about it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from spheroseg.errors import BadSettings
from spheroseg.extras import extra_of, install_command
from spheroseg.monitoring.doctor import amqp, amqp_queues, database, machine, management, models, work
from spheroseg.monitoring.doctor.checks import Check, CheckContext, CheckResult, Verdict, ok, problem, skipped
from spheroseg.settings import Settings, read_settings

__all__ = ["CheckResult", "Verdict", "run_checks"]

# The other checks of a chain need what its first one checks. The chains run concurrently.
CHAINS: Sequence[Sequence[Check]] = (
    [Check("secrets", machine.check_secrets)],
    [
        Check("database", database.check_connection),
        Check("schema", database.check_schema),
        Check("database clock", database.check_clock),
        Check("processes", work.check_processes),
        Check("work", work.check_queues),
        Check("failures", work.check_failures),
    ],
    [Check("storage", machine.check_storage, limit=5.0)],
    [Check("model", models.check_models), Check("child process", models.check_child_process, limit=45.0)],
    [
        Check("RabbitMQ", amqp.check_connection, limit=15.0),
        Check("messages", amqp_queues.check_round_trip, limit=15.0),
        Check("queues", amqp_queues.check_queues),
    ],
    [
        Check("management API", management.check_connection),
        Check("alarms", management.check_alarms),
        Check("topology", management.check_topology),
        Check("limits", management.check_limits),
        Check("deliveries", management.check_deliveries),
        Check("connections", management.check_connections),
        Check("RabbitMQ clock", management.check_clock),
    ],
)


def _local_now() -> datetime:
    return datetime.now(UTC)


async def run_checks(
    read: Callable[[], Settings] = read_settings,
    *,
    now: Callable[[], datetime] = _local_now,
    chains: Sequence[Sequence[Check]] = CHAINS,
) -> list[CheckResult]:
    """Run all checks and return their results in the order of the checks. A check that raises is a result too.

    read: returns the settings. now: returns the time of this machine's clock.
    """
    try:
        settings = read()
    except BadSettings as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        advice = "correct it in the environment or in .env: `spheroseg settings` shows every variable and its meaning"
        rest = [check.name for chain in chains for check in chain]
        return [problem("settings", fault, advice) for fault in faults] + [
            skipped(name, "not checked: correct the settings first") for name in rest
        ]
    context = CheckContext(settings, now)
    results = [ok("settings", f"can be read; SPHEROSEG_ENV={settings.spheroseg_env}")]
    try:
        for chain_results in await asyncio.gather(*(_run_chain(chain, context) for chain in chains)):
            results += chain_results
    finally:
        await context.close()
    return results


async def _run_chain(chain: Sequence[Check], context: CheckContext) -> list[CheckResult]:
    first, *others = chain
    results = await _run_check(first, context)
    # If the first check is skipped, the others are skipped for the same reason.
    skip_reason = next((result.message for result in results if result.verdict == Verdict.SKIPPED), None)
    if any(result.verdict == Verdict.PROBLEM for result in results):
        skip_reason = f"not checked: solve the problem of {first.name} first"
    for check in others:
        results += [skipped(check.name, skip_reason)] if skip_reason else await _run_check(check, context)
    return results


async def _run_check(check: Check, context: CheckContext) -> list[CheckResult]:
    """Return the results of the check. If it raises or hangs, that is reported as a problem."""
    results: list[CheckResult] = []

    async def run() -> None:
        async for result in check.run(context):
            results.append(result)

    # In its own task, so that a library that swallows or raises a cancellation affects no other check.
    running = asyncio.ensure_future(run())
    await asyncio.wait({running}, timeout=check.limit)
    if not running.done():
        running.cancel()
        return [
            *results,
            problem(
                check.name,
                f"no answer within {check.limit:g} s",
                "something that it needs hangs: look at the network, the disk, and the other results here",
            ),
        ]
    error = asyncio.CancelledError("cancelled") if running.cancelled() else running.exception()
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error)):
        message = f"the extra {extra!r} of spheroseg is not installed ({error})"
        results.append(problem(check.name, message, install_command(extra)))
    elif error is not None:
        message = f"the check itself failed: {type(error).__name__}: {error}"
        advice = "look at the other results first; if they are ok, report this as a bug of spheroseg"
        results.append(problem(check.name, message, advice))
    return results
