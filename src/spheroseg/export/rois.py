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

from spheroseg.export.object_table import object_name

VERSION = 227  # of ImageJ's format; since 222 coordinates may lie between pixels
OPTIONS = ROI_OPTIONS.OVERLAY_LABELS | ROI_OPTIONS.OVERLAY_BACKGROUNDS
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0  # of ImageJ's composite shapes
# A constant time in the archive: the same outlines give the same bytes, so that a file that a user has changed is
# recognised.
ARCHIVE_TIME = (1980, 1, 1, 0, 0, 0)

Points = npt.NDArray[np.float32]


def encode_rois(result: Mapping[str, Any], position: int = 0) -> bytes:
    """Return a zip of ImageJ regions, one per object, named obj-001 and so on. An object with holes is composite.

    result: a record of `segmentation_results`. position: the image of a stack that they belong to, from 1, or 0 for
    all. ImageJ refuses a zip without regions, so do not write one for an image without objects.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, found in enumerate(result["objects"], start=1):
            roi = _build_region(found["outer"], found["holes"])
            roi.version, roi.name, roi.position = VERSION, object_name(number), position
            archive.writestr(_member(f"{roi.name}.roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _build_region(outer: Sequence[Any], holes: Sequence[Any]) -> ImagejRoi:
    points = np.asarray(outer, np.float32)
    if not holes:
        roi = ImagejRoi.frompoints(points)
        # ImageJ smooths the perimeter of a freehand region. That of a polygon equals the one in the table.
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
    """Return the segments of a closed ring in the form of a composite region: type, x and y of each point."""
    steps = np.full((len(points), 3), LINE_TO, np.float32)
    steps[0, 0] = MOVE_TO
    steps[:, 1:] = points
    return np.append(steps.ravel(), np.float32(CLOSE))


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, ARCHIVE_TIME)
    info.external_attr = 0o644 << 16
    return info
