"""How the volume of a spheroid grows, and what a drug makes of it."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Law(StrEnum):
    """exponential: dV/dt = rate V. logistic: rate V (1 − V / capacity). gompertz: rate V ln(capacity / V)."""

    EXPONENTIAL = "exponential"
    LOGISTIC = "logistic"
    GOMPERTZ = "gompertz"


@dataclass(frozen=True)
class Growth:
    """`start_um3`: volume at 0 h. `rate_per_h`: as in `Law`. `capacity_um3`: None where nothing limits the growth."""

    law: Law
    start_um3: float
    rate_per_h: float
    capacity_um3: float | None = None

    def volume_um3(self, hours: float) -> float:
        start, rate = self.start_um3, self.rate_per_h
        if self.law == Law.EXPONENTIAL:
            return start * math.exp(rate * hours)
        assert self.capacity_um3
        if self.law == Law.LOGISTIC:
            return self.capacity_um3 / (1 + (self.capacity_um3 / start - 1) * math.exp(-rate * hours))
        return self.capacity_um3 * math.exp(math.log(start / self.capacity_um3) * math.exp(-rate * hours))

    @property
    def doubling_time_h(self) -> float | None:
        """ln 2 / rate; for Gompertz ln 2 / the specific growth rate at 0 h. None where nothing grows."""
        rate = self.rate_per_h
        if self.law == Law.GOMPERTZ:
            assert self.capacity_um3
            rate *= math.log(self.capacity_um3 / self.start_um3)
        return math.log(2) / rate if rate > 1e-9 else None


def rate_of(law: Law, doubling_time_h: float, start_um3: float, capacity_um3: float) -> float:
    """The rate with which `Growth.doubling_time_h` is `doubling_time_h`."""
    specific = math.log(2) / doubling_time_h
    return specific / math.log(capacity_um3 / start_um3) if law == Law.GOMPERTZ else specific


@dataclass(frozen=True)
class Response:
    """What is left of the growth rate, by four parameters: the top is 1; `ic50` in the unit of the doses."""

    ic50: float
    hill: float
    bottom: float

    def share(self, concentration: float) -> float:
        return self.bottom + (1 - self.bottom) / (1 + math.pow(concentration / self.ic50, self.hill))


def sphere_um3(diameter_um: float) -> float:
    return math.pi / 6 * diameter_um**3


def disk_um2(volume_um3: float) -> float:
    """The area under which a sphere of that volume is seen."""
    return math.pi * math.pow(3 * volume_um3 / (4 * math.pi), 2 / 3)
