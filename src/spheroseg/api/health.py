"""Is it alive, can it serve, how does the whole stand. Without a token, for probes."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from spheroseg.api.auth import ThePlace
from spheroseg.monitoring.health import check_health

router = APIRouter(tags=["health"])


class PartOut(BaseModel):
    status: str
    reason: str | None
    since: datetime | None
    instances: list[dict[str, Any]]


class HealthOut(BaseModel):
    """status: ok; degraded: work goes on, and `reason` says what does not; down: it does not go on."""

    status: str
    reason: str | None
    since: datetime | None
    components: dict[str, PartOut]


class Alive(BaseModel):
    status: str


@router.get("/health", responses={503: {"model": HealthOut, "description": "Down"}})
async def read_health(place: ThePlace, response: Response) -> HealthOut:
    """How the whole stands, component by component; 503 only when it is down."""
    health = await check_health(place)
    response.status_code = 503 if health.status == "down" else 200
    return HealthOut.model_validate(health.as_json())


@router.get("/health/live")
async def read_live() -> Alive:
    """Alive: this process answers. A container that fails this is to be restarted."""
    return Alive(status="ok")


@router.get("/health/ready", responses={503: {"model": Alive, "description": "Not ready"}})
async def read_ready(place: ThePlace, response: Response) -> Alive:
    """Ready: requests can be served. One that fails this gets none, and is not restarted."""
    health = await check_health(place)
    if health.status == "down":
        response.status_code = 503
        return Alive(status=health.reason or "down")
    return Alive(status="ok")
