"""The parameters that a user can choose: which objects are kept, and where their outlines run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from spheroseg.errors import BadParameters

OBJECTS = ("all", "largest", "most_central")
EDGES = ("keep", "discard")

# The default minimum area is 0.02 % of the picture (a diameter of 20 px in 1500 × 1125 px), but at least the area of
# an object with a diameter of 8 px.
MIN_AREA_FRACTION = 0.0002
MIN_AREA_FLOOR_PX2 = 50.0


class AppliedParameters(TypedDict):
    """The values that apply to one image, as they are stored with its result. See `Parameters`."""

    threshold: float
    min_area_px: float
    min_area_um2: float | None
    objects: str
    edge: str
    separate: bool


@dataclass(frozen=True)
class Parameters:
    """Parameters of a segmentation. Raise `BadParameters` if a value is not finite, out of range or not allowed.

    threshold: the probability at the outline.
    min_area_px, min_area_um2: the minimum net area, in px² and in µm². The larger applies; if both are None, it
        depends on the image size.
    objects: all objects, only the largest, or only the one whose centroid is nearest to the middle.
    edge: whether objects that touch the edge of the picture are kept or discarded. Applied before `objects`.
    separate: whether touching objects are separated, if the model can.
    """

    threshold: float = 0.5
    min_area_px: float | None = None
    min_area_um2: float | None = None
    objects: str = "all"
    edge: str = "keep"
    separate: bool = True

    def __post_init__(self) -> None:
        if not is_number(self.threshold) or not 0 < self.threshold < 1:
            raise BadParameters(f"threshold is {self.threshold!r}; it must lie between 0 and 1, without them")
        for name, area, unit in (
            ("min_area_px", self.min_area_px, "px²"),
            ("min_area_um2", self.min_area_um2, "µm²"),
        ):
            if area is not None and not (is_number(area) and area >= 0):
                raise BadParameters(f"{name} is {area!r}; it must be a number of {unit}, 0 or more")
        for name, value, allowed in (("objects", self.objects, OBJECTS), ("edge", self.edge, EDGES)):
            if value not in allowed:
                raise BadParameters(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if not isinstance(self.separate, bool):
            raise BadParameters(f"separate is {self.separate!r}; it must be true or false")

    def resolve(self, width: int, height: int, pixel_size_um: float | None = None) -> AppliedParameters:
        """Return the values that apply to an image of this size (px), as they are stored with a result.

        `min_area_px` is the minimum that applies. Raise `BadParameters` if the minimum was given in µm² and the pixel
        size is not known.
        """
        limits = [] if self.min_area_px is None else [self.min_area_px]
        if self.min_area_um2 is not None:
            if pixel_size_um is None:
                raise BadParameters(
                    f"min_area_um2 is {self.min_area_um2:g}, but the pixel size of this image is not known: "
                    "give the pixel size, or min_area_px instead"
                )
            limits.append(self.min_area_um2 / pixel_size_um**2)
        area = max(limits, default=max(MIN_AREA_FLOOR_PX2, MIN_AREA_FRACTION * width * height))
        return {
            "threshold": float(self.threshold),
            "min_area_px": float(area),
            "min_area_um2": None if self.min_area_um2 is None else float(self.min_area_um2),
            "objects": self.objects,
            "edge": self.edge,
            "separate": self.separate,
        }


def with_defaults(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored parameters with the defaults of parameters that did not exist when they were stored."""
    return {**{name: field.default for name, field in Parameters.__dataclass_fields__.items()}, **parameters}


def check_pixel_size(um: float | None) -> None:
    """Raise `BadParameters` if a pixel size (µm) is given that is not a positive number."""
    if um is not None and not (is_number(um) and um > 0):
        raise BadParameters(f"the pixel size is {um!r}; it must be a positive number of µm")


def is_number(value: object) -> bool:
    """Return whether a value is a finite number. Booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
