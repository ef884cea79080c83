"""Outlines for ImageJ and Fiji: the RoiSet.zip that the ROI manager opens.

ImageJ counts from the outer corner of the first pixel, as the outlines do, so no point is moved.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from spheroseg.export.kinds import object_name

VERSION = 227  # of ImageJ's format; from 222 on it reads points between pixels
OPTIONS = ROI_OPTIONS.OVERLAY_LABELS | ROI_OPTIONS.OVERLAY_BACKGROUNDS
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0  # of ImageJ's composite shapes
# The same outlines give the same bytes, so a file that somebody changed is told from one that we made.
LONG_AGO = (1980, 1, 1, 0, 0, 0)

Points = npt.NDArray[np.float32]


def encode_rois(result: Mapping[str, Any], position: int = 0) -> bytes:
    """A zip of ImageJ regions, `obj-001` being object 1. An object with holes is a composite region.

    result: a record of `segmentation_results`. position: which image of a stack they belong to, from 1; 0 for all.
    ImageJ refuses a zip without regions, so do not write one for an image without objects.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, found in enumerate(result["objects"], start=1):
            roi = _region(found["outer"], found["holes"])
            roi.version, roi.name, roi.position = VERSION, object_name(number), position
            archive.writestr(_member(f"{roi.name}.roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _region(outer: Sequence[Any], holes: Sequence[Any]) -> ImagejRoi:
    points = np.asarray(outer, np.float32)
    if not holes:
        roi = ImagejRoi.frompoints(points)
        # Of a freehand region ImageJ smoothes the perimeter; that of a polygon is the one in the table.
        roi.roitype = ROI_TYPE.POLYGON
        roi.options = OPTIONS | ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        return roi
    path = np.concatenate([_path(ring) for ring in (points, *(np.asarray(hole, np.float32) for hole in holes))])
    left, top = np.floor(points.min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil(points.max(axis=0)).astype(int).tolist()
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        options=OPTIONS,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        shape_roi_size=len(path),
        multi_coordinates=path,
    )


def _path(points: Points) -> Points:
    steps = np.full((len(points), 3), LINE_TO, np.float32)
    steps[0, 0] = MOVE_TO
    steps[:, 1:] = points
    return np.append(steps.ravel(), np.float32(CLOSE))


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, LONG_AGO)
    info.external_attr = 0o644 << 16
    return info
