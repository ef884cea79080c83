"""`spheroseg run`: the main job, with what people see of it."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.cli.pixel_size import pixel_size_notes
from spheroseg.cli.stopping import stop_on_signal
from spheroseg.export.kinds import Export
from spheroseg.inputs import Listing, find_inputs
from spheroseg.logs import Tolerant, log_to
from spheroseg.outputs import Line, write_outputs
from spheroseg.run import Progress as RunProgress
from spheroseg.run import RunOptions, open_run, prepare, process, run_folder
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import EDGES, OBJECTS, Parameters
from spheroseg.segmentation.planes import ALL, Choice
from spheroseg.settings import Settings, read_settings

SUMMARY_LINES = 40
EXPORTED = {
    Export.ROIS: ("rois/", "outlines for ImageJ and Fiji"),
    Export.GEOJSON: ("geojson/", "outlines for QuPath"),
    Export.COCO: ("coco.json", "outlines for machine learning"),
    Export.BUNDLE: ("bundle.zip", "all of it in one file"),
}


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
        list[Export] | None,
        typer.Option(
            help="Write for other programs too: rois (ImageJ, Fiji), geojson (QuPath), coco (machine learning), "
            "bundle (everything as one zip). May be given several times.",
            show_default="rois",
        ),
    ] = None,
) -> None:
    """Segment images and measure the spheroids in them.

    Writes results.csv (a row an object), overlays/, masks/, manifest.json and what --export asks for into DIR.
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
        exports=frozenset(export or [Export.ROIS]),
        choice=Choice(
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
        with run_folder(options), (options.state_dir / "run.log").open("a") as log:
            log_to(log)
            lines, stopped = asyncio.run(_work(listing, options, settings, console, log))
    except (OSError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        console.print(f"[bold red]error:[/] {escape(str(cause))}. Mend it, then run the same command again.")
        return 1
    _print_summary(console, lines, options, listing, time.monotonic() - started)
    if stopped:
        console.print("Stopped. The same command goes on from here.")
        return 130
    return 0 if all(line.state == "completed" for line in lines) else 1


def _listed(paths: Sequence[Path], options: RunOptions, console: Console) -> Listing:
    with console.status("Looking for images …") as status:
        return find_inputs(
            paths,
            choice=options.choice,
            progress=lambda done, found: status.update(f"Reading {done} of {found} files …"),
        )


async def _work(
    listing: Listing, options: RunOptions, settings: Settings, console: Console, log: Any
) -> tuple[list[Line], bool]:
    stopping = asyncio.Event()
    stopped = stop_on_signal(stopping, console)
    engine = open_run(options)
    try:
        task_ids = await prepare(engine, options, listing.inputs)
        with _Bar(console, len(task_ids)) as bar:
            await process(engine, options, settings, task_ids, stopping, bar.show, log)
        return await write_outputs(engine, options, listing, task_ids), bool(stopped)
    finally:
        await engine.dispose()


class _Bar:
    """Progress on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.first: int | None = None
        self.began: float | None = None
        self.printed = -1.0
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.row = self.bar.add_task("", total=total, failed="", left="")

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, progress: RunProgress) -> None:
        done = progress.completed + progress.failed
        if self.first is None:
            self.first = done
            if progress.completed:
                self.console.print(f"Going on: {progress.completed} of {progress.total} are completed already.")
        failed = f"{progress.failed} failed" if progress.failed else ""
        left = self._left(done)
        self.bar.update(self.row, completed=done, failed=f"[red]{failed}[/]" if failed else "", left=left)
        share = done / progress.total
        if not self.console.is_terminal and (share >= self.printed + 0.1 or done == progress.total != 0):
            if share > self.printed:
                self.console.print(", ".join(filter(None, [f"{done} of {progress.total} done", failed, left])))
            self.printed = share

    def _left(self, done: int) -> str:
        assert self.first is not None
        new = done - self.first
        if not new or done == self.total:
            return ""
        if self.began is None:
            # From the first image that is finished: what came before was starting up.
            self.began, self.first = time.monotonic(), done
            return ""
        seconds = (time.monotonic() - self.began) / new * (self.total - done)
        return f"about {_duration(seconds)} left"


def _print_summary(
    console: Console, lines: Sequence[Line], options: RunOptions, listing: Listing, seconds: float
) -> None:
    completed = [line for line in lines if line.state == "completed"]
    failed = [line for line in lines if line.state == "failed"]
    table = Table(show_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("objects", justify="right")
    table.add_column("diameter of the largest", justify="right")
    table.add_column("remarks", overflow="fold")
    shown = completed[:SUMMARY_LINES]
    for line in shown:
        table.add_row(escape(line.label), str(line.objects), line.largest, ", ".join(line.flags).replace("_", " "))
    if shown:
        console.print(table)
    if len(completed) > len(shown):
        console.print(f"… and {len(completed) - len(shown)} more, all in results.csv")
    if failed:
        console.print(f"\n[bold red]{len(failed)} failed:[/]")
        for line in failed:
            console.print(
                f"  {escape(line.label)}: {escape(line.error or '')} [dim]({line.reason})[/]", highlight=False
            )
    objects = sum(line.objects for line in completed)
    console.print(
        f"\n{len(completed)} of {len(lines)} images completed, {objects} objects, in {_duration(seconds)}; "
        f"model {options.model.name}",
        highlight=False,
    )
    for note in pixel_size_notes(lines):
        console.print(note, highlight=False)
    if listing.skipped:
        count = len(listing.skipped)
        what = "1 file is no image and was" if count == 1 else f"{count} files are no images and were"
        console.print(f"{what} left alone (named in manifest.json)", highlight=False)
    for name, what in (
        ("results.csv", "a row an object"),
        ("overlays/", "outlines and numbers, to look at"),
        ("masks/", "label images"),
        *(EXPORTED[kind] for kind in Export if kind in options.exports and (kind != Export.ROIS or objects)),
        ("manifest.json", "every input, what became of it, and how"),
    ):
        console.print(
            f"  {escape(str(options.out / name))}{'/' * name.endswith('/')}  [dim]{what}[/]", highlight=False
        )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
