"""What a run leaves for people: results.csv, overlays, masks, exports, manifest.json; made anew from the database."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import tifffile
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg import __version__
from spheroseg.atomic_files import write_atomically
from spheroseg.database.engine import reading
from spheroseg.database.runs import RunFailure, RunTask, read_outcomes
from spheroseg.export.bundle import stream_bundle
from spheroseg.export.coco import CocoFile
from spheroseg.export.csv_table import encode_csv
from spheroseg.export.formats import ExportFormat
from spheroseg.export.geojson import encode_geojson
from spheroseg.export.growth_tables import PlateImage, drop_outlines
from spheroseg.export.object_table import build_object_rows
from spheroseg.export.rois import encode_rois
from spheroseg.plate.layout import PlateLayout
from spheroseg.plate.options import PlateOptions
from spheroseg.run.inputs import InputList, RunInput
from spheroseg.run.options import RunOptions
from spheroseg.run.result import ImageOutcome, RunResult
from spheroseg.run.results_folder import ResultsFolder
from spheroseg.storage import ImageStore
from spheroseg.tasks import TaskState

LEADING = ("image", "page", "object", "n_objects")
LONGEST_NAME = 200
_CHUNK = 500


async def write_outputs(
    engine: AsyncEngine,
    options: RunOptions,
    listing: InputList,
    task_ids: Sequence[UUID],
    layout: PlateLayout,
    version: int,
) -> RunResult:
    """Write everything into the output folder, each file whole.

    layout: the places of the inputs. version: the number of the result version that these tasks are of.
    """
    # Not above: what draws charts takes longer to load than the whole command line.
    from spheroseg.run.growth import write_growth

    store = ImageStore(options.storage_dir)
    folder = ResultsFolder(options.out, options.state_dir / "written")
    names = _unique_names(listing.inputs)
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    images: list[ImageOutcome] = []
    frames: list[PlateImage] = []
    finished: list[datetime] = []
    overlays: dict[tuple[str, int], Path] = {}
    with _coco(options) as coco:
        for start in range(0, len(task_ids), _CHUNK):
            chunk = task_ids[start : start + _CHUNK]
            async with reading(engine) as conn:
                outcomes = await read_outcomes(conn, chunk)
            for number, task_id in enumerate(chunk, start=start):
                item, name = listing.inputs[number], names[number]
                task = outcomes.tasks[task_id]
                entry = _entry(item, task, outcomes.failures.get(task_id, ()))
                result = outcomes.results.get(task_id)
                if task.finished_at:
                    finished.append(task.finished_at)
                found: list[dict[str, Any]] = []
                if result is not None:
                    mask, overlay = result["mask"], result["overlay"]
                    mask_file = store.path(mask["key"])
                    overlays[item.name, item.page + 1] = store.path(overlay["key"])
                    entry["overlay"] = folder.copy(
                        f"overlays/{name}.jpg", store.path(overlay["key"]), overlay["sha256"]
                    )
                    entry["mask"] = folder.copy(f"masks/{name}.tif", mask_file, mask["sha256"])
                    entry |= _place_outlines(folder, options, item, name, task_id, result)
                    if coco:
                        coco.add(item.name, item.page + 1, result, partial(tifffile.imread, mask_file))
                    entry |= _provenance(result)
                    found = build_object_rows({"image": item.name, "page": item.page + 1}, result)
                entries.append(entry)
                images.append(_outcome(item, entry, found, options.out))
                frames.append(
                    PlateImage(
                        image=item.name,
                        page=item.page + 1,
                        position=layout.positions[number],
                        condition=layout.conditions[number],
                        result=drop_outlines(result) if result else None,
                        failed=entry["reason"] or entry["state"],
                        result_version=version,
                    )
                )
                rows += found
        exports: dict[str, Any] = {}
        if coco:
            exports["coco"] = folder.stream("coco.json", coco.chunks())
    folder.replace("results.csv", encode_csv(rows, leading=LEADING))
    manifest = {**_manifest(options, listing, entries, exports), "result_version": version, "plate": _plate(layout)}
    newest = max(finished, default=None)
    growth = write_growth(folder, frames, options.plate, manifest, newest, overlays, is_plate=layout.is_plate)
    if growth.not_written:
        manifest["not_written"] = growth.not_written
    if ExportFormat.BUNDLE in options.exports:
        # Inside it the manifest cannot tell the checksum of what it lies in.
        exports["bundle"] = folder.stream(
            "bundle.zip", stream_bundle(folder.files, {**manifest, "exports": dict(exports)})
        )
    write_atomically(options.out / "manifest.json", _json(manifest))
    folder.tidy()
    for always in ("overlays", "masks"):
        (options.out / always).mkdir(exist_ok=True)
    return RunResult(options, tuple(images), growth, layout, tuple(listing.skipped))


@contextmanager
def _coco(options: RunOptions) -> Iterator[CocoFile | None]:
    if ExportFormat.COCO not in options.exports:
        yield None
        return
    with tempfile.TemporaryFile(dir=options.state_dir) as spool:
        yield CocoFile(spool)


def _place_outlines(
    folder: ResultsFolder, options: RunOptions, item: RunInput, name: str, task_id: UUID, result: dict[str, Any]
) -> dict[str, Any]:
    placed = {}
    # ImageJ refuses a set of no regions.
    if ExportFormat.ROIS in options.exports and result["objects"]:
        position = item.page + 1 if item.pages > 1 else 0
        placed["rois"] = folder.put(f"rois/{name}.zip", encode_rois(result, position))
    if ExportFormat.GEOJSON in options.exports:
        placed["geojson"] = folder.put(f"geojson/{name}.geojson", encode_geojson(result, task_id))
    return placed


def _entry(item: RunInput, task: RunTask, failures: Sequence[RunFailure]) -> dict[str, Any]:
    return {
        "image": item.name,
        "page": item.page + 1,
        **_place(item),
        "source": item.storage_key,
        "sha256": item.sha256 or None,
        "task_id": str(task.id),
        "state": task.state,
        "reason": task.reason,
        "error": task.error,
        "attempts": task.attempt,
        "processing_time_ms": task.processing_time_ms,
        "failures": [
            {
                "attempt": failure.attempt,
                "cause": failure.cause,
                "superseded": failure.superseded,
                "reason": failure.reason,
                "error": failure.error,
                "worker": failure.worker,
                "failed_at": failure.failed_at.isoformat(),
                "next_attempt": failure.next_attempt,
            }
            for failure in failures
        ],
    }


def _place(item: RunInput) -> dict[str, Any]:
    told = {
        "t": item.t,
        "z": item.z,
        "channel": item.channel,
        "channel_name": item.channel_name,
        "time_h": item.time_h,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _provenance(result: dict[str, Any]) -> dict[str, Any]:
    known = ("width", "height", "pixel_size", "flags", "model", "parameters", "metrics_version", "versions")
    return {"objects": len(result["objects"]), **{name: result[name] for name in known}}


def _manifest(
    options: RunOptions, listing: InputList, entries: Sequence[dict[str, Any]], exports: dict[str, Any]
) -> dict[str, Any]:
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
            "plate": _asked_of_plate(options.plate),
            "pages": asdict(options.choice),
        },
        "counts": {state.value: sum(entry["state"] == state for entry in entries) for state in TaskState},
        "exports": exports,
        "inputs": entries,
        "skipped": listing.skipped,
    }


def _asked_of_plate(plate: PlateOptions) -> dict[str, Any]:
    asked = {name: value for name, value in asdict(plate).items() if name not in ("conditions", "growth")}
    return {**asked, **asdict(plate.growth)}


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


def _json(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()


def _unique_names(inputs: Sequence[RunInput]) -> list[str]:
    """A file name for each input's outputs: its path without the suffix, unless that would be taken twice."""
    plain = [_flat(item, PurePosixPath(item.name).with_suffix("").as_posix()) for item in inputs]
    full = [_flat(item, item.name) for item in inputs]
    # Folded, because some file systems do not tell a.png from A.png.
    uses = Counter(name.casefold() for name in plain)
    names: list[str] = []
    taken: set[str] = set()
    for short, long in zip(plain, full, strict=True):
        name = short if uses[short.casefold()] == 1 else long
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        names.append(name)
    return names


def _flat(item: RunInput, name: str) -> str:
    page = "" if item.pages == 1 else f"_p{item.page + 1:0{len(str(item.pages))}d}"
    flat = name.replace("/", "__")
    if len(flat.encode()) > LONGEST_NAME:
        # File systems take 255 bytes; the hash keeps what is cut off apart.
        cut = flat.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        flat = f"{cut}-{hashlib.sha256(flat.encode()).hexdigest()[:8]}"
    return flat + page


def _outcome(item: RunInput, entry: dict[str, Any], rows: Sequence[dict[str, Any]], out: Path) -> ImageOutcome:
    return ImageOutcome(
        label=item.label,
        state=entry["state"],
        reason=entry["reason"],
        error=entry["error"],
        objects=tuple(rows),
        flags=tuple(entry.get("flags", ())),
        pixel_size=entry.get("pixel_size"),
        mask=out / entry["mask"]["path"] if "mask" in entry else None,
        overlay=out / entry["overlay"]["path"] if "overlay" in entry else None,
    )
