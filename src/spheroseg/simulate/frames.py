"""Which pictures a plate has, what each is called, what it truly shows, and what is wrong with it."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from spheroseg.plate.wells import Well
from spheroseg.simulate.design import Design, Format, Naming, WellPlan
from spheroseg.simulate.laws import disk_um2

PLATE = "simulated"


class Fault(StrEnum):
    TRUNCATED = "truncated"
    TEXT = "text"
    ZERO_BYTES = "zero_bytes"
    EMPTY_WELL = "empty_well"
    STACK = "stack"


MEANINGS = {
    Fault.TRUNCATED: "the file breaks off half-way",
    Fault.TEXT: "a text under the name of an image",
    Fault.ZERO_BYTES: "a file of no bytes",
    Fault.EMPTY_WELL: "no spheroid in the well, loose cells only",
    Fault.STACK: "all times of the well as pages of one TIFF of 16 bit",
}
BROKEN = (Fault.TRUNCATED, Fault.TEXT, Fault.ZERO_BYTES)


@dataclass(frozen=True)
class Frame:
    """One well at one time. `page` counts from 1, as in results.csv. `fault`: None where there is none."""

    of: WellPlan
    number: int
    hours: float
    name: str
    page: int = 1
    fault: Fault | None = None

    @property
    def volume_um3(self) -> float:
        return self.of.growth.volume_um3(self.hours)

    @property
    def area_um2(self) -> float:
        return disk_um2(self.volume_um3)

    @property
    def eq_diameter_um(self) -> float:
        return 2 * math.sqrt(self.area_um2 / math.pi)


def frames(design: Design) -> list[Frame]:
    """All of them, well by well, in the order of time."""
    faults = _faults(design)
    found = []
    for plan in design.plan:
        of_well = faults.get((plan.well, None))
        is_stack = of_well == Fault.STACK
        for number, hours in enumerate(design.hours):
            name = stack_name(design, plan.well) if is_stack else file_name(design, plan.well, number, hours)
            fault = of_well or faults.get((plan.well, number))
            found.append(Frame(plan, number, hours, name, number + 1 if is_stack else 1, fault))
    return found


def _faults(design: Design) -> dict[tuple[Well, int | None], Fault]:
    """Each in a well of its own; the number is that of the time, None for all times."""
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
    """As the software of the microscope would call it; times and sites count from 1 where it counts."""
    whole, minutes = divmod(round(hours * 60), 60)
    if design.naming == Naming.IMAGEXPRESS:
        stem = f"TimePoint_{number + 1}/{PLATE}_{well}_s1_w1"
    elif design.naming == Naming.INCUCYTE:
        stem = f"{PLATE}_Brightfield_{_short(well)}_1_{whole // 24:02d}d{whole % 24:02d}h{minutes:02d}m"
    elif design.naming == Naming.YOKOGAWA:
        stem = f"{PLATE}_{well}_T{number + 1:04d}F001L01A01Z01C01"
    else:
        stem = f"{well}_t{whole:03d}h" + (f"{minutes:02d}m" if minutes else "")
    return f"{stem}.{design.format}"


def stack_name(design: Design, well: Well) -> str:
    """Of one file with all times: without a time, where names can do without one."""
    if design.naming == Naming.PLAIN:
        return f"{well}.{Format.TIF}"
    return file_name(design, well, 0, 0.0).rpartition(".")[0] + f".{Format.TIF}"


def plate_name(design: Design) -> str:
    """What the names say of the plate."""
    return "" if design.naming == Naming.PLAIN else PLATE


def _short(well: Well) -> str:
    return f"{well.name[:1]}{well.column + 1}" if well.row < 26 else f"{well.name[:2]}{well.column + 1:02d}"
