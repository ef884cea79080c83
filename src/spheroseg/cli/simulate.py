"""`spheroseg simulate plate`: images of a plate with known measurements."""

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

simulate_app = typer.Typer(help="Simulate images with known measurements, for tests.", no_args_is_help=True)

WRITTEN = {
    "truth.csv": "true measurements of every image",
    "conditions.csv": "what is in each well, for --conditions",
    "faults.csv": "the files with faults",
    "simulation.json": "all settings of the simulation",
}


# Typer would turn a group with a single command into that command.
@simulate_app.callback()
def _group() -> None:
    pass


@simulate_app.command()
def plate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the images: a new or an empty one.")],
    wells: Annotated[int, typer.Option(metavar="N", help="Number of wells, filled row by row.")] = Design.wells,
    times: Annotated[int, typer.Option(metavar="N", help="Number of images of each well.")] = Design.times,
    interval: Annotated[float, typer.Option(metavar="HOURS", help="Time between images.")] = Design.interval_h,
    law: Annotated[Law, typer.Option(help="Growth law of the volume.")] = Design.law,
    doubling_time: Annotated[
        float,
        typer.Option(metavar="HOURS", help="Doubling time of the volume, without drug and far below the capacity."),
    ] = Design.doubling_time_h,
    diameter: Annotated[
        float, typer.Option(metavar="UM", help="Diameter of a spheroid at 0 h.")
    ] = Design.diameter_um,
    capacity: Annotated[
        float, typer.Option(metavar="UM", help="Maximum diameter of logistic and gompertz growth.")
    ] = Design.capacity_um,
    pixel_size: Annotated[float, typer.Option(metavar="UM", help="µm per pixel.")] = Design.pixel_size_um,
    size: Annotated[
        int, typer.Option(metavar="PX", min=32, max=4096, help="Width and height of an image.")
    ] = Design.size,
    noise: Annotated[
        float, typer.Option(metavar="GREY", min=0, max=50, help="Camera noise in grey values, of 255.")
    ] = Design.noise,
    debris: Annotated[
        float, typer.Option(metavar="N", min=0, max=500, help="Mean number of loose cells in a well.")
    ] = Design.debris,
    drug: Annotated[str, typer.Option(metavar="NAME", help="Name of the drug that slows the growth.")] = Design.drug,
    doses: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Concentrations besides the control, such as 0.1,1,10; '' for none.",
            show_default="1 to 7",
        ),
    ] = None,
    unit: Annotated[str, typer.Option(metavar="TEXT", help="Unit of the concentrations.")] = Design.unit,
    ic50: Annotated[float, typer.Option(metavar="C", help="IC50 of the growth rate.")] = Design.response.ic50,
    hill: Annotated[float, typer.Option(metavar="N", help="Hill slope of the response.")] = Design.response.hill,
    floor: Annotated[
        float,
        typer.Option(
            metavar="PART",
            help="Share of the growth rate that remains at the highest dose. Below 0, spheroids shrink.",
        ),
    ] = Design.response.bottom,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Add faults: 3 broken files, a well without a spheroid, and a well as one 16-bit TIFF of all times.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed. The same seed gives the same plate.")
    ] = Design.seed,
    format: Annotated[
        Format, typer.Option(help="File format. PNG stores no pixel size, so `run` needs --pixel-size.")
    ] = Design.format,
    naming: Annotated[Naming, typer.Option(help="Style of the file names.")] = Design.naming,
) -> None:
    """Simulate a brightfield time-lapse of a plate, with tables of its true measurements. See docs/simulate.md.

    Exit codes: 0 written, 2 wrong usage.
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
        _make_folder(out)
        _write(out, design)
    except OSError as error:
        raise OutputUnusable(f"cannot write {error.filename or out}: {error.strerror}") from None
    _print_summary(out, design, time.monotonic() - started)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise BadParameters(
            f"--doses is {text!r}; it must be numbers separated by commas, such as 0.1,1,10"
        ) from None


def _make_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputUnusable(f"{out} is not an empty folder: name a new folder, so that nothing is overwritten")
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
        f"{design.pixel_size_um:g} µm per pixel, in {seconds:.0f} s",
        highlight=False,
    )
    for name, what in WRITTEN.items():
        if (out / name).exists():
            console.print(f"  {escape(str(out / name))}  [dim]{what}[/]", highlight=False)
