"""Counters of the messages that this process has exchanged with RabbitMQ."""

from dataclasses import dataclass


@dataclass
class Counts:
    """Messages since this process started. The names are reported with its heartbeat and in the queue metrics.

    nacked: refused by the server. returned: no queue was bound to the routing key. errors: no answer at all.
    """

    published: int = 0
    consumed: int = 0
    nacked: int = 0
    returned: int = 0
    errors: int = 0
