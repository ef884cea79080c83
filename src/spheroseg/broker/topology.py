"""The topology at RabbitMQ: one table, from which it is declared, checked and exported.

A queue cannot be declared again with other arguments. Its arguments are therefore only what a policy cannot set or
correctness needs; everything that an operator may tune is a policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spheroseg.messages import Queue, QueueType

EXCHANGE = "segmentation"
DEAD_LETTER_EXCHANGE = "segmentation.dlx"
EXCHANGES: tuple[str, ...] = (EXCHANGE, DEAD_LETTER_EXCHANGE)

HOUR_MS = 3_600_000

# The value of an argument or of a key of a policy.
Argument = str | int


@dataclass(frozen=True)
class QueueSpec:
    """bindings: pairs of exchange and routing key. arguments: of a classic queue. policy: for operators to tune."""

    bindings: tuple[tuple[str, str], ...]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    policy: Mapping[str, Argument] = field(default_factory=dict)


QUEUES: Mapping[Queue, QueueSpec] = {
    Queue.TASKS: QueueSpec(
        bindings=((EXCHANGE, "task.new"),),
        arguments={"x-dead-letter-exchange": DEAD_LETTER_EXCHANGE, "x-max-priority": 10},
        # A message in excess of the limit is refused to the publisher, and dead-lettered so that people see it.
        policy={"message-ttl": HOUR_MS, "max-length": 100_000, "overflow": "reject-publish-dlx"},
    ),
    Queue.RESULTS: QueueSpec(
        bindings=((EXCHANGE, "task.completed"), (EXCHANGE, "task.failed"), (EXCHANGE, "task.started")),
        arguments={"x-dead-letter-exchange": DEAD_LETTER_EXCHANGE},
        policy={"max-length": 1_000_000, "overflow": "reject-publish"},
    ),
    Queue.DEAD_LETTERS: QueueSpec(
        bindings=((DEAD_LETTER_EXCHANGE, "#"),),
        policy={"message-ttl": 24 * HOUR_MS, "max-length": 1_000_000},
    ),
}


def arguments(queue: Queue, queue_type: QueueType) -> dict[str, Argument]:
    """Return the arguments with which `queue` is declared."""
    declared = dict(QUEUES[queue].arguments)
    if queue_type == QueueType.QUORUM:
        # A quorum queue refuses x-max-priority. Since RabbitMQ 4.0 it always has two priorities.
        declared.pop("x-max-priority", None)
        declared["x-queue-type"] = "quorum"
    return declared


def policy(queue: Queue, queue_type: QueueType) -> dict[str, Argument]:
    """Return the policy of `queue`."""
    definition = dict(QUEUES[queue].policy)
    if queue_type == QueueType.QUORUM and definition.get("overflow") == "reject-publish-dlx":
        # A quorum queue accepts this value, but then drops messages from the head.
        definition["overflow"] = "reject-publish"
    return definition


def definitions(queue_type: QueueType, vhost: str = "spheroseg") -> dict[str, Any]:
    """Return the topology as the content of a RabbitMQ definitions file, without users."""
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {"name": name, "vhost": vhost, "type": "topic", "durable": True, "auto_delete": False, "arguments": {}}
            for name in EXCHANGES
        ],
        "queues": [
            {
                "name": str(queue),
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": arguments(queue, queue_type),
            }
            for queue in QUEUES
        ],
        "bindings": [
            {
                "source": exchange,
                "vhost": vhost,
                "destination": str(queue),
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
            for queue, spec in QUEUES.items()
            for exchange, key in spec.bindings
        ],
        "policies": [
            {
                "name": str(queue),
                "vhost": vhost,
                "pattern": f"^{str(queue).replace('.', chr(92) + '.')}$",
                "apply-to": "queues",
                "priority": 0,
                "definition": policy(queue, queue_type),
            }
            for queue in QUEUES
        ],
    }
