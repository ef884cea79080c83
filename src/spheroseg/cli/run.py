"""`spheroseg run`: the main job, with what people see of it."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.cli.options import PATTERNS, Conditions, Interval, Wells, conditions_of
from spheroseg.cli.placing import chosen_by_name, described, laid_out, with_conditions_beside
from spheroseg.cli.progress import Bar
from spheroseg.cli.stopping import stop_on_signal
from spheroseg.cli.summary import print_summary
from spheroseg.errors import OutputUnusable
from spheroseg.export.formats import ExportFormat
from spheroseg.logs import Tolerant, log_to
from spheroseg.plate.layout import OFF, PlateLayout
from spheroseg.plate.names import AUTO
from spheroseg.plate.options import GrowthOptions, Measure, PlateOptions, VolumeMethod, WellValue
from spheroseg.run.folder import open_run, run_folder
from spheroseg.run.inputs import Listing, find_inputs
from spheroseg.run.options import Only, RunOptions
from spheroseg.run.outputs import Written, write_outputs
from spheroseg.run.prepare import prepare
from spheroseg.run.process import process
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import EDGES, OBJECTS, Parameters
from spheroseg.segmentation.planes import ALL, PlaneChoice
from spheroseg.settings import Settings, read_settings


def run(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Images, folders of images, zip archives: PNG, JPEG, BMP, TIFF."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; the same one goes on.")],
    pixel_size: Annotated[
        float | None,
        typer.Option(metavar="UM", help="µm per pixel, for all images; by default what each file says."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="One of `spheroseg model list`.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=256, help="Images at the same time; by default the cores.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(metavar="P", help="Probability at the outline, between 0 and 1.")
    ] = Parameters.threshold,
    min_area_px: Annotated[
        float | None, typer.Option(metavar="PX2", help="Least area of an object in px²; by default by image size.")
    ] = None,
    min_area_um2: Annotated[
        float | None,
        typer.Option(metavar="UM2", help="Least area of an object in µm², where the pixel size is known."),
    ] = None,
    objects: Annotated[
        str, typer.Option(metavar="WHICH", help=f"Which objects of an image to keep: {', '.join(OBJECTS)}.")
    ] = Parameters.objects,
    edge: Annotated[
        str, typer.Option(metavar="HOW", help=f"What to do with objects at the edge: {', '.join(EDGES)}.")
    ] = Parameters.edge,
    separate: Annotated[
        bool, typer.Option("--separate/--no-separate", help="Tell touching objects apart, where the model can.")
    ] = Parameters.separate,
    z: Annotated[
        str | None,
        typer.Option(
            "--z", metavar="N|all", help="Of stacks: the z plane, from 1, or all.", rich_help_panel="Stacks"
        ),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME|all", help="Of stacks: the channel, from 1 or by name, or all.", rich_help_panel="Stacks"
        ),
    ] = None,
    time_point: Annotated[
        str,
        typer.Option("--time", metavar="N|all", help="Of stacks: the time point, from 1.", rich_help_panel="Stacks"),
    ] = ALL,
    export: Annotated[
        list[ExportFormat] | None,
        typer.Option(
            help="Write for other programs too: rois (ImageJ, Fiji), geojson (QuPath), coco (machine learning), "
            "bundle (everything as one zip). May be given several times.",
            show_default="rois",
        ),
    ] = None,
    plate: Annotated[
        str,
        typer.Option(
            metavar="P",
            help=f"How names tell well and time: {OFF}, {PATTERNS} With {AUTO}, a folder is a plate if most of its "
            "names say so.",
            rich_help_panel="Plate",
        ),
    ] = AUTO,
    conditions: Conditions = None,
    interval: Interval = None,
    wells: Wells = None,
    t0: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS",
            help="What relative values start from; by default the first time.",
            rich_help_panel="Plate",
        ),
    ] = None,
    volume: Annotated[
        VolumeMethod, typer.Option(help="Formula of the volume; see docs/metrics.md.", rich_help_panel="Plate")
    ] = VolumeMethod.SPHERE,
    well_value: Annotated[
        WellValue, typer.Option(help="Of several objects in an image, what the well is.", rich_help_panel="Plate")
    ] = WellValue.LARGEST,
    measure: Annotated[
        Measure, typer.Option(help="What curves, fits and the heat map are of.", rich_help_panel="Plate")
    ] = Measure.VOLUME,
    at: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS", help="Of heat map and endpoint; by default the last time.", rich_help_panel="Plate"
        ),
    ] = None,
    only: Annotated[
        Only | None,
        typer.Option(
            help="Of an earlier run do again: failed (what failed, also for good; nothing new), changed (new and "
            "changed files; nothing that failed). By default both, but not what failed for good."
        ),
    ] = None,
) -> None:
    """Segment images and measure the spheroids in them.

    Writes results.csv (a row an object), growth.csv, .xlsx and .parquet, overlays/, masks/, manifest.json and what
    --export asks for into DIR. A folder that is a plate by the names of its images, see `spheroseg plate preview`,
    gives growth curves too: charts/, contact/, wells.csv, conditions.csv, fits.csv, endpoint.csv.

    Stopped at any moment and started again with the same command, it goes on where it was; images that were added
    meanwhile are done too.

    Exit code: 0 all images completed, 1 some failed, 2 wrong use, 130 stopped by Ctrl-C.
    """
    settings = read_settings()
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise typer.BadParameter("must be a positive number of µm", param_hint="--pixel-size")
    options = RunOptions(
        out=out,
        model=find_model(model or settings.model or DEFAULT_MODEL, settings.model_folders),
        parameters=Parameters(threshold, min_area_px, min_area_um2, objects, edge, separate),
        pixel_size_um=pixel_size,
        workers=workers or settings.worker_concurrency,
        exports=frozenset(export or [ExportFormat.ROIS]),
        only=only,
        plate=PlateOptions(
            pattern=plate,
            conditions=tuple(conditions_of(conditions)) if conditions else (),
            conditions_file=conditions.name if conditions else None,
            wells=wells,
            interval_h=interval,
            growth=GrowthOptions(volume, well_value, t0),
            measure=measure,
            at_h=at,
        ),
        choice=PlaneChoice(
            time=_number("--time", time_point),
            z=_number("--z", z),
            channel=_number("--channel", channel, is_name_allowed=True),
        ),
    )
    sys.exit(_run(paths, options, settings))


def _number(option: str, text: str | None, *, is_name_allowed: bool = False) -> int | str | None:
    text = text.strip() if text is not None else None
    if text is None or text == ALL:
        return text
    if text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0:
        return int(text)
    if is_name_allowed and text and not text.isdecimal():
        return text
    what = "a number from 1, a name" if is_name_allowed else "a number from 1"
    raise typer.BadParameter(f"must be {what} or {ALL}", param_hint=option)


def _run(paths: Sequence[Path], options: RunOptions, settings: Settings) -> int:
    # Whoever reads may go away, or have a full disk: that must not stop the work.
    console = Console(file=cast(TextIO, Tolerant(sys.stdout)), soft_wrap=not sys.stdout.isatty())
    started = time.monotonic()
    try:
        listing = _listed(paths, options, console)
        if not listing.inputs:
            console.print("No images here: PNG, JPEG, BMP and TIFF are read, in folders and zip archives.")
            return 2
        listing, options = with_conditions_beside(paths, listing, options)
        layout = laid_out(listing, options)
        if layout.is_plate:
            listing, layout = chosen_by_name(listing, layout, options, console)
            console.print(described(layout, options), highlight=False)
        with run_folder(options), (options.state_dir / "run.log").open("a") as log:
            log_to(log)
            written, stopped = asyncio.run(_work(listing, layout, options, settings, console, log))
    except (OSError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        console.print(f"[bold red]error:[/] {escape(str(cause))}. Mend it, then run the same command again.")
        return 1
    print_summary(console, written, options, listing, time.monotonic() - started)
    if stopped:
        console.print("Stopped. The same command goes on from here.")
        return 130
    return 0 if all(line.state == "completed" for line in written.lines) else 1


def _listed(paths: Sequence[Path], options: RunOptions, console: Console) -> Listing:
    with console.status("Looking for images …") as status:
        return find_inputs(
            paths,
            choice=options.choice,
            progress=lambda done, found: status.update(f"Reading {done} of {found} files …"),
        )


async def _work(
    listing: Listing, layout: PlateLayout, options: RunOptions, settings: Settings, console: Console, log: Any
) -> tuple[Written, bool]:
    stopping = asyncio.Event()
    stopped = stop_on_signal(stopping, console)
    engine = open_run(options)
    try:
        inputs, task_ids, version = await prepare(engine, options, listing.inputs)
        if not inputs:
            raise OutputUnusable(
                f"nothing in {options.out} was segmented with these options before: leave out --only, or see "
                f"`spheroseg history {options.out}`"
            )
        left = len(listing.inputs) - len(inputs)
        if left:
            console.print(f"{left} new, left alone: --only {options.only}", highlight=False)
            kept = set(inputs)
            layout = layout.select([number for number, item in enumerate(listing.inputs) if item in kept])
        listing = replace(listing, inputs=inputs)
        with Bar(console, len(task_ids)) as bar:
            await process(engine, options, settings, task_ids, stopping, bar.show, log)
        with console.status("Writing tables and pictures …"):
            return await write_outputs(engine, options, listing, task_ids, layout, version), bool(stopped)
    finally:
        await engine.dispose()
