"""The four metrics of RabbitMQ's queues, read from its management API."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, UnknownMetricFamily

from spheroseg.broker.management import Management
from spheroseg.errors import BadSettings

LABELS = ("vhost", "queue")


class RabbitMetrics:
    def __init__(self, management: Management | None) -> None:
        """management: None if RABBITMQ_MANAGEMENT_URL is not set. Then `read` always raises BadSettings."""
        self._management = management

    async def read(self) -> list[Metric]:
        """Query the management API. Raise BrokerAway or BadSettings if that is not possible."""
        if self._management is None:
            raise BadSettings("set RABBITMQ_MANAGEMENT_URL, as http://USER:PASSWORD@HOST:15672")
        return rabbitmq_metrics(await self._management.queues())


def rabbitmq_metrics(queues: Sequence[dict[str, Any]]) -> list[Metric]:
    """Convert `queues`, as the management API lists them, except those that disappear with their connection."""
    families: list[GaugeMetricFamily | UnknownMetricFamily] = [
        GaugeMetricFamily(
            "rabbitmq_queue_messages", "Messages in the queue, ready and unacknowledged.", labels=LABELS
        ),
        GaugeMetricFamily("rabbitmq_queue_consumers", "Consumers of the queue.", labels=LABELS),
        # These two are cumulative, but the client library would append _total to the name of a counter.
        UnknownMetricFamily(
            "rabbitmq_queue_message_stats_publish",
            "Messages published to the queue since it was declared or its node started; cumulative.",
            labels=LABELS,
        ),
        UnknownMetricFamily(
            "rabbitmq_queue_message_stats_deliver_get",
            "Messages delivered since then, including redelivered ones; cumulative.",
            labels=LABELS,
        ),
    ]
    for queue in queues:
        # In the first seconds after a queue is declared or a node starts, RabbitMQ has no counts yet.
        if queue.get("exclusive") or queue.get("auto_delete") or "messages" not in queue:
            continue
        stats = queue.get("message_stats") or {}
        values = (queue["messages"], queue.get("consumers", 0), stats.get("publish", 0), stats.get("deliver_get", 0))
        for family, value in zip(families, values, strict=True):
            family.add_metric([queue["vhost"], queue["name"]], value)
    return list(families)
