"""Outlines for machine learning: one COCO file for all images of a run.

Coordinates are in px from the outer corner of the first pixel. Annotations are written to a temporary file, so that
the outlines of thousands of images are never in memory at once.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from spheroseg import __version__

CATEGORY = {"id": 1, "name": "spheroid", "supercategory": "object"}
CHUNK_BYTES = 2**20

Labels = npt.NDArray[np.uint16]


class CocoFile:
    """Builds the file: call `add` for each image, then write the `chunks`."""

    def __init__(self, spool: IO[bytes]) -> None:
        """spool: an empty file, open for reading and writing, that holds the annotations until the end."""
        self._spool = spool
        self._images: list[dict[str, Any]] = []
        self._annotation_count = 0

    def add(self, name: str, page: int, result: Mapping[str, Any], labels: Callable[[], Labels]) -> None:
        """Add one image, which may have no objects.

        result: a record of `segmentation_results`. labels: returns its label image (height, width). It is called only
        if an object has holes: a COCO polygon cannot have any, so such objects are run-length encoded. Areas are net,
        in px².
        """
        image_id = len(self._images) + 1
        pixel_size = result["pixel_size"]
        self._images.append(
            {
                "id": image_id,
                "file_name": name,
                "page": page,
                "width": result["width"],
                "height": result["height"],
                "pixel_size_um": pixel_size["um"] if pixel_size else None,
            }
        )
        has_holes = any(found["holes"] for found in result["objects"])
        label_image = labels() if has_holes else None
        for number, found in enumerate(result["objects"], start=1):
            self._annotation_count += 1
            m = found["measurements"]
            outline: Any = [[value for point in found["outer"] for value in point]]
            if found["holes"] and label_image is not None:
                outline = encode_run_lengths(label_image == number)
            annotation = {
                "id": self._annotation_count,
                "image_id": image_id,
                "category_id": CATEGORY["id"],
                "iscrowd": 0,
                "area": round(m["area"], 4),
                "bbox": [
                    round(value, 3)
                    for value in (
                        m["bbox_x0"],
                        m["bbox_y0"],
                        m["bbox_x1"] - m["bbox_x0"],
                        m["bbox_y1"] - m["bbox_y0"],
                    )
                ],
                "segmentation": outline,
                "object": number,
                "qc_flags": found["flags"],
            }
            comma = "," if self._annotation_count > 1 else ""
            self._spool.write(f"{comma}\n{_encode_json(annotation)}".encode())

    def chunks(self) -> Iterator[bytes]:
        """Yield the whole file in chunks, as UTF-8."""
        info = {"description": f"Made by spheroseg {__version__}", "version": __version__}
        head = {"info": info, "licenses": [], "categories": [CATEGORY], "images": self._images}
        yield f'{_encode_json(head)[:-1]},"annotations":['.encode()
        self._spool.seek(0)
        while chunk := self._spool.read(CHUNK_BYTES):
            yield chunk
        yield b"\n]}\n"


def encode_run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return COCO's uncompressed run-length encoding of a mask (height, width).

    The counts run down the columns and begin with the number of zeros.
    """
    column_by_column = mask.ravel(order="F")
    changes = np.flatnonzero(column_by_column[1:] != column_by_column[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [column_by_column.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if column_by_column[0] else counts}


def _encode_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
