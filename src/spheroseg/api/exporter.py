"""The HTTP face of the exporter."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

from spheroseg import __version__
from spheroseg.api.exposition import exposition
from spheroseg.monitoring.exporter import Exporter


def create_exporter_app(opening: Callable[[], AbstractAsyncContextManager[Exporter]]) -> FastAPI:
    """`opening` is entered when the server starts, and left when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opening() as exporter:
            app.state.exporter = exporter
            yield

    app = FastAPI(title="spheroseg exporter", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        return exposition(await request.app.state.exporter.metrics())

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        """200 while the process answers; `status` says whether it sees what it is to tell of."""
        answer: dict[str, Any] = await request.app.state.exporter.health()
        return answer

    return app
