"""Splits and joins the quality flags of a row, separated by ; in the column qc_flags. See docs/growth.md."""

from collections.abc import Iterable


def split_flags(text: str | None) -> list[str]:
    """Return the flags of a cell of the column qc_flags, which may be empty."""
    return [flag for flag in (text or "").split(";") if flag]


def join_flags(flags: Iterable[str]) -> str:
    """Return the cell for these flags, each of them once and in the order given."""
    return ";".join(dict.fromkeys(flags))
