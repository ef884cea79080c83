"""`spheroseg plate preview`: show which well and time each file name stands for."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spheroseg.cli.options import PANEL, PATTERNS, Conditions, Interval, Wells
from spheroseg.cli.output import Json, print_json
from spheroseg.errors import BadPlate
from spheroseg.plate.condition_assignment import assign_conditions
from spheroseg.plate.names import AUTO, parse_names
from spheroseg.plate.preview import Preview, PreviewImage
from spheroseg.plate.preview_table import build_preview_row, encode_preview
from spheroseg.plate.times import format_hours
from spheroseg.plate.wells import PLATE_FORMATS, Well, row_name
from spheroseg.run.inputs import find_names
from spheroseg.run.plate_layout import conditions_beside, read_conditions_file

plate_app = typer.Typer(help="Check how file names are read as wells and times.", no_args_is_help=True)

MAX_ROWS = 20
SHOWN = ("plate", "well", "sample", "site", "time", "channel", "z", "condition", "replicate")


# Typer would turn a group with a single command into that command.
@plate_app.callback()
def _group() -> None:
    pass


@plate_app.command()
def preview(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Folders of images, zip archives, images. Only their names are read."
        ),
    ],
    pattern: Annotated[str, typer.Option(metavar="P", help=PATTERNS, rich_help_panel=PANEL)] = AUTO,
    conditions: Conditions = None,
    interval: Interval = None,
    wells: Wells = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the whole table to FILE. You can correct it and use it with --conditions."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Show all images instead of the first {MAX_ROWS}.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the well, time and condition that are read from each file name. Nothing is segmented or queued.

    Exit codes: 0 names were understood, 1 no name was understood, 2 wrong usage.
    """
    listing = find_names(paths)
    found = parse_names((item.name for item in listing.inputs), pattern, wells=wells, interval_h=interval)
    conditions = conditions or conditions_beside(paths)
    if conditions is not None:
        found = assign_conditions(found, read_conditions_file(conditions))
    if csv is not None:
        _write(csv, encode_preview(found))
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found, everything=everything)
        if csv is not None:
            print(f"The whole table is in {csv}. You can correct it and use it with --conditions.")
    sys.exit(0 if found.placed else 1)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadPlate(f"cannot write {path}: {error.strerror}") from None


def _as_json(found: Preview) -> dict[str, Any]:
    return {
        "preset": found.preset,
        "guessed": found.is_guessed,
        "images": [build_preview_row(image) for image in found.images],
        "plates": [
            {
                "plate": plate,
                "wells": size,
                "used": {str(well): n for well, n in sorted(found.count_images_per_well(plate).items())},
            }
            for plate, size in found.plates.items()
        ],
        "clashes": found.clashes,
        "notes": list(found.notes),
    }


def _show(found: Preview, *, everything: bool) -> None:
    console = Console()
    if not found.images:
        console.print(
            "No images found: spheroseg reads PNG, JPEG, BMP and TIFF files, also in folders and zip archives."
        )
        return
    rows = [(image, _cells(image)) for image in found.images if image.position]
    shown = rows if everything else rows[:MAX_ROWS]
    if rows:
        console.print(_table(shown, rows))
    if len(rows) > len(shown):
        console.print(
            f"… and {len(rows) - len(shown)} more: --all shows them, --csv FILE writes them", highlight=False
        )
    for plate, size in found.plates.items():
        console.print()
        _print_map(console, found, plate, size)
    console.print()
    _print_counts(console, found)
    _print_list(
        console,
        f"{len(found.failed)} names not understood" if found.placed else "No name was understood",
        [f"{escape(image.name)}: {escape(image.reason)}" for image in found.failed],
        everything=everything,
    )
    _print_list(
        console,
        "Images with the same well and time. If they belong to different plates, use a pattern with {plate}",
        [" = ".join(map(escape, names)) for names in found.clashes],
        everything=everything,
    )
    for note in found.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
    if not found.placed:
        console.print(
            "Describe your names with a pattern, for example --pattern '{well}_day{day}'; see docs/plates.md."
        )


