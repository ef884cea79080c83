"""The command line: processes and questions."""

import asyncio
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from spheroseg import __version__
from spheroseg.cli.accounts import token_app, user_app
from spheroseg.cli.db import db_app
from spheroseg.cli.doctor import doctor
from spheroseg.cli.evaluate import evaluate
from spheroseg.cli.exporter import exporter
from spheroseg.cli.models import model_app
from spheroseg.cli.plate import plate_app
from spheroseg.cli.queues import broker_app, dlq_app, queue_app, task_app
from spheroseg.cli.train import train
from spheroseg.cli.web import serve_http
from spheroseg.errors import DatabaseAway, SpherosegError
from spheroseg.export.kinds import Export
from spheroseg.inputs import Listing, find_inputs
from spheroseg.logs import Tolerant, log_to
from spheroseg.outputs import Line, write_outputs
from spheroseg.run import Progress as RunProgress
from spheroseg.run import RunOptions, open_run, prepare, process, run_folder
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import EDGES, OBJECTS, Parameters
from spheroseg.services import serve_collect, serve_relay, serve_worker
from spheroseg.settings import Settings, read_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(queue_app, name="queue")
app.add_typer(dlq_app, name="dlq")
app.add_typer(task_app, name="task")
app.add_typer(broker_app, name="broker")
app.command()(exporter)
model_app.command()(evaluate)
model_app.command()(train)
app.add_typer(model_app, name="model")
app.add_typer(plate_app, name="plate")
app.add_typer(db_app, name="db")
app.add_typer(user_app, name="user")
app.add_typer(token_app, name="token")
app.command()(doctor)

SUMMARY_LINES = 40
EXPORTED = {
    Export.ROIS: ("rois/", "outlines for ImageJ and Fiji"),
    Export.GEOJSON: ("geojson/", "outlines for QuPath"),
    Export.COCO: ("coco.json", "outlines for machine learning"),
    Export.BUNDLE: ("bundle.zip", "all of it in one file"),
}


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows only ASCII must not stop a run over a file name.
            stream.reconfigure(errors="backslashreplace")
    # Answers go to stdout, and only they.
    log_to(sys.stderr, logging.WARNING)
    try:
        _unwrapped(app)
    except SpherosegError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _unwrapped(command: Callable[[], None]) -> None:
    """Several tasks that fail together fail for one reason, as a rule: show that one."""
    try:
        command()
    except* SpherosegError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


@app.command()
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
    )
    sys.exit(_run(paths, options, settings))


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
            progress=lambda done, found: status.update(f"Reading {done} of {found} files …"),
        )


async def _work(
    listing: Listing, options: RunOptions, settings: Settings, console: Console, log: Any
) -> tuple[list[Line], bool]:
    stopping = asyncio.Event()
    stopped = _stop_on_signal(stopping, console)
    engine = open_run(options)
    try:
        task_ids = await prepare(engine, options, listing.inputs)
        with _Bar(console, len(task_ids)) as bar:
            await process(engine, options, settings, task_ids, stopping, bar.show, log)
        return await write_outputs(engine, options, listing, task_ids), bool(stopped)
    finally:
        await engine.dispose()


def _stop_on_signal(stopping: asyncio.Event, console: Console | None = None) -> list[signal.Signals]:
    """The first SIGINT or SIGTERM sets `stopping`; the second ends the process. The list tells what came."""
    came: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if came:
            # Nothing is lost: the children die with us, and what they had is done again.
            if console:
                console.show_cursor(True)
            os._exit(130)
        came.append(number)
        stopping.set()
        if console:
            console.print("Stopping: the running images are finished first. Once more to stop at once.")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return came


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


@app.command()
def serve() -> None:
    """Answer over HTTP, and run beside it what the settings ask for: collect, relay, workers.

    With no settings at all this is everything in one process, on SQLite, for this machine alone.
    """
    from spheroseg.api.serve import serve_backend

    def announce(address: str, token: str | None) -> None:
        print(f"spheroseg answers at {address}/api", flush=True)
        if token:
            print(f"token of the administrator: {token}", flush=True)
        else:
            print("tokens: `spheroseg token create USER --name NAME`; users: `spheroseg user add NAME`", flush=True)

    _serve(lambda settings, stopping: serve_backend(settings, stopping, announce))


@app.command()
def worker() -> None:
    """Take tasks from the queue and work on them until stopped."""
    _serve(serve_worker)


@app.command(name="worker-http")
def worker_http() -> None:
    """Answer over HTTP for the worker on this machine: /health, /ready, /models, /metrics."""
    settings = read_settings()
    from spheroseg.api.ml import create_ml_app

    app = create_ml_app(settings.worker_status_file(), settings.model_folders)
    # A container's probes come from outside.
    serve_http(app, "0.0.0.0", settings.worker_http_port)  # noqa: S104


@app.command()
def relay() -> None:
    """Move tasks from the database to RabbitMQ until stopped."""
    _serve(serve_relay)


@app.command(name="collect")
def collect_command() -> None:
    """Turn what workers report into the state of tasks until stopped."""
    _serve(serve_collect)


def _serve(service: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    settings = read_settings()
    log_to()

    async def serve() -> None:
        stopping = asyncio.Event()
        _stop_on_signal(stopping)
        await service(settings, stopping)

    try:
        asyncio.run(serve())
    except* (SQLAlchemyError, OSError) as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise DatabaseAway(f"the database does not answer ({cause}): check DATABASE_URL") from cause


@app.command(name="settings")
def settings_command() -> None:
    """Show every setting, its value, where it comes from, and what it means."""
    settings = read_settings()
    table = Table(show_edge=False, header_style="bold")
    for column in ("variable", "value", "from", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in Settings.model_fields.items():
        source = "set" if name in settings.model_fields_set else "default"
        value = "" if source == "default" and not getattr(settings, name) else str(getattr(settings, name))
        if not field.repr:
            value = "(hidden)"
        table.add_row(name.upper(), escape(_without_password(value)), source, escape(field.description or ""))
    Console().print(table)


def _without_password(value: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(value).render_as_string(hide_password=True) if "://" in value else value
    except ArgumentError:
        return value


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Segment microscope images of spheroids; look after the queue that does it."""
    if show:
        print(__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
