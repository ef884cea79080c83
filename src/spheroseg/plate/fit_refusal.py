"""The reason why a curve is not fitted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FitRefusal:
    """The reason why the data do not support a fit. `reason` is the sentence for the column `refused`."""

    reason: str
