"""Checks over RabbitMQ's management API: alarms, topology and policies, limits, what is stuck in a hand."""

import math
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from spheroseg.broker.management import Finding as Difference
from spheroseg.broker.management import Management
from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue
from spheroseg.monitoring.doctor.amqp import ALARM, LOG, MEANWHILE, UNUSED
from spheroseg.monitoring.doctor.findings import Finding, Site, compare_clocks, ok, problem, several, skipped, warning

NEAR = 0.8
# The connection of the checks over AMQP.
OURS = "spheroseg doctor"
LITTLE_DISK_BYTES = 512 * 1024**2
# The API keeps its finest samples, one in 5 s, for ten minutes.
SAMPLE_SECONDS = 5
KEPT_SECONDS = 600
MARGIN_SECONDS = 10


async def look_at_management(site: Site) -> AsyncIterator[Finding]:
    if not site.settings.enable_message_queue:
        yield skipped("management API", UNUSED)
        return
    if not site.settings.rabbitmq_management_url:
        yield skipped(
            "management API",
            "RABBITMQ_MANAGEMENT_URL is not set: policies, memory, limits and stuck deliveries cannot be seen",
            "set it to http://USER:PASSWORD@HOST:15672, of a user with the tag monitoring",
        )
        return
    management = Management(site.settings.rabbitmq_management_url, site.settings.rabbitmq_url)
    try:
        await management.nodes()
    except BrokerAway as error:
        await management.close()
        yield skipped("management API", str(error), _step(str(error)))
        return
    except Exception:
        await management.close()
        raise
    site.management = management
    yield ok("management API", "answers")


def _step(words: str) -> str:
    if "refuses" in words:
        return "correct user and password in RABBITMQ_MANAGEMENT_URL; `rabbitmqctl set_user_tags USER monitoring`"
    return "correct RABBITMQ_MANAGEMENT_URL; `rabbitmq-plugins enable rabbitmq_management` where it is not enabled"


async def look_at_alarms(site: Site) -> AsyncIterator[Finding]:
    assert site.management is not None
    for node in await site.management.nodes():
        if not node.get("running", True):
            yield problem("alarms", f"the node {node['name']} is down", f"start it, and look into its log: {LOG}")
            continue
        if "mem_used" not in node:
            yield skipped("alarms", f"the node {node['name']} has only just started: it has told no figures yet")
            continue
        name, used, limit = node["name"], node["mem_used"], node["mem_limit"]
        free, least = node["disk_free"], node["disk_free_limit"]
        memory = f"{used / 1e6:.0f} of {limit / 1e6:.0f} MB of memory"
        disk = f"{free / 1e9:.1f} GB of disk free, at least {least / 1e9:.2f} GB"
        alarms = [
            kind
            for kind, on in (("memory", node.get("mem_alarm")), ("disk", node.get("disk_free_alarm")))
            if on or (kind == "memory" and used > limit) or (kind == "disk" and free < least)
        ]
        if "memory" in alarms:
            step = (
                "raise vm_memory_high_watermark in rabbitmq.conf, or give it less to keep: lower RELAY_WINDOW, see "
                f"`spheroseg queue list` for what waits; {MEANWHILE}"
            )
            yield problem("alarms", f"memory alarm on {name}: {memory}; it takes no messages", step)
        elif used > NEAR * limit:
            step = "raise vm_memory_high_watermark in rabbitmq.conf before it stops taking messages"
            yield warning("alarms", f"{name} is near its memory alarm: {memory}", step)
        if "disk" in alarms:
            step = f"free disk space on RabbitMQ's volume, or lower disk_free_limit in rabbitmq.conf; {MEANWHILE}"
            yield problem("alarms", f"disk alarm on {name}: {disk} asked for; it takes no messages", step)
        elif free < least + LITTLE_DISK_BYTES:
            yield warning("alarms", f"{name} is near its disk alarm: {disk} asked for", "free disk space there")
        if not alarms:
            yield ok("alarms", f"none on {name}: {memory}, {disk} asked for")


async def look_at_topology(site: Site) -> AsyncIterator[Finding]:
    """Exchanges, queues, bindings and policies, against what they should be."""
    assert site.management is not None
    # A missing queue is told by the check that asks over AMQP.
    missing = {f"the queue {queue} does not exist" for queue in Queue}
    compared = await site.management.check(site.settings.rabbitmq_queue_type)
    findings = [finding for finding in compared if finding.what not in missing]
    for what, step in _gathered(findings):
        is_later = "does not exist" in what or "policy" in what
        yield (warning if is_later else problem)("topology", what, step)
    if not compared:
        yield ok("topology", "exchanges, queues, bindings and policies are as they should be")


