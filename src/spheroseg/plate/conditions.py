"""The condition of a well, and the rows of a table of conditions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spheroseg.plate.wells import Well


@dataclass(frozen=True)
class Condition:
    """The treatment of a well.

    concentration: in `unit`; None if there is none. extra_columns: (column, text) pairs of the columns of the user's
    table that spheroseg does not know, in their order. A condition that equals NO_CONDITION is false.
    """

    name: str = ""
    drug: str = ""
    concentration: float | None = None
    unit: str = ""
    replicate: str = ""
    extra_columns: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self != NO_CONDITION

    @property
    def label(self) -> str:
        """The name of the condition, or else its drug and concentration. Replicates share one label."""
        if self.name:
            return self.name
        amount = "" if self.concentration is None else f"{self.concentration:g} {self.unit}".strip()
        return " ".join(filter(None, [self.drug, amount]))


NO_CONDITION = Condition()


@dataclass(frozen=True)
class ConditionRow:
    """One line of a table of conditions. It is about one image, or about wells, or about a sample.

    line: its number in the file, from 1. corrections: fields of PlatePosition that replace those read from the name
    of the image.
    """

    line: int
    condition: Condition
    image: str = ""
    plate: str | None = None
    wells: tuple[Well, ...] = ()
    sample: str | None = None
    corrections: Mapping[str, object] = field(default_factory=dict)
