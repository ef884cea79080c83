"""The four names that the specification promises, from RabbitMQ's management API."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, UnknownMetricFamily

from spheroseg.broker.management import Management
from spheroseg.errors import BadSettings

LABELS = ("vhost", "queue")


class RabbitFigures:
    """management: None where RABBITMQ_MANAGEMENT_URL is not set, which counts as a RabbitMQ that is away."""

    def __init__(self, management: Management | None) -> None:
        self._management = management

    async def ask(self) -> list[Metric]:
        """Raises BrokerAway or BadSettings where RabbitMQ cannot be asked."""
        if self._management is None:
            raise BadSettings("set RABBITMQ_MANAGEMENT_URL, as http://USER:PASSWORD@HOST:15672")
        return queue_metrics(await self._management.queues())


def queue_metrics(queues: Sequence[dict[str, Any]]) -> list[Metric]:
    """Of every queue but those that come and go with a connection, in the words of the management API."""
    families: list[GaugeMetricFamily | UnknownMetricFamily] = [
        GaugeMetricFamily(
            "rabbitmq_queue_messages", "Messages in the queue, ready and unacknowledged.", labels=LABELS
        ),
        GaugeMetricFamily("rabbitmq_queue_consumers", "Consumers of the queue.", labels=LABELS),
        # Cumulative, but a counter would have to be called _total.
        UnknownMetricFamily(
            "rabbitmq_queue_message_stats_publish",
            "Messages published to the queue since it or its node was made; cumulative.",
            labels=LABELS,
        ),
        UnknownMetricFamily(
            "rabbitmq_queue_message_stats_deliver_get",
            "Messages handed out since then, redelivered ones included; cumulative.",
            labels=LABELS,
        ),
    ]
    for queue in queues:
        # For the first seconds of its life, or of the node's, RabbitMQ does not say yet.
        if queue.get("exclusive") or queue.get("auto_delete") or "messages" not in queue:
            continue
        stats = queue.get("message_stats") or {}
        values = (queue["messages"], queue.get("consumers", 0), stats.get("publish", 0), stats.get("deliver_get", 0))
        for family, value in zip(families, values, strict=True):
            family.add_metric([queue["vhost"], queue["name"]], value)
    return list(families)
