"""Health: whether this process is alive, whether it can serve requests, and the health of the whole site.

Probes need no token for these.
"""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from spheroseg.api.auth import AppResources
from spheroseg.monitoring.health import check_health

router = APIRouter(tags=["health"])


class ComponentHealthOut(BaseModel):
    """status: ok, degraded, down or disabled. instances: the processes of this component and their statuses."""

    status: str
    reason: str | None
    since: datetime | None
    instances: list[dict[str, Any]]


class HealthOut(BaseModel):
    """status: ok; degraded: something is wrong, see `reason`; down: the database does not answer."""

    status: str
    reason: str | None
    since: datetime | None
    components: dict[str, ComponentHealthOut]


class ProbeOut(BaseModel):
    status: str


@router.get("/health", responses={503: {"model": HealthOut, "description": "Down"}})
async def read_health(resources: AppResources, response: Response) -> HealthOut:
    """Read the health of the whole site and of each component. The status code is 503 only if the site is down."""
    health = await check_health(resources)
    response.status_code = 503 if health.status == "down" else 200
    return HealthOut.model_validate(health.as_json())


@router.get("/health/live")
async def read_liveness() -> ProbeOut:
    """Liveness probe: this process answers. Restart a container that fails it."""
    return ProbeOut(status="ok")


@router.get("/health/ready", responses={503: {"model": ProbeOut, "description": "Not ready"}})
async def read_readiness(resources: AppResources, response: Response) -> ProbeOut:
    """Readiness probe: requests can be served. Send none to a container that fails it, and do not restart it."""
    health = await check_health(resources)
    if health.status == "down":
        response.status_code = 503
        return ProbeOut(status=health.reason or "down")
    return ProbeOut(status="ok")
