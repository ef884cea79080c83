"""Checks over RabbitMQ's management API: alarms, topology and policies, limits, unsettled deliveries."""

import math
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from spheroseg.broker.management import Difference, Management
from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue
from spheroseg.monitoring.doctor.advice import NOTHING_LOST, ON_ALARM, QUEUE_DISABLED, RABBITMQ_LOG
from spheroseg.monitoring.doctor.checks import (
    CheckContext,
    CheckResult,
    compare_clocks,
    ok,
    pluralize,
    problem,
    skipped,
    warning,
)

# A memory use or queue length above this share of its limit is a warning.
WARNING_SHARE = 0.8
LOW_DISK_BYTES = 512 * 1024**2
# The name of the connection that the checks over AMQP open.
OWN_CONNECTION = "spheroseg doctor"
# The management API keeps its finest samples, one per 5 s, for ten minutes.
SAMPLE_SECONDS = 5
MAX_HISTORY_SECONDS = 600
MARGIN_SECONDS = 10


async def check_connection(context: CheckContext) -> AsyncIterator[CheckResult]:
    if not context.settings.enable_message_queue:
        yield skipped("management API", QUEUE_DISABLED)
        return
    if not context.settings.rabbitmq_management_url:
        yield skipped(
            "management API",
            "RABBITMQ_MANAGEMENT_URL is not set: policies, memory, limits and stuck deliveries cannot be checked",
            "set it to http://USER:PASSWORD@HOST:15672, of a user with the tag monitoring",
        )
        return
    management = Management(context.settings.rabbitmq_management_url, context.settings.rabbitmq_url)
    try:
        await management.nodes()
    except BrokerAway as error:
        await management.close()
        yield skipped("management API", str(error), _advise_on_connection(str(error)))
        return
    except Exception:
        await management.close()
        raise
    context.management = management
    yield ok("management API", "answers")


def _advise_on_connection(error: str) -> str:
    if "refuses" in error:
        return "correct user and password in RABBITMQ_MANAGEMENT_URL; `rabbitmqctl set_user_tags USER monitoring`"
    return "correct RABBITMQ_MANAGEMENT_URL; `rabbitmq-plugins enable rabbitmq_management` where it is not enabled"


