"""Kinds of values in requests."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _storable(value: str) -> str:
    # PostgreSQL stores no NUL in text.
    if "\x00" in value:
        raise ValueError("must not contain the character NUL")
    return value


# Of a user, a token.
ShortName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_storable)
]
# Of a project, an image.
LongName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000), AfterValidator(_storable)
]
# Part of a name, in a search.
StorableText = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_storable)]
