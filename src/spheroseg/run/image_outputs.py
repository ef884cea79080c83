"""Write the files of one image: overlay, mask and outlines for other programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import tifffile

from spheroseg.export.coco import CocoFile
from spheroseg.export.formats import ExportFormat
from spheroseg.export.geojson import encode_geojson
from spheroseg.export.object_table import build_object_rows
from spheroseg.export.rois import encode_rois
from spheroseg.run.inputs import RunInput
from spheroseg.run.manifest import ImageEntry, add_result
from spheroseg.run.options import RunOptions
from spheroseg.run.result import ImageOutcome, Row
from spheroseg.run.results_folder import ResultsFolder
from spheroseg.storage import ImageStore


@dataclass(frozen=True)
class ImageWriter:
    """Writes the files of images into the output folder. coco: the file to add the images to, if it is wanted."""

    options: RunOptions
    folder: ResultsFolder
    store: ImageStore
    coco: CocoFile | None

    def write(
        self, item: RunInput, name: str, entry: ImageEntry, task_id: UUID, result: Mapping[str, Any] | None
    ) -> ImageOutcome:
        """Write the files of an image under `name`, add them to its manifest entry, and return its outcome.

        result: what the worker recorded, or None if the image is not completed.
        """
        rows: list[Row] = []
        if result is not None:
            self._copy_pictures(name, entry, result)
            self._write_outlines(item, name, entry, task_id, result)
            add_result(entry, result)
            rows = build_object_rows({"image": item.name, "page": item.page + 1}, result)
        return ImageOutcome(
            label=item.label,
            state=entry["state"],
            reason=entry["reason"],
            error=entry["error"],
            objects=tuple(rows),
            flags=tuple(entry.get("flags", ())),
            pixel_size=entry.get("pixel_size"),
            mask=self._path(entry, "mask"),
            overlay=self._path(entry, "overlay"),
        )

    def _copy_pictures(self, name: str, entry: ImageEntry, result: Mapping[str, Any]) -> None:
        overlay, mask = result["overlay"], result["mask"]
        entry["overlay"] = self.folder.copy(
            f"overlays/{name}.jpg", self.store.require_local_path(overlay["key"]), overlay["sha256"]
        )
        entry["mask"] = self.folder.copy(
            f"masks/{name}.tif", self.store.require_local_path(mask["key"]), mask["sha256"]
        )

    def _write_outlines(
        self, item: RunInput, name: str, entry: ImageEntry, task_id: UUID, result: Mapping[str, Any]
    ) -> None:
        # ImageJ refuses to open a set without regions.
        if ExportFormat.ROIS in self.options.exports and result["objects"]:
            position = item.page + 1 if item.pages > 1 else 0
            entry["rois"] = self.folder.put(f"rois/{name}.zip", encode_rois(result, position))
        if ExportFormat.GEOJSON in self.options.exports:
            entry["geojson"] = self.folder.put(f"geojson/{name}.geojson", encode_geojson(result, task_id))
        if self.coco:
            mask = self.store.require_local_path(result["mask"]["key"])
            self.coco.add(item.name, item.page + 1, result, partial(tifffile.imread, mask))

    def _path(self, entry: ImageEntry, kind: str) -> Path | None:
        return self.options.out / entry[kind]["path"] if kind in entry else None  # type: ignore[literal-required]
