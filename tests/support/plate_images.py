"""Images of a plate with their results, for the tests of growth tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spheroseg.export.growth_tables import PlateImage
from spheroseg.plate.conditions import NO_CONDITION, Condition
from spheroseg.plate.position import PlatePosition
from spheroseg.plate.wells import parse_well
from spheroseg.segmentation.contours import Outline
from spheroseg.segmentation.measure import measure

MODEL = {"name": "spheroid-unet", "version": "3", "sha256": "a" * 64}
PARAMETERS = {"threshold": 0.5, "min_area_px": 50.0, "objects": "all"}


def ellipse(a: float, b: float, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Return an object with the measurements of an ellipse of these semi-axes (px)."""
    angles = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
    outline = Outline(np.column_stack([a * np.cos(angles), b * np.sin(angles)]) + 500, ())
    return {"outer": [], "holes": [], "flags": list(flags), "measurements": vars(measure(outline))}


def of_area(area: float, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Return an object with the computed measurements of a disk of this area (px²)."""
    diameter = 2 * math.sqrt(area / math.pi)
    measurements = ellipse(10, 10)["measurements"] | {
        "area": area,
        "equivalent_diameter": diameter,
        "volume_sphere": math.pi / 6 * diameter**3,
    }
    return {"outer": [], "holes": [], "flags": list(flags), "measurements": measurements}


def result(objects: Sequence[Mapping[str, Any]], um: float | None = 1.0, **more: Any) -> dict[str, Any]:
    several = ["several_objects"] if len(objects) > 1 else []
    return {
        "pixel_size": {"um": um, "source": "OME-XML"} if um else None,
        "flags": several if objects else ["no_object_found"],
        "objects": list(objects),
        "model": MODEL,
        "parameters": PARAMETERS,
        "metrics_version": "1",
        **more,
    }


def plate_image(
    well: str = "A01",
    time_h: float | None = 0.0,
    *areas: float,
    um: float | None = 1.0,
    condition: Condition = NO_CONDITION,
    **position: Any,
) -> PlateImage:
    """Return an image with disks of these areas (px²)."""
    where = PlatePosition(well=parse_well(well) if well else None, time_h=time_h, **position)
    name = "_".join(str(part) for part in (where.plate, well, where.sample, where.site, time_h, where.time_point))
    extra = "_".join(str(part) for part in (where.channel, where.z))
    return PlateImage(
        f"{name}_{extra}.tif", 1, where, condition, result([of_area(area) for area in areas], um), "", 1
    )
