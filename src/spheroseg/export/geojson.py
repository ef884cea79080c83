"""Outlines for QuPath: a GeoJSON FeatureCollection of annotations, in px from the outer corner of the first pixel."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from spheroseg.export.object_table import add_units, object_name

CLASS = {"name": "Spheroid", "color": [255, 215, 0]}  # amber, as on the overlays


def encode_geojson(result: Mapping[str, Any], task_id: UUID) -> bytes:
    """Return a GeoJSON document with one polygon per object, with its holes and its measurements.

    The names of the measurements are those of the table of objects. result: a record of `segmentation_results`.
    task_id: the ids of the objects, which QuPath keeps, are derived from it, so that the same result gives the same
    ids.
    """
    um = result["pixel_size"]["um"] if result["pixel_size"] else None
    features = [
        {
            "type": "Feature",
            "id": str(uuid5(task_id, object_name(number))),
            "geometry": {
                "type": "Polygon",
                "coordinates": [_close(ring) for ring in (found["outer"], *found["holes"])],
            },
            "properties": {
                "objectType": "annotation",
                "name": object_name(number),
                "classification": CLASS,
                "measurements": _select_finite(found["measurements"], um),
            },
        }
        for number, found in enumerate(result["objects"], start=1)
    ]
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, separators=(",", ":"), allow_nan=False).encode()


def _close(ring: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    return [*ring, ring[0]]


def _select_finite(measurements: Mapping[str, Any], um: float | None) -> dict[str, float]:
    # JSON has no NaN, and QuPath expects numbers.
    return {
        name: value
        for name, value in add_units(measurements, um).items()
        if value is not None and math.isfinite(value)
    }
