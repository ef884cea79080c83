"""manifest.json: what was asked for, and what was done with every input file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict

from spheroseg import __version__
from spheroseg.database.runs import RunFailure, RunTask
from spheroseg.plate.layout import PlateLayout
from spheroseg.plate.options import PlateOptions
from spheroseg.run.inputs import InputList, RunInput
from spheroseg.run.options import RunOptions
from spheroseg.run.results_folder import WrittenFile
from spheroseg.tasks import TaskState

Manifest = dict[str, Any]


class FailureEntry(TypedDict):
    """One attempt that did not finish."""

    attempt: int
    cause: str
    superseded: bool
    reason: str
    error: str
    worker: str | None
    failed_at: str
    next_attempt: int | None


class ImageEntry(TypedDict):
    """One image. `page` counts from 1. The optional keys are there if the file states them, or if it is completed."""

    image: str
    page: int
    t: NotRequired[int]
    z: NotRequired[int]
    channel: NotRequired[int]
    channel_name: NotRequired[str]
    time_h: NotRequired[float]
    source: str
    sha256: str | None
    task_id: str
    state: TaskState
    reason: str | None
    error: str | None
    attempts: int
    processing_time_ms: int | None
    failures: list[FailureEntry]
    overlay: NotRequired[WrittenFile]
    mask: NotRequired[WrittenFile]
    rois: NotRequired[WrittenFile]
    geojson: NotRequired[WrittenFile]
    objects: NotRequired[int]
    width: NotRequired[int]
    height: NotRequired[int]
    pixel_size: NotRequired[dict[str, Any] | None]
    flags: NotRequired[list[str]]
    model: NotRequired[dict[str, str]]
    parameters: NotRequired[dict[str, Any]]
    metrics_version: NotRequired[str]
    versions: NotRequired[dict[str, str]]


def build_image_entry(item: RunInput, task: RunTask, failures: Sequence[RunFailure]) -> ImageEntry:
    """Return the entry of an image, without its files and without what only a completed one has."""
    entry: ImageEntry = {
        "image": item.name,
        "page": item.page + 1,
        "source": item.storage_key,
        "sha256": item.sha256 or None,
        "task_id": str(task.id),
        "state": task.state,
        "reason": task.reason,
        "error": task.error,
        "attempts": task.attempt,
        "processing_time_ms": task.processing_time_ms,
        "failures": [_failure_entry(failure) for failure in failures],
    }
    if item.t is not None:
        entry["t"] = item.t
    if item.z is not None:
        entry["z"] = item.z
    if item.channel is not None:
        entry["channel"] = item.channel
    if item.channel_name:
        entry["channel_name"] = item.channel_name
    if item.time_h is not None:
        entry["time_h"] = item.time_h
    return entry


def add_result(entry: ImageEntry, result: Mapping[str, Any]) -> None:
    """Add what a completed image was segmented with, and what was found. result: as the worker recorded it."""
    entry["objects"] = len(result["objects"])
    entry["width"] = result["width"]
    entry["height"] = result["height"]
    entry["pixel_size"] = result["pixel_size"]
    entry["flags"] = result["flags"]
    entry["model"] = result["model"]
    entry["parameters"] = result["parameters"]
    entry["metrics_version"] = result["metrics_version"]
    entry["versions"] = result["versions"]


def build_manifest(
    options: RunOptions,
    listing: InputList,
    layout: PlateLayout,
    entries: Sequence[ImageEntry],
    exports: Mapping[str, WrittenFile],
    result_version: int,
) -> Manifest:
    """Return the manifest. `exports` is kept, not copied, so that files written later can be added to it."""
    return {
        "spheroseg": __version__,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked_for": {
            "model": options.model.name,
            "model_version": options.model.version,
            "model_sha256": options.model.sha256,
            "parameters": asdict(options.parameters),
            "pixel_size_um": options.pixel_size_um,
            "exports": sorted(options.exports),
            "plate": _plate_options(options.plate),
            "pages": asdict(options.choice),
        },
        "counts": {state.value: sum(entry["state"] == state for entry in entries) for state in TaskState},
        "exports": exports,
        "inputs": entries,
        "skipped": listing.skipped,
        "result_version": result_version,
        "plate": _plate(layout),
    }


def encode_manifest(manifest: Manifest) -> bytes:
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()


def _failure_entry(failure: RunFailure) -> FailureEntry:
    return {
        "attempt": failure.attempt,
        "cause": failure.cause,
        "superseded": failure.superseded,
        "reason": failure.reason,
        "error": failure.error,
        "worker": failure.worker,
        "failed_at": failure.failed_at.isoformat(),
        "next_attempt": failure.next_attempt,
    }


def _plate_options(plate: PlateOptions) -> dict[str, Any]:
    own = {name: value for name, value in asdict(plate).items() if name not in ("conditions", "growth")}
    return {**own, **asdict(plate.growth)}


def _plate(layout: PlateLayout) -> dict[str, Any] | None:
    if not layout.is_plate:
        return None
    return {
        "read_as": layout.preset,
        "guessed": layout.is_guessed,
        "plates": [{"plate": name, "wells": size} for name, size in layout.plates],
        "not_placed": [{"image": name, "reason": reason} for name, reason in layout.unplaced],
        "same_place": [list(names) for names in layout.clashes],
        "notes": list(layout.notes),
    }
