"""What a run leaves for people: results.csv, overlays, masks, manifest.json; made anew from the database."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg import __version__
from spheroseg.database.engine import reading
from spheroseg.database.schema import segmentation_failures, segmentation_results, segmentation_tasks
from spheroseg.export.tables import encode_csv, object_rows
from spheroseg.inputs import Input, Listing
from spheroseg.run import RunOptions
from spheroseg.storage import ImageStore, write_whole
from spheroseg.tasks import TaskState

LEADING = ("image", "page", "object", "n_objects")
LONGEST_NAME = 200
_CHUNK = 500


@dataclass(frozen=True)
class Line:
    """What became of one input, for the summary. `largest` is the equivalent diameter of its largest object."""

    label: str
    state: str
    reason: str | None
    error: str | None
    objects: int
    largest: str
    flags: tuple[str, ...]


async def write_outputs(
    engine: AsyncEngine, options: RunOptions, listing: Listing, task_ids: Sequence[UUID]
) -> list[Line]:
    """Write everything into the output folder, each file whole; what became of each input, in order."""
    store = ImageStore(options.storage_dir)
    names = _unique_names(listing.inputs)
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    lines: list[Line] = []
    for folder in ("overlays", "masks"):
        (options.out / folder).mkdir(exist_ok=True)
    for start in range(0, len(task_ids), _CHUNK):
        chunk = task_ids[start : start + _CHUNK]
        tasks, results, failures = await _read(engine, chunk)
        for item, name, task_id in zip(listing.inputs[start:], names[start:], chunk, strict=False):
            entry = _entry(item, tasks[task_id], failures[task_id])
            result = results.get(task_id)
            found: list[dict[str, Any]] = []
            if result is not None:
                outputs = {"overlay": Path("overlays", f"{name}.png"), "mask": Path("masks", f"{name}.tif")}
                for kind, path in outputs.items():
                    is_edited = _place(store.path(result[kind]["key"]), options.out / path, result[kind]["sha256"])
                    entry[kind] = {"path": path.as_posix(), "sha256": result[kind]["sha256"], "edited": is_edited}
                entry |= _provenance(result)
                found = object_rows({"image": item.name, "page": item.page + 1}, result)
            entries.append(entry)
            lines.append(_line(item, entry, found))
            rows += found
    write_whole(options.out / "results.csv", encode_csv(rows, leading=LEADING))
    _remove_stale(options.out, entries)
    _write_manifest(options, listing, entries)
    return lines


async def _read(engine: AsyncEngine, task_ids: Sequence[UUID]) -> tuple[dict[UUID, Any], dict[UUID, Any], Any]:
    t, r, f = segmentation_tasks, segmentation_results, segmentation_failures
    async with reading(engine) as conn:
        tasks = {row.id: row for row in await conn.execute(select(t).where(t.c.id.in_(task_ids)))}
        stored = await conn.execute(select(r.c.task_id, r.c.result).where(r.c.task_id.in_(task_ids), ~r.c.superseded))
        results = {row.task_id: row.result for row in stored}
        failures = defaultdict(list)
        for row in await conn.execute(select(f).where(f.c.task_id.in_(task_ids)).order_by(f.c.id)):
            failures[row.task_id].append(row)
    return tasks, results, failures


def _entry(item: Input, task: Any, failures: Sequence[Any]) -> dict[str, Any]:
    return {
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


def _provenance(result: dict[str, Any]) -> dict[str, Any]:
    known = ("width", "height", "pixel_size", "flags", "model", "parameters", "metrics_version", "versions")
    return {"objects": len(result["objects"]), **{name: result[name] for name in known}}


def _write_manifest(options: RunOptions, listing: Listing, entries: Sequence[dict[str, Any]]) -> None:
    manifest = {
        "spheroseg": __version__,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked_for": {
            "model": options.model.name,
            "model_version": options.model.version,
            "model_sha256": options.model.sha256,
            "parameters": asdict(options.parameters),
            "pixel_size_um": options.pixel_size_um,
        },
        "counts": {state.value: sum(entry["state"] == state for entry in entries) for state in TaskState},
        "inputs": entries,
        "skipped": listing.skipped,
    }
    write_whole(options.out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _unique_names(inputs: Sequence[Input]) -> list[str]:
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


def _flat(item: Input, name: str) -> str:
    page = "" if item.pages == 1 else f"_p{item.page + 1:0{len(str(item.pages))}d}"
    flat = name.replace("/", "__")
    if len(flat.encode()) > LONGEST_NAME:
        # File systems take 255 bytes; the hash keeps what is cut off apart.
        cut = flat.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        flat = f"{cut}-{hashlib.sha256(flat.encode()).hexdigest()[:8]}"
    return flat + page


def _place(stored: Path, wanted: Path, sha256: str) -> bool:
    """Copy the stored file to its name for people. True where somebody has edited it: then it is left alone.

    A copy and not a link, because some programs write into the file that they have opened.
    """
    if wanted.exists():
        return _sha256(wanted) != sha256
    write_whole(wanted, stored.read_bytes())
    return False


def _remove_stale(out: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Take away the pictures that the last manifest names and this one will not: of images not asked for any more."""
    try:
        before = json.loads((out / "manifest.json").read_bytes())["inputs"]
    except (OSError, ValueError, KeyError):
        return
    for path in _outputs(before) - _outputs(entries):
        (out / path).unlink(missing_ok=True)


def _outputs(entries: Sequence[dict[str, Any]]) -> set[str]:
    return {entry[kind]["path"] for entry in entries for kind in ("overlay", "mask") if kind in entry}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(item: Input, entry: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Line:
    largest = max(rows, key=lambda row: row["area_px2"], default=None)
    return Line(
        label=item.label,
        state=entry["state"],
        reason=entry["reason"],
        error=entry["error"],
        objects=len(rows),
        largest=_diameter(largest) if largest else "",
        flags=tuple(entry.get("flags", ())),
    )


def _diameter(row: dict[str, Any]) -> str:
    um = row.get("equivalent_diameter_um")
    return f"{um:.1f} µm" if um is not None else f"{row['equivalent_diameter_px']:.1f} px"
