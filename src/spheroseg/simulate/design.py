"""Defines a simulated plate: its wells, their conditions in blocks, and the growth law of each well."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np

from spheroseg.errors import BadParameters
from spheroseg.plate.wells import PLATE_FORMATS, Well
from spheroseg.simulate.laws import DoseResponse, Growth, Law, disk_um2, rate_of, sphere_um3

CONTROL = "control"
DOSES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
START_SPREAD = 0.1  # standard deviation of ln(volume at 0 h) between wells
RATE_SPREAD = 0.04  # standard deviation of the growth rate between wells, as a share of it
MIN_DIAMETER_PX = 16.0  # a smaller disk has no shape
MAX_DIAMETER = 0.8  # of the side of a picture: a larger disk leaves no background around it


class Format(StrEnum):
    TIF = "tif"
    PNG = "png"


class Naming(StrEnum):
    PLAIN = "plain"
    IMAGEXPRESS = "imagexpress"
    INCUCYTE = "incucyte"
    YOKOGAWA = "yokogawa"


@dataclass(frozen=True)
class Design:
    """The design of a plate. Raise `BadParameters` for one that cannot be drawn.

    wells: the number of wells, filled row by row on the smallest plate that has enough.
    times, interval_h: the number of time points, and the hours between them.
    size: side of a picture, px.
    noise: standard deviation on the background, in grey values of 8 bit.
    debris: mean number of loose cells in a well.
    doses: None for a default series that suits the number of wells. A control is always added.
    """

    wells: int = 96
    times: int = 8
    interval_h: float = 12.0
    law: Law = Law.EXPONENTIAL
    doubling_time_h: float = 36.0
    diameter_um: float = 300.0
    capacity_um: float = 600.0
    pixel_size_um: float = 1.625
    size: int = 512
    noise: float = 2.0
    debris: float = 12.0
    drug: str = "drug"
    unit: str = "µM"
    doses: tuple[float, ...] | None = None
    response: DoseResponse = field(default=DoseResponse(1.0, 1.5, 0.1))
    seed: int = 1
    format: Format = Format.TIF
    naming: Naming = Naming.PLAIN
    has_faults: bool = False

    def __post_init__(self) -> None:
        positive = {
            "interval": self.interval_h,
            "doubling time": self.doubling_time_h,
            "diameter": self.diameter_um,
            "capacity": self.capacity_um,
            "pixel size": self.pixel_size_um,
            "IC50": self.response.ic50,
            "Hill slope": self.response.hill,
            **{f"dose {dose:g}": dose for dose in self.doses or ()},
        }
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise BadParameters(f"the {name} must be a positive number")
        minutes = self.interval_h * 60
        for is_wrong, sentence in (
            (not 1 <= self.wells <= max(PLATE_FORMATS), f"a plate has 1 to {max(PLATE_FORMATS)} wells"),
            (self.times < 1, "at least one time is needed"),
            (minutes < 1 or abs(minutes - round(minutes)) > 1e-6, "the interval must be whole minutes, 1 or more"),
            (
                not -10 <= self.response.bottom < 1,
                "the floor must be below 1, which is no effect, and not below -10",
            ),
            (len(set(self.series)) < len(self.series), "a dose is named twice"),
            (len(self.series) >= self.wells, "there are more conditions than wells: name fewer doses, or more wells"),
            (
                self.law != Law.EXPONENTIAL and self.capacity_um <= self.diameter_um,
                "the capacity must be a larger diameter than that at the beginning",
            ),
            (
                self.has_faults and (self.wells < 6 or self.times < 2),
                "faults need 6 wells and 2 times, or nothing is left without them",
            ),
        ):
            if is_wrong:
                raise BadParameters(sentence)
        diameters = [2 * math.sqrt(disk_um2(volume) / math.pi) for volume in self._extreme_volumes()]
        if max(diameters) > MAX_DIAMETER * self.size * self.pixel_size_um:
            raise BadParameters(
                f"a spheroid would come to measure {max(diameters):.0f} µm, too much for a picture of "
                f"{self.size * self.pixel_size_um:.0f} µm: ask for more --size, a larger --pixel-size or fewer "
                "--times"
            )
        if min(diameters) < MIN_DIAMETER_PX * self.pixel_size_um:
            raise BadParameters(
                f"a spheroid would measure {min(diameters):.0f} µm, fewer than {MIN_DIAMETER_PX:g} px: ask for a "
                "smaller --pixel-size or a larger --diameter"
            )

    def _extreme_volumes(self) -> list[float]:
        hours = (self.times - 1) * self.interval_h
        return [well.growth.volume_um3(when) for well in self.plan for when in (0.0, hours)]

    @property
    def series(self) -> tuple[float, ...]:
        """The doses without the control, the lowest first."""
        if self.doses is not None:
            return tuple(sorted(self.doses))
        return (
            DOSES if self.wells >= 24 else DOSES[1::2] if self.wells >= 8 else DOSES[5:6] if self.wells >= 2 else ()
        )

    @property
    def hours(self) -> list[float]:
        """The time points in hours, rounded to minutes, as file names state them."""
        return [round(number * self.interval_h * 60) / 60 for number in range(self.times)]

    @cached_property
    def plate_wells(self) -> list[Well]:
        """The wells, row by row."""
        rows, columns = next(shape for size, shape in PLATE_FORMATS.items() if size >= self.wells)
        return [Well(number // columns, number % columns) for number in range(min(self.wells, rows * columns))]

    @cached_property
    def plan(self) -> list["WellPlan"]:
        """The plans of all wells, row by row. Each condition is a block of them."""
        blocks = np.array_split(np.arange(self.wells), len(self.series) + 1)
        plan = []
        for concentration, block in zip((0.0, *self.series), blocks, strict=True):
            for replicate, index in enumerate(block, start=1):
                plan.append(self._plan_well(self.plate_wells[int(index)], concentration, replicate))
        return plan

    def _plan_well(self, well: Well, concentration: float, replicate: int) -> "WellPlan":
        rng = self.rng(well, 0)
        start = sphere_um3(self.diameter_um)
        capacity = None if self.law == Law.EXPONENTIAL else sphere_um3(self.capacity_um)
        rate = rate_of(self.law, self.doubling_time_h, start, sphere_um3(self.capacity_um))
        start *= math.exp(START_SPREAD * rng.normal())
        rate *= (1 + RATE_SPREAD * rng.normal()) * self.response.share(concentration)
        return WellPlan(well, Growth(self.law, start, rate, capacity), concentration, replicate)

    def rng(self, well: Well, purpose: int) -> np.random.Generator:
        """Return a random generator for a well and a purpose, independent of those of all other pairs."""
        return np.random.default_rng([self.seed, well.row, well.column, purpose])

    def condition(self, concentration: float) -> str:
        """Return the name of the condition with this concentration."""
        return f"{self.drug} {concentration:g} {self.unit}" if concentration else CONTROL


@dataclass(frozen=True)
class WellPlan:
    """The plan of a well. `replicate` counts from 1 within a condition."""

    well: Well
    growth: Growth
    concentration: float
    replicate: int


def half_effect_dose(design: Design) -> float | None:
    """Return the dose at which the final relative volume is half-way between no drug and the full effect.

    None if there is no such dose. It differs from the IC50 of the rate, because volume is not linear in the rate.
    """
    start = sphere_um3(design.diameter_um)
    rate = rate_of(design.law, design.doubling_time_h, start, sphere_um3(design.capacity_um))
    capacity = None if design.law == Law.EXPONENTIAL else sphere_um3(design.capacity_um)

    def volume(share: float) -> float:
        return Growth(design.law, start, rate * share, capacity).volume_um3(design.hours[-1]) / start

    top, bottom = volume(1.0), volume(design.response.bottom)
    if not design.series or top <= bottom:
        return None
    low, high = design.response.ic50 / 1e6, design.response.ic50 * 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        is_below = volume(design.response.share(middle)) > (top + bottom) / 2
        low, high = (middle, high) if is_below else (low, middle)
    return float(f"{low:.6g}")
