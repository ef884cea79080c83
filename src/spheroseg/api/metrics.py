"""Metrics of this backend process for Prometheus. The metrics of the whole site come from the exporter."""

import time

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spheroseg.api.exposition import registry_exposition
from spheroseg.api.hub import Hub

router = APIRouter()

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
UNKNOWN = "unknown"
# A client may send any word as the method, which must not become a label.
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class BackendMetrics:
    def __init__(self, hub: Hub) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "spheroseg_http_request_seconds",
            "Time until a request is answered, by route and status.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        clients = Gauge("spheroseg_live_clients", "Connected WebSocket clients.", registry=self.registry)
        clients.set_function(lambda: len(hub.clients))
        batches = Gauge("spheroseg_live_batches", "Batches watched by WebSocket clients.", registry=self.registry)
        batches.set_function(lambda: len(hub.batches))


class TimingMiddleware:
    """Measures every request. The label of a route is its template, so that ids do not make new time series."""

    def __init__(self, app: ASGIApp, metrics: BackendMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN)
            method = scope["method"] if scope["method"] in METHODS else UNKNOWN
            self.metrics.requests.labels(method, route, str(status)).observe(time.perf_counter() - began)


@router.get("/metrics", include_in_schema=False)
async def read_metrics(request: Request) -> Response:
    metrics: BackendMetrics = request.app.state.metrics
    return registry_exposition(metrics.registry)
