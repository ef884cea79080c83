"""The HTTP interface of the exporter."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI, Request, Response

from spheroseg import __version__
from spheroseg.api.exposition import exposition
from spheroseg.monitoring.exporter import Exporter, ExporterHealth


def create_exporter_app(open_exporter: Callable[[], AbstractAsyncContextManager[Exporter]]) -> FastAPI:
    """Return the application. It enters `open_exporter()` when the server starts and leaves it when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_exporter() as exporter:
            app.state.exporter = exporter
            yield

    app = FastAPI(title="spheroseg exporter", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Read the metrics in the format of Prometheus."""
        return exposition(await request.app.state.exporter.metrics())

    @app.get("/health")
    async def health(request: Request) -> ExporterHealth:
        """Read whether the sources of the metrics answer. The status code is 200 while the process answers."""
        answer: ExporterHealth = await request.app.state.exporter.health()
        return answer

    return app
