"""What a person chooses for growth curves."""

import math
from dataclasses import dataclass
from enum import StrEnum

from spheroseg.errors import BadPlate


class VolumeMethod(StrEnum):
    """Which formula gives the volume; docs/metrics.md has them."""

    SPHERE = "sphere"
    LW2 = "lw2"
    PROLATE = "prolate"
    REVOLUTION = "revolution"


class WellValue(StrEnum):
    """What an image with several objects says of its well."""

    LARGEST = "largest"
    SUM = "sum"


@dataclass(frozen=True)
class GrowthOptions:
    """`t0_h`: the hours that relative values start from; None: the earliest time of each plate.

    Raises BadPlate for hours that are no number.
    """

    volume_method: VolumeMethod = VolumeMethod.SPHERE
    well_value: WellValue = WellValue.LARGEST
    t0_h: float | None = None

    def __post_init__(self) -> None:
        if self.t0_h is not None and not math.isfinite(self.t0_h):
            raise BadPlate(f"t0 is {self.t0_h!r}; it must be a number of hours")