async def check_alarms(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Check each node's memory against its limit, and its free disk space."""
    assert context.management is not None
    for node in await context.management.nodes():
        if not node.get("running", True):
            advice = f"start it, and look into its log: {RABBITMQ_LOG}"
            yield problem("alarms", f"the node {node['name']} is down", advice)
            continue
        if "mem_used" not in node:
            message = f"the node {node['name']} has only just started and has not reported its memory yet"
            yield skipped("alarms", message)
            continue
        for result in _check_node(node):
            yield result


def _check_node(node: dict[str, Any]) -> Iterator[CheckResult]:
    name, used, limit = node["name"], node["mem_used"], node["mem_limit"]
    free, min_free = node["disk_free"], node["disk_free_limit"]
    memory = f"{used / 1e6:.0f} of {limit / 1e6:.0f} MB of memory"
    disk = f"{free / 1e9:.1f} GB of disk are free, at least {min_free / 1e9:.2f} GB are required"
    has_memory_alarm = node.get("mem_alarm") or used > limit
    has_disk_alarm = node.get("disk_free_alarm") or free < min_free
    if has_memory_alarm:
        advice = (
            "raise vm_memory_high_watermark in rabbitmq.conf, or keep fewer messages there: lower RELAY_WINDOW, see "
            f"`spheroseg queue list` for what waits; {NOTHING_LOST}"
        )
        yield problem("alarms", f"memory alarm on {name}: {memory}; it accepts no messages", advice)
    elif used > WARNING_SHARE * limit:
        advice = "raise vm_memory_high_watermark in rabbitmq.conf before it stops accepting messages"
        yield warning("alarms", f"{name} is near its memory alarm: {memory}", advice)
    if has_disk_alarm:
        advice = f"free disk space on RabbitMQ's volume, or lower disk_free_limit in rabbitmq.conf; {NOTHING_LOST}"
        yield problem("alarms", f"disk alarm on {name}: {disk}; it accepts no messages", advice)
    elif free < min_free + LOW_DISK_BYTES:
        yield warning("alarms", f"{name} is near its disk alarm: {disk}", "free disk space there")
    if not has_memory_alarm and not has_disk_alarm:
        yield ok("alarms", f"none on {name}: {memory}, {disk}")


async def check_topology(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Compare exchanges, queues, bindings and policies with what `broker/topology.py` declares."""
    assert context.management is not None
    # The check over AMQP reports missing queues already.
    missing = {f"the queue {queue} does not exist" for queue in Queue}
    all_differences = await context.management.check(context.settings.rabbitmq_queue_type)
    differences = [difference for difference in all_differences if difference.what not in missing]
    for message, advice in _merge_by_policy(differences):
        is_harmless = "does not exist" in message or "policy" in message
        yield (warning if is_harmless else problem)("topology", message, advice)
    if not all_differences:
        yield ok("topology", "exchanges, queues, bindings and policies are as they should be")


def _merge_by_policy(differences: Iterable[Difference]) -> Iterator[tuple[str, str]]:
    """Yield message and advice of each difference, with all differences of one queue's policy in one message."""
    merged: dict[str, tuple[list[str], str]] = {}
    for difference in differences:
        subject, has, detail = difference.what.partition(" has ")
        is_policy = subject.startswith("the policy of")
        details, _ = merged.setdefault(f"{subject}{has}" if is_policy else difference.what, ([], difference.advice))
        details += [detail] if is_policy else []
    for start, (details, advice) in merged.items():
        yield start + "; ".join(details), advice


async def check_limits(context: CheckContext) -> AsyncIterator[CheckResult]:
    """Compare the length of each queue with the max-length of its policy."""
    assert context.management is not None
    is_any_near = False
    for queue in Queue:
        state = await context.management.queue(queue) or {}
        max_length = (state.get("effective_policy_definition") or {}).get("max-length")
        ready = state.get("messages_ready", 0)
        if not isinstance(max_length, int) or ready < WARNING_SHARE * max_length:
            continue
        is_any_near = True
        advice = f"start more workers, lower RELAY_WINDOW, or raise max-length in the policy of {queue}"
        if queue != Queue.TASKS:
            advice = f"see that collect runs; if it does, raise max-length in the policy of {queue}"
        if ready >= max_length:
            message = (
                f"{queue} is full: {ready} of {max_length} messages, and more are refused or become dead letters"
            )
            yield problem("limits", message, advice)
        else:
            yield warning("limits", f"{queue} is nearly full: {ready} of {max_length} messages", advice)
    if not is_any_near:
        yield ok("limits", "no queue is near its limit")


async def check_deliveries(context: CheckContext) -> AsyncIterator[CheckResult]:
    """See whether tasks stay unacknowledged for longer than any attempt may take, although workers are connected."""
    assert context.management is not None
    seconds = math.ceil(context.settings.task_timeout_seconds) + MARGIN_SECONDS
    if seconds > MAX_HISTORY_SECONDS:
        message = f"the API keeps {MAX_HISTORY_SECONDS} s of history, less than TASK_TIMEOUT_SECONDS and a margin"
        yield skipped("deliveries", message)
        return
    state = await context.management.queue_history(Queue.TASKS, seconds, SAMPLE_SECONDS) or {}
    unacked = _samples(state, "messages_unacknowledged_details")
    acked = _samples(state.get("message_stats") or {}, "ack_details")
    is_complete = len(unacked) * SAMPLE_SECONDS >= seconds - SAMPLE_SECONDS
    if is_complete and min(unacked) > 0 and len(set(acked)) <= 1:
        tasks = pluralize(unacked[0], "task is", "tasks are")
        message = f"{tasks} unacknowledged at workers, and none was settled in the last {seconds} s"
        advice = (
            f"the workers hang, or cannot report: look into their logs and at the alarms above, restart them; "
            f"{state.get('messages_ready', 0)} more wait, and nothing is lost"
        )
        yield problem("deliveries", message, advice)
    else:
        tasks = pluralize(state.get("messages_unacknowledged", 0), "task is", "tasks are")
        yield ok("deliveries", f"{tasks} unacknowledged at workers, none for too long")


def _samples(stats: dict[str, Any], name: str) -> list[int]:
    """Return the samples of the metric `name`, the newest first."""
    return [sample["sample"] for sample in (stats.get(name) or {}).get("samples", [])]


async def check_connections(context: CheckContext) -> AsyncIterator[CheckResult]:
    assert context.management is not None
    connections = await context.management.connections()
    others = [connection for connection in connections if _name_of(connection) != OWN_CONNECTION]
    blocked = [connection for connection in others if connection.get("state") in ("blocked", "blocking")]
    total = pluralize(len(others), "connection", "connections")
    if blocked:
        names = ", ".join(sorted({_name_of(connection) for connection in blocked}))
        yield problem("connections", f"RabbitMQ blocks {len(blocked)} of {total}: {names}", ON_ALARM)
    else:
        yield ok("connections", f"{total}, none is blocked")


def _name_of(connection: dict[str, Any]) -> str:
    name = (connection.get("client_properties") or {}).get("connection_name")
    return str(name or connection.get("name") or "without a name")


async def check_clock(context: CheckContext) -> AsyncIterator[CheckResult]:
    assert context.management is not None
    server_time = await context.management.clock()
    if server_time is None:
        yield skipped("RabbitMQ clock", "the management API does not report its time")
        return
    yield compare_clocks("RabbitMQ clock", "RabbitMQ", (server_time - context.now()).total_seconds())
