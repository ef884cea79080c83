"""Types of values in requests."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints


def _reject_nul(value: str) -> str:
    # PostgreSQL cannot store NUL in text.
    if "\x00" in value:
        raise ValueError("must not contain the character NUL")
    return value


# Names of users and tokens.
ShortName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_reject_nul)
]
# Names of projects and images.
LongName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000), AfterValidator(_reject_nul)
]
# A part of a name, in a search.
StorableText = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_reject_nul)]
# The largest id of a row that PostgreSQL can store.
MAX_ROW_ID = 2**63 - 1
RowId = Annotated[int, Field(ge=1, le=MAX_ROW_ID)]


def parse_row_id(text: str) -> int:
    """Raise ValueError if `text` cannot be the id of a row."""
    number = int(text)
    if not 0 < number <= MAX_ROW_ID:
        raise ValueError("no row has such an id")
    return number
