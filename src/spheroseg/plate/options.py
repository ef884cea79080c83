"""Options of plates and growth curves that a user can choose."""

import math
from dataclasses import dataclass
from enum import StrEnum

from spheroseg.errors import BadPlate
from spheroseg.plate.conditions import ConditionRow

# The number of concentrations above 0 that an IC50 needs.
MIN_CONCENTRATIONS = 4


class VolumeMethod(StrEnum):
    """The formula of the volume. docs/metrics.md defines each of them."""

    SPHERE = "sphere"
    LW2 = "lw2"
    PROLATE = "prolate"
    REVOLUTION = "revolution"


class WellValue(StrEnum):
    """Which objects of an image count for its well: the one of the largest area, or the sum of all."""

    LARGEST = "largest"
    SUM = "sum"


@dataclass(frozen=True)
class GrowthOptions:
    """How growth is computed.

    t0_h: the time in hours that relative values refer to. None means the earliest time of each plate.
    Raises BadPlate if it is not a finite number.
    """

    volume_method: VolumeMethod = VolumeMethod.SPHERE
    well_value: WellValue = WellValue.LARGEST
    t0_h: float | None = None

    def __post_init__(self) -> None:
        if self.t0_h is not None and not math.isfinite(self.t0_h):
            raise BadPlate(f"t0 is {self.t0_h!r}; it must be a number of hours")


class Measure(StrEnum):
    """The measure that curves, fits and the heat map show."""

    VOLUME = "volume"
    AREA = "area"
    DIAMETER = "diameter"
    REL_VOLUME = "rel_volume"
    REL_AREA = "rel_area"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the well table with this measure: the calibrated one, then the one in px."""
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
    """How a folder is read as a plate, and what is computed from it.

    pattern: "auto", "off", a preset or the user's own pattern, see `names.parse_names`. conditions: the rows of
    `conditions_file`. wells: the number of wells of the plate, if known. interval_h: hours between numbered time
    points. at_h: the time in hours of the heat map and of the endpoint table; None means the last time that most
    wells have.
    """

    pattern: str = "auto"
    conditions: tuple[ConditionRow, ...] = ()
    conditions_file: str | None = None
    wells: int | None = None
    interval_h: float | None = None
    growth: GrowthOptions = GrowthOptions()
    measure: Measure = Measure.VOLUME
    at_h: float | None = None
