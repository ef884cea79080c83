"""Typed rows: what a query returns, as the NamedTuple or dataclass that its function promises."""

from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import Row

T = TypeVar("T")


def typed(row_type: type[T], row: Row[Any]) -> T:
    """Return `row` as a `row_type`, whose fields have the names of the columns."""
    return row_type(**row._mapping)


def typed_or_none(row_type: type[T], row: Row[Any] | None) -> T | None:
    """Return `row` as a `row_type`, or None if there is no row."""
    return None if row is None else typed(row_type, row)


def typed_list(row_type: type[T], rows: Iterable[Row[Any]]) -> list[T]:
    """Return `rows` as a list of `row_type`."""
    return [row_type(**row._mapping) for row in rows]
