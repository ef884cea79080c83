"""Metrics in the text format that Prometheus reads."""

from collections.abc import Iterable

from fastapi import Response
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector


class _Constant(Collector):
    """Collects metrics that have been read already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(metrics: Iterable[Metric]) -> Response:
    """Return the response of a `/metrics` endpoint."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Constant(list(metrics)))
    return registry_exposition(registry)


def registry_exposition(registry: CollectorRegistry) -> Response:
    """Return the response of a `/metrics` endpoint, with the current values of `registry`."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
