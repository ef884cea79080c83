"""Outlines for QuPath: a GeoJSON FeatureCollection of annotations, in px from the outer corner of the first pixel."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from spheroseg.export.kinds import object_name
from spheroseg.export.tables import with_units

CLASS = {"name": "Spheroid", "color": [255, 215, 0]}  # amber, as on the overlays


def encode_geojson(result: Mapping[str, Any], task_id: UUID) -> bytes:
    """A polygon with its holes for each object, with the measurements of the table under the same names.

    result: a record of `segmentation_results`. task_id: makes the ids of the objects, which QuPath keeps, so that
    the same result gives the same ids.
    """
    um = result["pixel_size"]["um"] if result["pixel_size"] else None
    features = [
        {
            "type": "Feature",
            "id": str(uuid5(task_id, object_name(number))),
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring) for ring in (found["outer"], *found["holes"])],
            },
            "properties": {
                "objectType": "annotation",
                "name": object_name(number),
                "classification": CLASS,
                "measurements": _measurements(found["measurements"], um),
            },
        }
        for number, found in enumerate(result["objects"], start=1)
    ]
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, separators=(",", ":"), allow_nan=False).encode()


def _closed(ring: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    return [*ring, ring[0]]


def _measurements(measured: Mapping[str, Any], um: float | None) -> dict[str, float]:
    # JSON has no NaN, and a measurement that is not there is no number.
    return {
        name: value for name, value in with_units(measured, um).items() if value is not None and math.isfinite(value)
    }
