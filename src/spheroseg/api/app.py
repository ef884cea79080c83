"""The application of the backend: all routers, middleware and error handlers together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from spheroseg import __version__
from spheroseg.api import (
    admin,
    batches,
    failures,
    health,
    images,
    live,
    me,
    metrics,
    projects,
    relay,
    results,
    submissions,
    tasks,
    tokens,
    uploads,
)
from spheroseg.api.auth import finish_recording
from spheroseg.api.hub import Hub
from spheroseg.api.problems import RESPONSES, handle_problems
from spheroseg.resources import Resources

# A body is read before its user is known. This has room for 100,000 ids. Uploads are streams with their own limits.
MAX_JSON_BYTES = 4 * 1024**2

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    live.router,
    me.router,
    tokens.router,
    projects.router,
    uploads.router,
    images.router,
    submissions.router,
    batches.router,
    results.router,
    tasks.router,
    admin.router,
    failures.router,
    relay.router,
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    running = asyncio.create_task(app.state.hub.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await finish_recording()


def create_app(resources: Resources) -> FastAPI:
    """Return the application. The caller opens and closes `resources`."""
    app = FastAPI(
        title="spheroseg",
        version=__version__,
        summary="Microscope images of tumour spheroids in, calibrated outlines and measurements out.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.resources = resources
    app.state.hub = Hub(resources)
    app.state.metrics = metrics.BackendMetrics(app.state.hub)
    app.add_middleware(metrics.TimingMiddleware, metrics=app.state.metrics)
    handle_problems(app)
    for router in ROUTERS:
        limit = None if router is uploads.router else MAX_JSON_BYTES
        app.include_router(router, prefix="/api", responses=RESPONSES, max_body_size=limit)
    app.include_router(metrics.router)
    return app
