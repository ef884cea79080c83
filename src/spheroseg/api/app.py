"""The backend's HTTP interface, put together."""

from fastapi import APIRouter, FastAPI

from spheroseg import __version__
from spheroseg.api import images, me, projects, tokens
from spheroseg.api.problems import RESPONSES, handle_problems
from spheroseg.services import Place

ROUTERS: tuple[APIRouter, ...] = (me.router, tokens.router, projects.router, images.router)


def create_app(place: Place) -> FastAPI:
    app = FastAPI(
        title="spheroseg",
        version=__version__,
        summary="Microscope images of tumour spheroids in, calibrated outlines and measurements out.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.place = place
    handle_problems(app)
    for router in ROUTERS:
        app.include_router(router, prefix="/api", responses=RESPONSES)
    return app
