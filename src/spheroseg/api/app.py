"""The backend's HTTP interface, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from spheroseg import __version__
from spheroseg.api import admin, batches, health, images, live, me, metrics, projects, tasks, tokens
from spheroseg.api.auth import finish_notes
from spheroseg.api.hub import Hub
from spheroseg.api.problems import RESPONSES, handle_problems
from spheroseg.resources import Resources

# Read before anybody knows who is asking: room for 100,000 ids, and no more. Uploads are streams with their limits.
MOST_JSON = 4 * 1024**2

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    live.router,
    me.router,
    tokens.router,
    projects.router,
    images.router,
    batches.router,
    tasks.router,
    admin.router,
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    reading = asyncio.create_task(app.state.hub.run())
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await finish_notes()


def create_app(place: Resources) -> FastAPI:
    app = FastAPI(
        title="spheroseg",
        version=__version__,
        summary="Microscope images of tumour spheroids in, calibrated outlines and measurements out.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.place = place
    app.state.hub = Hub(place)
    app.state.metrics = metrics.BackendMetrics(app.state.hub)
    app.add_middleware(metrics.Timing, metrics=app.state.metrics)
    handle_problems(app)
    for router in ROUTERS:
        limit = None if router is images.router else MOST_JSON
        app.include_router(router, prefix="/api", responses=RESPONSES, max_body_size=limit)
    app.include_router(metrics.router)
    return app
