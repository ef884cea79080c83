"""What a run can write for other programs, beside the tables, masks and overlays that are always there."""

from enum import StrEnum


class Export(StrEnum):
    """By the name that `spheroseg run --export` takes."""

    ROIS = "rois"
    GEOJSON = "geojson"
    COCO = "coco"
    BUNDLE = "bundle"


def object_name(number: int) -> str:
    """What object `number` (from 1) is called in programs that show names: three digits keep them in order."""
    return f"obj-{number:03d}"