def _gathered(findings: Iterable[Difference]) -> Iterator[tuple[str, str]]:
    """All that is said of one queue's policy as one sentence."""
    said: dict[str, tuple[list[str], str]] = {}
    for finding in findings:
        subject, has, difference = finding.what.partition(" has ")
        is_policy = subject.startswith("the policy of")
        parts, _ = said.setdefault(f"{subject}{has}" if is_policy else finding.what, ([], finding.step))
        parts += [difference] if is_policy else []
    for start, (parts, step) in said.items():
        yield start + "; ".join(parts), step


async def look_at_limits(site: Site) -> AsyncIterator[Finding]:
    assert site.management is not None
    near = False
    for queue in Queue:
        found = await site.management.queue(queue) or {}
        most = (found.get("effective_policy_definition") or {}).get("max-length")
        ready = found.get("messages_ready", 0)
        if not isinstance(most, int) or ready < NEAR * most:
            continue
        near = True
        step = f"more workers, or a longer queue: raise max-length in the policy of {queue}; a smaller RELAY_WINDOW"
        if queue != Queue.TASKS:
            step = f"see that collect runs; raise max-length in the policy of {queue} if it does"
        if ready >= most:
            what = f"{queue} is full: {ready} of {most} messages, and more are refused or become dead letters"
            yield problem("limits", what, step)
        else:
            yield warning("limits", f"{queue} is nearly full: {ready} of {most} messages", step)
    if not near:
        yield ok("limits", "no queue is near its limit")


async def look_at_deliveries(site: Site) -> AsyncIterator[Finding]:
    """Consumers are there, and nothing moves: in somebody's hand for longer than any attempt may take."""
    assert site.management is not None
    seconds = math.ceil(site.settings.task_timeout_seconds) + MARGIN_SECONDS
    if seconds > KEPT_SECONDS:
        yield skipped(
            "deliveries", f"the API remembers {KEPT_SECONDS} s, less than TASK_TIMEOUT_SECONDS and a margin"
        )
        return
    found = await site.management.queue_history(Queue.TASKS, seconds, SAMPLE_SECONDS) or {}
    held = _samples(found, "messages_unacknowledged_details")
    acked = _samples(found.get("message_stats") or {}, "ack_details")
    is_whole = len(held) * SAMPLE_SECONDS >= seconds - SAMPLE_SECONDS
    if is_whole and min(held) > 0 and len(set(acked)) <= 1:
        tasks = several(held[0], "task", "tasks")
        what = f"{tasks} in workers' hands, and none was settled in the last {seconds} s"
        step = (
            f"the workers hang, or cannot report: look into their logs and at the alarms above, restart them; "
            f"{found.get('messages_ready', 0)} more wait, and nothing is lost"
        )
        yield problem("deliveries", what, step)
    else:
        yield ok(
            "deliveries", f"{found.get('messages_unacknowledged', 0)} tasks in workers' hands, none for too long"
        )


def _samples(found: dict[str, Any], name: str) -> list[int]:
    return [sample["sample"] for sample in (found.get(name) or {}).get("samples", [])]


async def look_at_connections(site: Site) -> AsyncIterator[Finding]:
    assert site.management is not None
    found = await site.management.connections()
    others = [connection for connection in found if _purpose(connection) != OURS]
    blocked = [connection for connection in others if connection.get("state") in ("blocked", "blocking")]
    if blocked:
        names = ", ".join(sorted({_purpose(connection) for connection in blocked}))
        what = f"RabbitMQ blocks {len(blocked)} of {several(len(others), 'connection', 'connections')}: {names}"
        yield problem("connections", what, ALARM)
    else:
        yield ok("connections", f"{several(len(others), 'connection', 'connections')}, none is blocked")


def _purpose(connection: dict[str, Any]) -> str:
    named = (connection.get("client_properties") or {}).get("connection_name")
    return str(named or connection.get("name") or "without a name")


async def look_at_clock(site: Site) -> AsyncIterator[Finding]:
    assert site.management is not None
    theirs = await site.management.clock()
    if theirs is None:
        yield skipped("RabbitMQ clock", "the management API does not tell the time")
        return
    yield compare_clocks("RabbitMQ clock", "RabbitMQ", (theirs - site.now()).total_seconds())
