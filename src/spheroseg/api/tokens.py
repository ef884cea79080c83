"""The API tokens of the user who sends the request."""

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.fields import ShortName
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.database.accounts import MAX_TOKEN_DAYS, create_token, page_of_tokens, read_token, revoke_token
from spheroseg.database.engine import reading

router = APIRouter(prefix="/me/tokens", tags=["me"])


class Token(BaseModel):
    """expires_at: null if the token is valid until it is revoked. last_used_at: accurate to a minute."""

    id: UUID
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewToken(BaseModel):
    """days: how long the token is valid; null means until it is revoked."""

    name: ShortName
    days: Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)] | None = None


class CreatedToken(Token):
    """token: shown only here; the server stores its hash alone."""

    token: str


@router.get("")
async def list_own_tokens(
    resources: AppResources, user: CurrentUser, limit: Limit = 100, cursor: Cursor = None
) -> Page[Token]:
    """List your tokens, the oldest first, including revoked and expired ones. The tokens themselves are not shown."""
    async with reading(resources.engine) as conn:
        rows = await page_of_tokens(conn, user.id, limit + 1, read_cursor(cursor, UUID))
    return Page(
        items=[Token.model_validate(row, from_attributes=True) for row in rows[:limit]],
        next_cursor=write_cursor(rows, limit, lambda row: row.id),
    )


@router.post("", status_code=201)
async def create_own_token(resources: AppResources, user: CurrentUser, new: NewToken) -> CreatedToken:
    """Create another token for yourself. 409 if you have, or had, one of that name."""
    async with resources.engine.begin() as conn:
        lifetime = timedelta(days=new.days) if new.days else None
        token, id_ = await create_token(conn, user.id, new.name, lifetime)
        row = await read_token(conn, id_)
    return CreatedToken(**Token.model_validate(row, from_attributes=True).model_dump(), token=token)


@router.delete("/{token_id}", status_code=204)
async def revoke_own_token(resources: AppResources, user: CurrentUser, token_id: UUID) -> None:
    """Revoke a token of your own, at once and for good. It may be the one that you send."""
    async with resources.engine.begin() as conn:
        await revoke_token(conn, user.id, token_id)
