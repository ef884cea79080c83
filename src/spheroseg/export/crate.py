"""RO-Crate 1.1 metadata: what made these files, in words that programs and archives understand.

Nothing is said about the licence of the results: they are the user's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

METADATA = "ro-crate-metadata.json"
# Checksums came into schema.org after the words of RO-Crate 1.1 were fixed.
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}]
SOFTWARE, MODEL, ACTION = "#spheroseg", "#model", "#segmentation"
FORMATS = {
    ".csv": "text/csv",
    ".geojson": "application/geo+json",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tif": "image/tiff",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".zip": "application/zip",
}
MEANINGS = {
    "results.csv": "Measurements, a row an object",
    "growth.csv": "Growth table, a row an object with plate, well, time and condition",
    "growth.parquet": "The growth table with types and units",
    "growth.xlsx": "All tables as a workbook, with where the numbers come from",
    "wells.csv": "Values of each well at each time",
    "conditions.csv": "Mean, standard deviation and number of wells of each condition and time",
    "fits.csv": "Growth rates and doubling times",
    "endpoint.csv": "Values of each well at one time",
    "ic50.csv": "IC50 of each drug",
    "charts": "Growth curves, heat map, dose and response",
    "contact": "Overlays of the wells of a row or a condition, through time",
    "coco.json": "Outlines of all images, COCO format",
    "overlays": "Picture with outlines and object numbers",
    "masks": "Label image: 0 the ground, n object n",
    "rois": "ImageJ regions (RoiSet)",
    "geojson": "Outlines and measurements for QuPath",
}


@dataclass(frozen=True)
class File:
    """`path` in the archive, `size` in bytes."""

    path: str
    size: int
    sha256: str


def crate_metadata(manifest: Mapping[str, Any], files: Sequence[File]) -> dict[str, Any]:
    """The content of `ro-crate-metadata.json` for the files of a run. manifest: that of the run."""
    asked_for = manifest["asked_for"]
    parameters = [_parameter(name, value) for name, value in asked_for["parameters"].items()]
    if asked_for["pixel_size_um"] is not None:
        parameters.append(_parameter("pixel_size_um", asked_for["pixel_size_um"]))
    parts = [*map(_file, files), {"@id": "manifest.json", "@type": "File", "encodingFormat": FORMATS[".json"]}]
    parts[-1]["name"] = "Every input with its checksum, what became of it, and size and checksum of every file"
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": "Spheroids segmented and measured",
        "description": f"Results of spheroseg {manifest['spheroseg']} for {len(manifest['inputs'])} images",
        "datePublished": manifest["written_at"],
        "hasPart": _ids(parts),
        "mentions": {"@id": ACTION},
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    software = {
        "@id": SOFTWARE,
        "@type": "SoftwareApplication",
        "name": "spheroseg",
        "version": manifest["spheroseg"],
    }
    model = {
        "@id": MODEL,
        "@type": "SoftwareApplication",
        "name": asked_for["model"],
        "version": asked_for["model_version"],
        "sha256": asked_for["model_sha256"],
    }
    action = {
        "@id": ACTION,
        "@type": "CreateAction",
        "name": "Segmentation and measurement",
        "endTime": manifest["written_at"],
        "instrument": _ids([software, model]),
        "object": _ids(parameters),
        "result": _ids(parts),
    }
    return {"@context": CONTEXT, "@graph": [descriptor, root, *parts, action, software, model, *parameters]}


def _file(file: File) -> dict[str, Any]:
    path = PurePosixPath(file.path)
    meaning = MEANINGS.get(path.parts[0])
    return {
        "@id": quote(file.path),
        "@type": "File",
        "name": file.path,
        **({"description": meaning} if meaning else {}),
        "encodingFormat": FORMATS.get(path.suffix.lower(), "application/octet-stream"),
        "contentSize": str(file.size),
        "sha256": file.sha256,
    }


def _parameter(name: str, value: Any) -> dict[str, Any]:
    # Null is no value in JSON-LD: it would drop the word.
    return {
        "@id": f"#parameter-{name}",
        "@type": "PropertyValue",
        "name": name,
        "value": "default" if value is None else value,
    }


def _ids(entities: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{"@id": entity["@id"]} for entity in entities]
