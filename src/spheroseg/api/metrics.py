"""What this backend process does, for Prometheus. What the whole does, the exporter tells."""

import time
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spheroseg.api.hub import Hub

router = APIRouter()

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
UNKNOWN = "unknown"
# Anybody may send any word.
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
        batches = Gauge("spheroseg_live_batches", "Batches that they watch.", registry=self.registry)
        batches.set_function(lambda: len(hub.batches))


class Timing:
    """Middleware: observes every request. A route is told as its template, so that ids make no series."""

    def __init__(self, app: ASGIApp, metrics: BackendMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route: Any = scope.get("route")
            method = scope["method"] if scope["method"] in METHODS else UNKNOWN
            labels = (method, getattr(route, "path", UNKNOWN), str(status))
            self.metrics.requests.labels(*labels).observe(time.perf_counter() - began)


@router.get("/metrics", include_in_schema=False)
async def read_metrics(request: Request) -> Response:
    metrics: BackendMetrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
