"""`spheroseg run`: parse the options, run, show progress and a summary."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO, cast

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.cli.options import PANEL, PATTERNS, Conditions, Interval, Wells
from spheroseg.cli.run_display import RunDisplay
from spheroseg.cli.stopping import stop_on_signal
from spheroseg.cli.summary import print_summary
from spheroseg.export.formats import ExportFormat
from spheroseg.logs import TolerantStream
from spheroseg.plate.layout import OFF
from spheroseg.plate.names import AUTO
from spheroseg.plate.options import GrowthOptions, Measure, PlateOptions, VolumeMethod, WellValue
from spheroseg.run.execute import execute_run
from spheroseg.run.options import Only, RunOptions
from spheroseg.run.plan import RunPlan, plan_run
from spheroseg.run.plate_layout import read_conditions_file
from spheroseg.run.result import RunResult
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import EDGES, OBJECTS, Parameters
from spheroseg.segmentation.planes import ALL, PlaneChoice
from spheroseg.settings import Settings, read_settings

RESULTS, OBJECT, STACK = "Results", "Objects", "Stacks"


def run(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Images, folders of images, zip archives (PNG, JPEG, BMP, TIFF)."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the results. Name it again to continue an earlier run.")
    ],
    pixel_size: Annotated[
        float | None,
        typer.Option(metavar="UM", help="µm per pixel of all images. By default the value stored in each file."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of a model, see `spheroseg model list`.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=256, help="Number of images to segment at the same time. By default all cores."
        ),
    ] = None,
    export: Annotated[
        list[ExportFormat] | None,
        typer.Option(
            help="Files to write for other programs: rois (ImageJ, Fiji), geojson (QuPath), coco (machine learning), "
            "bundle (all results in one zip archive). Can be given several times.",
            show_default="rois",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    only: Annotated[
        Only | None,
        typer.Option(
            help="Repeat one part of an earlier run: failed (only images that failed, also permanently), changed "
            "(only new and changed images). By default both, but not images that failed permanently.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(metavar="P", help="Probability at the outline, between 0 and 1.", rich_help_panel=OBJECT),
    ] = Parameters.threshold,
    min_area_px: Annotated[
        float | None,
        typer.Option(
            metavar="PX2",
            help="Minimum area of an object in px². By default it depends on the image size.",
            rich_help_panel=OBJECT,
        ),
    ] = None,
    min_area_um2: Annotated[
        float | None,
        typer.Option(
            metavar="UM2",
            help="Minimum area of an object in µm². Needs the pixel size.",
            rich_help_panel=OBJECT,
        ),
    ] = None,
    objects: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help=f"Objects to keep in each image: {', '.join(OBJECTS)}.",
            rich_help_panel=OBJECT,
        ),
    ] = Parameters.objects,
    edge: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help=f"Objects that touch the edge of the image: {', '.join(EDGES)}.",
            rich_help_panel=OBJECT,
        ),
    ] = Parameters.edge,
    separate: Annotated[
        bool,
        typer.Option(
            "--separate/--no-separate",
            help="Separate touching objects, if the model can do that.",
            rich_help_panel=OBJECT,
        ),
    ] = Parameters.separate,
    z: Annotated[
        str | None,
        typer.Option("--z", metavar="N|all", help="z plane to segment, from 1, or all.", rich_help_panel=STACK),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME|all", help="Channel to segment, from 1 or by name, or all.", rich_help_panel=STACK
        ),
    ] = None,
    time_point: Annotated[
        str,
        typer.Option("--time", metavar="N|all", help="Time point to segment, from 1, or all.", rich_help_panel=STACK),
    ] = ALL,
    plate: Annotated[
        str,
        typer.Option(
            metavar="P",
            help=f"Pattern of the file names, from which well and time are read: {OFF}, {PATTERNS} With {AUTO}, a "
            "folder is a plate if most of its names contain wells or times.",
            rich_help_panel=PANEL,
        ),
    ] = AUTO,
    conditions: Conditions = None,
    interval: Interval = None,
    wells: Wells = None,
    measure: Annotated[
        Measure, typer.Option(help="Quantity of curves, fits and heat map.", rich_help_panel=PANEL)
    ] = Measure.VOLUME,
    volume: Annotated[
        VolumeMethod, typer.Option(help="Formula of the volume, see docs/metrics.md.", rich_help_panel=PANEL)
    ] = VolumeMethod.SPHERE,
    well_value: Annotated[
        WellValue,
        typer.Option(
            help="Value of a well whose image has several objects: the largest one, or their sum.",
            rich_help_panel=PANEL,
        ),
    ] = WellValue.LARGEST,
    t0: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS",
            help="Time that relative values refer to. By default the first time.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS",
            help="Time of the heat map and the endpoint table. By default the last time.",
            rich_help_panel=PANEL,
        ),
    ] = None,
) -> None:
    """Segment images and measure the spheroids in them.

    Writes into DIR: results.csv (one row per object), growth tables (.csv, .xlsx, .parquet), overlays/, masks/,
    manifest.json, and the files that --export selects. If the file names describe a plate (see `spheroseg plate
    preview`), it also writes growth curves and fits: charts/, contact/, wells.csv, conditions.csv, fits.csv,
    endpoint.csv.

    You can stop a run at any time and continue it with the same command. Images that were added meanwhile are
    segmented too.

    Exit codes: 0 all images completed, 1 some images failed, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    settings = read_settings()
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
            conditions=tuple(read_conditions_file(conditions)) if conditions else (),
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
    allowed = "a number from 1, a name" if is_name_allowed else "a number from 1"
    raise typer.BadParameter(f"must be {allowed} or {ALL}", param_hint=option)


def _run(paths: Sequence[Path], options: RunOptions, settings: Settings) -> int:
    """Run and print. Return the exit code."""
    # The program that reads our output may end, or its disk may be full: that must not stop the work.
    console = Console(file=cast(TextIO, TolerantStream(sys.stdout)), soft_wrap=not sys.stdout.isatty())
    started = time.monotonic()
    try:
        with RunDisplay(console) as display:
            plan = plan_run(paths, options, display)
            result, is_stopped = asyncio.run(_execute(plan, settings, display, console))
    except (OSError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        console.print(f"[bold red]error:[/] {escape(str(cause))}. Fix the problem and rerun the same command.")
        return 1
    print_summary(console, result, time.monotonic() - started)
    if is_stopped:
        console.print("Stopped. Run the same command again to continue.")
        return 130
    return 0 if len(result.completed) == len(result.images) else 1


async def _execute(
    plan: RunPlan, settings: Settings, display: RunDisplay, console: Console
) -> tuple[RunResult, bool]:
    stopping = asyncio.Event()
    signals = stop_on_signal(stopping, console)
    result = await execute_run(plan, settings, stopping, display)
    return result, bool(signals)
