"""Files for other programs that a run can write, beside the tables, masks and overlays that it always writes."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """The names that `spheroseg run --export` takes."""

    ROIS = "rois"
    GEOJSON = "geojson"
    COCO = "coco"
    BUNDLE = "bundle"
