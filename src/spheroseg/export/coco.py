"""Outlines for machine learning: one COCO file for all images of a run, in px from the corner of the first pixel.

The outlines of thousands of images need not be in memory at once.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from spheroseg import __version__

CATEGORY = {"id": 1, "name": "spheroid", "supercategory": "object"}
PIECE = 2**20  # bytes

Labels = npt.NDArray[np.uint16]


class CocoFile:
    """The file in the making: `add` each image, then take the `pieces`. spool: where the annotations wait."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._images: list[dict[str, Any]] = []
        self._annotations = 0

    def add(self, name: str, page: int, result: Mapping[str, Any], labels: Callable[[], Labels]) -> None:
        """An image is there even when it has no objects.

        result: a record of `segmentation_results`. labels: reads its label image, for objects with holes: a COCO
        polygon cannot have any, so they are run-length encoded. Areas are net, in px².
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
        grid = labels() if has_holes else None
        for number, found in enumerate(result["objects"], start=1):
            self._annotations += 1
            m = found["measurements"]
            outline: Any = [[value for point in found["outer"] for value in point]]
            if found["holes"] and grid is not None:
                outline = run_lengths(grid == number)
            annotation = {
                "id": self._annotations,
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
            comma = "," if self._annotations > 1 else ""
            self._spool.write(f"{comma}\n{_json(annotation)}".encode())

    def pieces(self) -> Iterator[bytes]:
        """The text of the whole file."""
        info = {"description": f"Made by spheroseg {__version__}", "version": __version__}
        head = {"info": info, "licenses": [], "categories": [CATEGORY], "images": self._images}
        yield f'{_json(head)[:-1]},"annotations":['.encode()
        self._spool.seek(0)
        while piece := self._spool.read(PIECE):
            yield piece
        yield b"\n]}\n"


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed RLE of a mask (height, width): down the columns, beginning with a count of zeros."""
    column_by_column = mask.ravel(order="F")
    changes = np.flatnonzero(column_by_column[1:] != column_by_column[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [column_by_column.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if column_by_column[0] else counts}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
