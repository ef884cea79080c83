"""Write the results of a run from its database: tables, overlays, masks, exports and manifest.json."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.engine import reading
from spheroseg.database.runs import read_outcomes
from spheroseg.export.bundle import stream_bundle
from spheroseg.export.coco import CocoFile
from spheroseg.export.csv_table import encode_csv
from spheroseg.export.formats import ExportFormat
from spheroseg.export.growth_tables import PlateImage, drop_outlines
from spheroseg.plate.layout import PlateLayout
from spheroseg.run.file_names import unique_file_names
from spheroseg.run.image_outputs import ImageWriter
from spheroseg.run.inputs import InputList
from spheroseg.run.manifest import ImageEntry, build_image_entry, build_manifest, encode_manifest
from spheroseg.run.options import RunOptions
from spheroseg.run.result import ImageOutcome, RunResult
from spheroseg.run.results_folder import ResultsFolder, WrittenFile
from spheroseg.storage import ImageStore
from spheroseg.storage.atomic_files import write_atomically

LEADING_COLUMNS = ("image", "page", "object", "n_objects")
READ_AT_ONCE = 500  # results, whose outlines may take megabytes


async def write_outputs(
    engine: AsyncEngine,
    options: RunOptions,
    listing: InputList,
    task_ids: Sequence[UUID],
    layout: PlateLayout,
    version: int,
) -> RunResult:
    """Write everything into the output folder, each file in one step. Files that a person has edited are kept.

    task_ids, layout: of the inputs, in their order. version: the number of the result version of these tasks.
    """
    # The module that draws charts takes longer to load than the whole command line.
    from spheroseg.run.growth import write_growth

    store = ImageStore(options.storage_dir)
    folder = ResultsFolder(options.out, options.state_dir / "written")
    names = unique_file_names(listing.inputs)
    entries: list[ImageEntry] = []
    images: list[ImageOutcome] = []
    plate_images: list[PlateImage] = []
    finished_at: list[datetime] = []
    overlays: dict[tuple[str, int], Path] = {}
    exports: dict[str, WrittenFile] = {}
    with _coco_file(options) as coco:
        writer = ImageWriter(options, folder, store, coco)
        for start in range(0, len(task_ids), READ_AT_ONCE):
            some_ids = task_ids[start : start + READ_AT_ONCE]
            async with reading(engine) as conn:
                outcomes = await read_outcomes(conn, some_ids)
            for number, task_id in enumerate(some_ids, start=start):
                item, task, result = listing.inputs[number], outcomes.tasks[task_id], outcomes.results.get(task_id)
                entry = build_image_entry(item, task, outcomes.failures.get(task_id, ()))
                images.append(writer.write(item, names[number], entry, task_id, result))
                entries.append(entry)
                plate_images.append(
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
                if result:
                    # The worker's own file, because the copy in the output folder may have been edited.
                    overlays[item.name, item.page + 1] = store.require_local_path(result["overlay"]["key"])
                if task.finished_at:
                    finished_at.append(task.finished_at)
        if coco:
            exports["coco"] = folder.stream("coco.json", coco.chunks())
    rows = [row for image in images for row in image.objects]
    folder.replace("results.csv", encode_csv(rows, leading=LEADING_COLUMNS))
    manifest = build_manifest(options, listing, layout, entries, exports, version)
    newest = max(finished_at, default=None)
    growth = write_growth(folder, plate_images, options.plate, manifest, newest, overlays, is_plate=layout.is_plate)
    if growth.not_written:
        manifest["not_written"] = growth.not_written
    if ExportFormat.BUNDLE in options.exports:
        # The manifest inside the bundle cannot have the checksum of the bundle.
        without_bundle = {**manifest, "exports": dict(exports)}
        exports["bundle"] = folder.stream("bundle.zip", stream_bundle(folder.files, without_bundle))
    write_atomically(options.out / "manifest.json", encode_manifest(manifest))
    folder.remove_outdated()
    for name in ("overlays", "masks"):
        (options.out / name).mkdir(exist_ok=True)
    return RunResult(options, tuple(images), growth, layout, tuple(listing.skipped))


@contextmanager
def _coco_file(options: RunOptions) -> Iterator[CocoFile | None]:
    if ExportFormat.COCO not in options.exports:
        yield None
        return
    with tempfile.TemporaryFile(dir=options.state_dir) as spool:
        yield CocoFile(spool)
