"""The user who sends the request."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.queueing.submit import PRIORITIES
from spheroseg.queueing.webhooks import webhook_secret

router = APIRouter(tags=["me"])


class Me(BaseModel):
    """priority: of this user's tasks; it follows from the tier. webhook_secret: signs the webhooks of this user."""

    id: UUID
    name: str
    tier: str
    role: str
    priority: int
    webhook_secret: str


@router.get("/me")
async def read_me(user: CurrentUser, resources: AppResources) -> Me:
    """Read whose token this is."""
    secret = webhook_secret(resources.settings.secret_key, user.id)
    return Me(
        id=user.id,
        name=user.name,
        tier=user.tier,
        role=user.role,
        priority=PRIORITIES[user.tier],
        webhook_secret=secret,
    )
