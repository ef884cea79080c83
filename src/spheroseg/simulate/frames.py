"""Lists the frames of a simulated plate, with their file names, true sizes and faults."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from spheroseg.plate.wells import Well
from spheroseg.simulate.design import Design, Format, Naming, WellPlan
from spheroseg.simulate.laws import disk_um2

PLATE = "simulated"


class Fault(StrEnum):
    """A deliberate fault of a file or of a well."""

    TRUNCATED = "truncated"
    TEXT = "text"
    ZERO_BYTES = "zero_bytes"
    EMPTY_WELL = "empty_well"
    STACK = "stack"


MEANINGS = {
    Fault.TRUNCATED: "the second half of the file is missing",
    Fault.TEXT: "a text file with the name of an image",
    Fault.ZERO_BYTES: "an empty file",
    Fault.EMPTY_WELL: "no spheroid in the well, loose cells only",
    Fault.STACK: "all times of the well as pages of one TIFF of 16 bit",
}
BROKEN = (Fault.TRUNCATED, Fault.TEXT, Fault.ZERO_BYTES)


@dataclass(frozen=True)
class Frame:
    """One well at one time.

    `number`: number of the time point, from 0. `page`: page in the file, from 1, as in results.csv. `fault`: None if
    there is none.
    """

    plan: WellPlan
    number: int
    hours: float
    name: str
    page: int = 1
    fault: Fault | None = None

    @property
    def volume_um3(self) -> float:
        """The true volume."""
        return self.plan.growth.volume_um3(self.hours)

    @property
    def area_um2(self) -> float:
        """The true area of the outline."""
        return disk_um2(self.volume_um3)

    @property
    def eq_diameter_um(self) -> float:
        """The diameter of a disk of that area."""
        return 2 * math.sqrt(self.area_um2 / math.pi)


def plan_frames(design: Design) -> list[Frame]:
    """Return all frames, well by well, in order of time."""
    faults = _choose_faults(design)
    frames = []
    for plan in design.plan:
        well_fault = faults.get((plan.well, None))
        is_stack = well_fault == Fault.STACK
        for number, hours in enumerate(design.hours):
            name = stack_name(design, plan.well) if is_stack else file_name(design, plan.well, number, hours)
            fault = well_fault or faults.get((plan.well, number))
            frames.append(Frame(plan, number, hours, name, number + 1 if is_stack else 1, fault))
    return frames


def _choose_faults(design: Design) -> dict[tuple[Well, int | None], Fault]:
    """Return faults by well and number of the time point (None: all times). No well has two faults."""
    if not design.has_faults:
        return {}
    rng = np.random.default_rng([design.seed, 0xFA])
    chosen = [design.plan[int(index)].well for index in rng.permutation(design.wells)[: len(Fault)]]
    times = rng.integers(1, design.times, len(BROKEN))
    broken: dict[tuple[Well, int | None], Fault] = {
        (chosen[i], int(times[i])): fault for i, fault in enumerate(BROKEN)
    }
    return broken | {(chosen[3], None): Fault.EMPTY_WELL, (chosen[4], None): Fault.STACK}


def file_name(design: Design, well: Well, number: int, hours: float) -> str:
    """Return the file name that the software of the microscope would choose. It counts times and sites from 1."""
    whole, minutes = divmod(round(hours * 60), 60)
    if design.naming == Naming.IMAGEXPRESS:
        stem = f"TimePoint_{number + 1}/{PLATE}_{well}_s1_w1"
    elif design.naming == Naming.INCUCYTE:
        stem = f"{PLATE}_Brightfield_{_short_name(well)}_1_{whole // 24:02d}d{whole % 24:02d}h{minutes:02d}m"
    elif design.naming == Naming.YOKOGAWA:
        stem = f"{PLATE}_{well}_T{number + 1:04d}F001L01A01Z01C01"
    else:
        stem = f"{well}_t{whole:03d}h" + (f"{minutes:02d}m" if minutes else "")
    return f"{stem}.{design.format}"


def stack_name(design: Design, well: Well) -> str:
    """Return the name of a file with all times. The name has no time if the naming allows that."""
    if design.naming == Naming.PLAIN:
        return f"{well}.{Format.TIF}"
    return file_name(design, well, 0, 0.0).rpartition(".")[0] + f".{Format.TIF}"


def plate_name(design: Design) -> str:
    """Return the name of the plate that the file names contain."""
    return "" if design.naming == Naming.PLAIN else PLATE


def _short_name(well: Well) -> str:
    return f"{well.name[:1]}{well.column + 1}" if well.row < 26 else f"{well.name[:2]}{well.column + 1:02d}"
