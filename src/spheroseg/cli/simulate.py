"""`spheroseg simulate plate`: pictures of a plate whose truth is known."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from spheroseg.errors import BadParameters, OutputUnusable
from spheroseg.simulate.design import Design, Format, Naming
from spheroseg.simulate.laws import DoseResponse, Law
from spheroseg.simulate.plate import count_files, draw_files
from spheroseg.simulate.truth import make_tables

simulate_app = typer.Typer(help="Pictures whose truth is known, to try things on.", no_args_is_help=True)

WRITTEN = {
    "truth.csv": "what every image shows",
    "conditions.csv": "what is in every well, for --conditions",
    "faults.csv": "what is wrong with which file",
    "simulation.json": "the numbers behind it",
}


# Otherwise a group with one command is that command.
@simulate_app.callback()
def _group() -> None:
    pass


@simulate_app.command()
def plate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for it: a new one, or an empty one.")],
    wells: Annotated[int, typer.Option(metavar="N", help="Wells, row by row.")] = Design.wells,
    times: Annotated[int, typer.Option(metavar="N", help="Images of each well.")] = Design.times,
    interval: Annotated[float, typer.Option(metavar="HOURS", help="Between them.")] = Design.interval_h,
    law: Annotated[Law, typer.Option(help="How the volume of a spheroid grows.")] = Design.law,
    doubling_time: Annotated[
        float, typer.Option(metavar="HOURS", help="Of the volume, without drug and far from the capacity.")
    ] = Design.doubling_time_h,
    diameter: Annotated[float, typer.Option(metavar="UM", help="Of a spheroid at 0 h.")] = Design.diameter_um,
    capacity: Annotated[
        float, typer.Option(metavar="UM", help="Diameter that logistic and gompertz growth tends to.")
    ] = Design.capacity_um,
    pixel_size: Annotated[float, typer.Option(metavar="UM", help="µm per pixel.")] = Design.pixel_size_um,
    size: Annotated[int, typer.Option(metavar="PX", min=32, max=4096, help="Side of an image.")] = Design.size,
    noise: Annotated[
        float, typer.Option(metavar="GREY", min=0, max=50, help="Of the camera, in grey values of 255.")
    ] = Design.noise,
    debris: Annotated[
        float, typer.Option(metavar="N", min=0, max=500, help="Loose cells in a well, on average.")
    ] = Design.debris,
    drug: Annotated[str, typer.Option(metavar="NAME", help="What slows the growth.")] = Design.drug,
    doses: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Its concentrations beside the control, as 0.1,1,10; '' for none.",
            show_default="1 to 7",
        ),
    ] = None,
    unit: Annotated[str, typer.Option(metavar="TEXT", help="Of the concentrations.")] = Design.unit,
    ic50: Annotated[float, typer.Option(metavar="C", help="Of the growth rate.")] = Design.response.ic50,
    hill: Annotated[float, typer.Option(metavar="N", help="Steepness of the response.")] = Design.response.hill,
    floor: Annotated[
        float, typer.Option(metavar="PART", help="Of the growth rate that no dose takes; below 0 spheroids shrink.")
    ] = Design.response.bottom,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="With 3 broken files, a well without spheroid, and a well as one 16-bit TIFF of all times.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same plate.")] = Design.seed,
    format: Annotated[Format, typer.Option(help="PNG carries no pixel size: give it to `run`.")] = Design.format,
    naming: Annotated[Naming, typer.Option(help="Whose file names.")] = Design.naming,
) -> None:
    """Draw a brightfield time-lapse of a plate, with tables of what it truly shows; see docs/simulate.md.

    Exit code: 0 it is there, 2 wrong use.
    """
    design = Design(
        wells=wells,
        times=times,
        interval_h=interval,
        law=law,
        doubling_time_h=doubling_time,
        diameter_um=diameter,
        capacity_um=capacity,
        pixel_size_um=pixel_size,
        size=size,
        noise=noise,
        debris=debris,
        drug=drug,
        unit=unit,
        doses=None if doses is None else _numbers(doses),
        response=DoseResponse(ic50, hill, floor),
        seed=seed,
        format=format,
        naming=naming,
        has_faults=faults,
    )
    started = time.monotonic()
    try:
        _make_room(out)
        _write(out, design)
    except OSError as error:
        raise OutputUnusable(f"cannot write {error.filename or out}: {error.strerror}") from None
    _print_summary(out, design, time.monotonic() - started)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise BadParameters(
            f"--doses is {text!r}; it must be numbers with commas between them, as 0.1,1,10"
        ) from None


def _make_room(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputUnusable(f"{out} holds something already, and nothing is written over: name a new folder")
    out.mkdir(parents=True, exist_ok=True)


def _write(out: Path, design: Design) -> None:
    for name, data in make_tables(design).items():
        (out / name).write_bytes(data)
    console = Console(stderr=True)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        for name, data in bar.track(draw_files(design), total=count_files(design)):
            path = out / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)


def _print_summary(out: Path, design: Design, seconds: float) -> None:
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(
        f"{count_files(design)} images of {design.wells} wells × {design.times} times, "
        f"{design.size} × {design.size} px, "
        f"{design.pixel_size_um:g} µm a pixel, in {seconds:.0f} s",
        highlight=False,
    )
    for name, what in WRITTEN.items():
        if (out / name).exists():
            console.print(f"  {escape(str(out / name))}  [dim]{what}[/]", highlight=False)
