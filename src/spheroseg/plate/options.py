"""What a person chooses for growth curves."""

import math
from dataclasses import dataclass
from enum import StrEnum

from spheroseg.errors import BadPlate
from spheroseg.plate.conditions import Row


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


class Measure(StrEnum):
    """What curves, fits and the heat map are of."""

    VOLUME = "volume"
    AREA = "area"
    DIAMETER = "diameter"
    REL_VOLUME = "rel_volume"
    REL_AREA = "rel_area"

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the well rows that have it: calibrated, then in px."""
        return _COLUMNS[self]


_COLUMNS = {
    Measure.VOLUME: ("volume_um3", "volume_px3"),
    Measure.AREA: ("area_um2", "area_px2"),
    Measure.DIAMETER: ("eq_diameter_um", "eq_diameter_px"),
    Measure.REL_VOLUME: ("rel_volume",),
    Measure.REL_AREA: ("rel_area",),
}


@dataclass(frozen=True)
class PlateOptions:
    """How a folder is read as a plate, and what is made of it.

    pattern: auto, off, a preset or a person's own, see `names.parse`. conditions: lines of `conditions_file`.
    interval_h: hours between time points that are only numbered. at_h: the hours of the heat map and the endpoint
    table; None: the last time that most wells have.
    """

    pattern: str = "auto"
    conditions: tuple[Row, ...] = ()
    conditions_file: str | None = None
    wells: int | None = None
    interval_h: float | None = None
    growth: GrowthOptions = GrowthOptions()
    measure: Measure = Measure.VOLUME
    at_h: float | None = None
