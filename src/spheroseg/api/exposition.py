"""Figures as Prometheus reads them."""

from collections.abc import Iterable

from fastapi import Response
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector


class _Found(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(metrics: Iterable[Metric]) -> Response:
    """The answer of a `/metrics`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(list(metrics)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
