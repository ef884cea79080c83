"""The user who asks."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from spheroseg.api.auth import ThePlace, TheUser
from spheroseg.queueing.submit import PRIORITIES
from spheroseg.queueing.webhooks import webhook_secret

router = APIRouter(tags=["me"])


class Me(BaseModel):
    """priority: of this user's tasks, from the tier. webhook_secret: with which this user's webhooks are signed."""

    id: UUID
    name: str
    tier: str
    role: str
    priority: int
    webhook_secret: str


@router.get("/me")
async def read_me(user: TheUser, place: ThePlace) -> Me:
    """Whose token this is."""
    secret = webhook_secret(place.settings.secret_key, user.id)
    return Me(**vars(user), priority=PRIORITIES[user.tier], webhook_secret=secret)
