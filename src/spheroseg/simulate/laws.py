"""Computes the growth of the volume of a spheroid, and the effect of a drug on the rate."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Law(StrEnum):
    """Growth laws. dV/dt is rate V (exponential), rate V (1 − V / capacity) or rate V ln(capacity / V) (Gompertz)."""

    EXPONENTIAL = "exponential"
    LOGISTIC = "logistic"
    GOMPERTZ = "gompertz"


@dataclass(frozen=True)
class Growth:
    """The growth of one spheroid.

    `start_um3`: volume at 0 h. `rate_per_h`: the rate in `Law`. `capacity_um3`: None for unlimited growth.
    """

    law: Law
    start_um3: float
    rate_per_h: float
    capacity_um3: float | None = None

    def volume_um3(self, hours: float) -> float:
        """Return the volume at a time, from the solution of the growth law."""
        start, rate = self.start_um3, self.rate_per_h
        if self.law == Law.EXPONENTIAL:
            return start * math.exp(rate * hours)
        assert self.capacity_um3
        if self.law == Law.LOGISTIC:
            return self.capacity_um3 / (1 + (self.capacity_um3 / start - 1) * math.exp(-rate * hours))
        return self.capacity_um3 * math.exp(math.log(start / self.capacity_um3) * math.exp(-rate * hours))

    @property
    def doubling_time_h(self) -> float | None:
        """ln 2 / rate, for Gompertz ln 2 / the specific growth rate at 0 h. None if the spheroid does not grow."""
        rate = self.rate_per_h
        if self.law == Law.GOMPERTZ:
            assert self.capacity_um3
            rate *= math.log(self.capacity_um3 / self.start_um3)
        return math.log(2) / rate if rate > 1e-9 else None


def rate_of(law: Law, doubling_time_h: float, start_um3: float, capacity_um3: float) -> float:
    """Return the rate, 1/h, for which `Growth.doubling_time_h` equals `doubling_time_h`."""
    specific = math.log(2) / doubling_time_h
    return specific / math.log(capacity_um3 / start_um3) if law == Law.GOMPERTZ else specific


@dataclass(frozen=True)
class DoseResponse:
    """The effect of a drug on the growth rate: the four-parameter logistic (Hill) curve with its top at 1.

    `ic50`: in the unit of the doses. `bottom`: the share of the rate that is left at the highest doses.
    """

    ic50: float
    hill: float
    bottom: float

    def share(self, concentration: float) -> float:
        """Return the share of the growth rate that is left at a concentration."""
        return self.bottom + (1 - self.bottom) / (1 + math.pow(concentration / self.ic50, self.hill))


def sphere_um3(diameter_um: float) -> float:
    """Return the volume, µm³, of a sphere: π/6 d³."""
    return math.pi / 6 * diameter_um**3


def disk_um2(volume_um3: float) -> float:
    """Return the projected area, µm², of a sphere of this volume: π (3V/4π)^(2/3)."""
    return math.pi * math.pow(3 * volume_um3 / (4 * math.pi), 2 / 3)
