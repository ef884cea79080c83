"""Lists in pages. A cursor names the last row of a page, so rows that are added meanwhile shift nothing."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from spheroseg.errors import BadRequest

T = TypeVar("T")
Key = TypeVar("Key")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum number of rows on a page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")]


class Page(BaseModel, Generic[T]):
    """next_cursor: for the next page; null on the last one."""

    items: list[T]
    next_cursor: str | None = None


def read_cursor(cursor: str | None, parse: Callable[[str], Key]) -> Key | None:
    """Return the key in a cursor. Raise BadRequest if `write_cursor` did not make it."""
    if cursor is None:
        return None
    try:
        return parse(base64.urlsafe_b64decode(cursor.encode()).decode())
    except (ValueError, binascii.Error):
        raise BadRequest("this cursor is invalid: send `next_cursor` unchanged, or leave it out") from None


def write_cursor(rows: Sequence[Row], limit: int, key: Callable[[Row], object]) -> str | None:
    """Return the cursor for the page after the first `limit` of `rows`, or None if there are no more rows."""
    if len(rows) <= limit:
        return None
    return base64.urlsafe_b64encode(str(key(rows[limit - 1])).encode()).decode()
