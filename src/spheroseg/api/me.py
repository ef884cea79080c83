"""The user who asks."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from spheroseg.api.auth import TheUser
from spheroseg.submit import PRIORITIES

router = APIRouter(tags=["me"])


class Me(BaseModel):
    """priority: of this user's tasks, from the tier."""

    id: UUID
    name: str
    tier: str
    role: str
    priority: int


@router.get("/me")
async def read_me(user: TheUser) -> Me:
    """Whose token this is."""
    return Me(**vars(user), priority=PRIORITIES[user.tier])
