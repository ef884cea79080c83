"""Lists in pages: a cursor says after which row the next page begins, so rows that come meanwhile shift nothing."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from spheroseg.errors import BadRequest

T = TypeVar("T")
K = TypeVar("K")

Limit = Annotated[int, Query(ge=1, le=1000, description="Rows on a page, at most.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    """next_cursor: for the next page; null on the last one."""

    items: list[T]
    next_cursor: str | None = None


def read_cursor(cursor: str | None, kind: Callable[[str], K]) -> K | None:
    """The key in a cursor. Raises BadRequest where it is none of ours."""
    if cursor is None:
        return None
    try:
        return kind(base64.urlsafe_b64decode(cursor.encode()).decode())
    except (ValueError, binascii.Error):
        raise BadRequest("the cursor is none of ours: take `next_cursor` as it is, or leave it out") from None


def write_cursor(rows: Sequence[Any], limit: int, key: Callable[[Any], Any]) -> str | None:
    """The cursor behind `rows`, of which one more than `limit` was read if there are more."""
    if len(rows) <= limit:
        return None
    return base64.urlsafe_b64encode(str(key(rows[limit - 1])).encode()).decode()