def _cells(image: PreviewImage) -> dict[str, str]:
    position = image.position
    assert position
    row = build_preview_row(image)
    time = f"{format_hours(position.time_h)} h" if position.time_h is not None else ""
    if position.time_h is None and position.time_point is not None:
        time = f"point {position.time_point}"
    known = {**row, "time": time, "condition": image.condition.label}
    return {word: "" if known[word] is None else str(known[word]) for word in SHOWN}


def _table(
    shown: Sequence[tuple[PreviewImage, dict[str, str]]], rows: Iterable[tuple[PreviewImage, dict[str, str]]]
) -> Table:
    columns = [word for word in SHOWN if any(cells[word] for _, cells in rows)]
    table = Table(show_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    for word in columns:
        is_wide = word in ("plate", "sample", "condition")
        table.add_column(
            word,
            justify="right" if word in ("site", "time", "z") else "left",
            overflow="fold",
            no_wrap=not is_wide,
        )
    for image, cells in shown:
        table.add_row(escape(image.name), *(escape(cells[word]) for word in columns))
    return table


def _print_map(console: Console, found: Preview, plate: str, size: int) -> None:
    counts = found.count_images_per_well(plate)
    usual = statistics.mode(sorted(counts.values(), reverse=True))
    rows, columns = PLATE_FORMATS[size]
    # The largest plate only fits into a terminal with one character per well.
    width = 1 if size == 1536 else max(2, len(str(max(counts.values()))))
    gap = "" if size == 1536 else " "
    title = f"Plate {plate}" if plate else "Plate"
    console.print(
        f"[bold]{escape(title)}[/], {len(counts)} of {size} wells, images in each:", highlight=False, soft_wrap=True
    )
    if size != 1536:
        numbers = gap.join(f"{column + 1:>{width}}" for column in range(columns))
        console.print(f"   {gap}{numbers}", style="dim", highlight=False, no_wrap=True, crop=False)
    for row in range(rows):
        cells = []
        for column in range(columns):
            count = counts.get(Well(row, column), 0)
            text = "·" if not count else "+" if len(str(count)) > width else str(count)
            style = "dim" if not count else "yellow" if count < usual else "default"
            cells.append(f"[{style}]{text:>{width}}[/]")
        console.print(f"[dim]{row_name(row):>2}[/] {gap}{gap.join(cells)}", highlight=False, no_wrap=True, crop=False)
    fewer = [f"{well} {count}" for well, count in sorted(counts.items()) if count < usual]
    if fewer:
        more = f" and {len(fewer) - MAX_ROWS} more" if len(fewer) > MAX_ROWS else ""
        console.print(f"[yellow]fewer than {usual}:[/] {', '.join(fewer[:MAX_ROWS])}{more}", highlight=False)


def _print_counts(console: Console, found: Preview) -> None:
    if not found.placed:
        return
    positions = [position for _, position in found.placed]
    counts = [
        _count({(position.plate, position.well) for position in positions if position.well}, "well"),
        _count({(position.plate, position.sample) for position in positions if not position.well}, "sample"),
        _count(
            {position.time_point if position.time_h is None else position.time_h for position in positions} - {None},
            "time",
        ),
        _count({position.site for position in positions} - {None}, "site"),
        _count({position.channel for position in positions} - {""}, "channel"),
        _count({position.z for position in positions} - {None}, "z position"),
        _count({image.condition.label for image, _ in found.placed} - {""}, "condition"),
    ]
    how = f"read as {found.preset}" + (" (best guess)" if found.is_guessed else "")
    console.print(
        f"{len(positions)} of {len(found.images)} images {escape(how)}: {', '.join(filter(None, counts))}",
        highlight=False,
    )


def _count(values: set[Any], what: str) -> str:
    return f"{len(values)} {what}{'s' if len(values) > 1 else ''}" if values else ""


def _print_list(console: Console, title: str, lines: Sequence[str], *, everything: bool) -> None:
    if not lines:
        return
    console.print(f"[bold red]{escape(title)}:[/]", highlight=False)
    shown = lines if everything else lines[:MAX_ROWS]
    for line in shown:
        console.print(f"  {line}", highlight=False)
    if len(lines) > len(shown):
        console.print(f"  … and {len(lines) - len(shown)} more: --all shows them, --csv FILE writes them")
