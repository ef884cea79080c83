"""A user's own API tokens."""

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from spheroseg.api.auth import ThePlace, TheUser
from spheroseg.api.fields import ShortName
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.database.accounts import MAX_TOKEN_DAYS, create_token, page_of_tokens, read_token, revoke_token
from spheroseg.database.engine import reading

router = APIRouter(prefix="/me/tokens", tags=["me"])


class Token(BaseModel):
    """expires_at: null where it is valid until revoked. last_used_at: to the minute."""

    id: UUID
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewToken(BaseModel):
    """days: how long it is valid; null: until revoked."""

    name: ShortName
    days: Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)] | None = None


class CreatedToken(Token):
    """token: shown here only, and kept nowhere."""

    token: str


@router.get("")
async def list_own_tokens(place: ThePlace, user: TheUser, limit: Limit = 100, cursor: Cursor = None) -> Page[Token]:
    """Your tokens, revoked and expired ones too, oldest first; never the tokens themselves."""
    async with reading(place.engine) as conn:
        rows = await page_of_tokens(conn, user.id, limit + 1, read_cursor(cursor, UUID))
    return Page(
        items=[Token.model_validate(row._asdict()) for row in rows[:limit]],
        next_cursor=write_cursor(rows, limit, lambda row: row.id),
    )


@router.post("", status_code=201)
async def create_own_token(place: ThePlace, user: TheUser, new: NewToken) -> CreatedToken:
    """Make another token of your own. 409 where you have, or had, one of that name."""
    async with place.engine.begin() as conn:
        lifetime = timedelta(days=new.days) if new.days else None
        token, id_ = await create_token(conn, user.id, new.name, lifetime)
        row = await read_token(conn, id_)
    return CreatedToken(**Token.model_validate(row._asdict()).model_dump(), token=token)


@router.delete("/{token_id}", status_code=204)
async def revoke_own_token(place: ThePlace, user: TheUser, token_id: UUID) -> None:
    """Make a token of your own useless, at once and for good; also the one that you send."""
    async with place.engine.begin() as conn:
        await revoke_token(conn, user.id, token_id)
