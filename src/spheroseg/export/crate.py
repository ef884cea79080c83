"""RO-Crate 1.1 metadata: what made these files, in a standard form that programs and archives read.

The metadata state no licence, because the results belong to the user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

METADATA_NAME = "ro-crate-metadata.json"
# schema.org added the term sha256 after RO-Crate 1.1 was published.
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}]
SOFTWARE, MODEL, ACTION = "#spheroseg", "#model", "#segmentation"
MEDIA_TYPES = {
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
# By the name of the file, or of the folder that it is in.
DESCRIPTIONS = {
    "results.csv": "Measurements, one row per object",
    "growth.csv": "Growth table, one row per object with plate, well, time and condition",
    "growth.parquet": "Growth table with types and units",
    "growth.xlsx": "All tables as a workbook, with the provenance of the numbers",
    "wells.csv": "Values of each well at each time",
    "conditions.csv": "Mean, standard deviation and number of wells of each condition and time",
    "fits.csv": "Growth rates and doubling times",
    "endpoint.csv": "Values of each well at one time",
    "ic50.csv": "IC50 of each drug",
    "charts": "Growth curves, heat maps and dose-response curves",
    "contact": "Contact sheets: overlays of the wells of a plate row or a condition, through time",
    "coco.json": "Outlines of all images, COCO format",
    "overlays": "Image with outlines and object numbers",
    "masks": "Label image: 0 is background, n is object n",
    "rois": "ImageJ regions (RoiSet)",
    "geojson": "Outlines and measurements for QuPath",
}


@dataclass(frozen=True)
class CrateFile:
    """A file of the archive. `path` is within the archive, `size` in bytes, `sha256` in hexadecimal."""

    path: str
    size: int
    sha256: str


def build_crate_metadata(manifest: Mapping[str, Any], files: Sequence[CrateFile]) -> dict[str, Any]:
    """Return the content of `ro-crate-metadata.json` for the files of a run. manifest: that of the run."""
    requested = manifest["asked_for"]
    parameters = [_parameter_entity(name, value) for name, value in requested["parameters"].items()]
    if requested["pixel_size_um"] is not None:
        parameters.append(_parameter_entity("pixel_size_um", requested["pixel_size_um"]))
    parts = [
        *map(_file_entity, files),
        {"@id": "manifest.json", "@type": "File", "encodingFormat": MEDIA_TYPES[".json"]},
    ]
    parts[-1]["name"] = "Every input with its checksum and outcome, and the size and checksum of every file"
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": "Spheroids segmented and measured",
        "description": f"Results of spheroseg {manifest['spheroseg']} for {len(manifest['inputs'])} images",
        "datePublished": manifest["written_at"],
        "hasPart": _references(parts),
        "mentions": {"@id": ACTION},
    }
    descriptor = {
        "@id": METADATA_NAME,
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
        "name": requested["model"],
        "version": requested["model_version"],
        "sha256": requested["model_sha256"],
    }
    action = {
        "@id": ACTION,
        "@type": "CreateAction",
        "name": "Segmentation and measurement",
        "endTime": manifest["written_at"],
        "instrument": _references([software, model]),
        "object": _references(parameters),
        "result": _references(parts),
    }
    return {"@context": CONTEXT, "@graph": [descriptor, root, *parts, action, software, model, *parameters]}


def _file_entity(file: CrateFile) -> dict[str, Any]:
    path = PurePosixPath(file.path)
    description = DESCRIPTIONS.get(path.parts[0])
    return {
        "@id": quote(file.path),
        "@type": "File",
        "name": file.path,
        **({"description": description} if description else {}),
        "encodingFormat": MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream"),
        "contentSize": str(file.size),
        "sha256": file.sha256,
    }


def _parameter_entity(name: str, value: Any) -> dict[str, Any]:
    # JSON-LD drops a property whose value is null.
    return {
        "@id": f"#parameter-{name}",
        "@type": "PropertyValue",
        "name": name,
        "value": "default" if value is None else value,
    }


def _references(entities: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{"@id": entity["@id"]} for entity in entities]
