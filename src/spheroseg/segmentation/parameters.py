"""What a user may set: which of the objects found are wanted, and where their outline runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spheroseg.errors import BadParameters

OBJECTS = ("all", "largest", "most_central")
EDGES = ("keep", "discard")

# Without a wish of the user's: 0.02 % of the picture (an object of 20 px across in 1500 × 1125), but 8 px across at
# least.
MIN_AREA_FRACTION = 0.0002
MIN_AREA_FLOOR_PX = 50.0


@dataclass(frozen=True)
class Parameters:
    """Raises `BadParameters` for what is not finite, out of range or none of the words.

    threshold: the probability at the outline.
    min_area_px, min_area_um2: the least net area, in px² and in µm²; the larger holds. None and None: by image size.
    objects: all of them, or only the largest, or the one whose centroid is nearest to the middle of the picture.
    edge: whether objects that touch the edge of the picture are kept or discarded, before one is chosen.
    separate: whether objects that touch are told apart, where the model can.
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
        for name, word, words in (("objects", self.objects, OBJECTS), ("edge", self.edge, EDGES)):
            if word not in words:
                raise BadParameters(f"{name} is {word!r}; it must be one of {', '.join(words)}")
        if not isinstance(self.separate, bool):
            raise BadParameters(f"separate is {self.separate!r}; it must be true or false")

    def resolve(self, width: int, height: int, pixel_size_um: float | None = None) -> dict[str, Any]:
        """The values that are used for an image of this size (px), ready for a record of the run.

        `min_area_px` is the limit that holds, whatever it comes from. Raises `BadParameters` where an area in µm² is
        asked for and the pixel size is not known.
        """
        asked = [] if self.min_area_px is None else [self.min_area_px]
        if self.min_area_um2 is not None:
            if pixel_size_um is None:
                raise BadParameters(
                    f"min_area_um2 is {self.min_area_um2:g}, but the pixel size of this image is not known: "
                    "give the pixel size, or min_area_px instead"
                )
            asked.append(self.min_area_um2 / pixel_size_um**2)
        area = max(asked, default=max(MIN_AREA_FLOOR_PX, MIN_AREA_FRACTION * width * height))
        return {
            "threshold": float(self.threshold),
            "min_area_px": float(area),
            "min_area_um2": None if self.min_area_um2 is None else float(self.min_area_um2),
            "objects": self.objects,
            "edge": self.edge,
            "separate": self.separate,
        }


def with_defaults(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Stored parameters with what they did not have when they were stored, so that like is compared with like."""
    return {**{name: field.default for name, field in Parameters.__dataclass_fields__.items()}, **parameters}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
