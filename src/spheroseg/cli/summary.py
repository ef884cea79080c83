"""What a person reads at the end of a run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spheroseg.cli.pixel_size import pixel_size_notes
from spheroseg.cli.progress import duration
from spheroseg.export.formats import ExportFormat
from spheroseg.plate.dose_response import MIN_CONCENTRATIONS
from spheroseg.run.inputs import Listing
from spheroseg.run.options import RunOptions
from spheroseg.run.outputs import Line, Written

SUMMARY_LINES = 40
NAMED = 5
EXPORTED = {
    ExportFormat.ROIS: ("rois/", "outlines for ImageJ and Fiji"),
    ExportFormat.GEOJSON: ("geojson/", "outlines for QuPath"),
    ExportFormat.COCO: ("coco.json", "outlines for machine learning"),
    ExportFormat.BUNDLE: ("bundle.zip", "all of it in one file"),
}


def print_summary(console: Console, written: Written, options: RunOptions, listing: Listing, seconds: float) -> None:
    """What came out: of a plate its conditions, else the images; then what failed, and where everything is."""
    lines = written.lines
    completed = [line for line in lines if line.state == "completed"]
    failed = [line for line in lines if line.state == "failed"]
    if written.growth and written.growth.tables.wells:
        _print_growth(console, written)
    else:
        _print_images(console, completed)
    if failed:
        console.print(f"\n[bold red]{len(failed)} failed:[/]")
        for line in failed:
            console.print(
                f"  {escape(line.label)}: {escape(line.error or '')} [dim]({line.reason})[/]", highlight=False
            )
    objects = sum(line.objects for line in completed)
    console.print(
        f"\n{len(completed)} of {len(lines)} images completed, {objects} objects, in {duration(seconds)}; "
        f"model {options.model.name}",
        highlight=False,
    )
    for note in (*pixel_size_notes(lines), *_notes(written)):
        console.print(note, highlight=False)
    if listing.skipped:
        count = len(listing.skipped)
        what = "1 file is no image and was" if count == 1 else f"{count} files are no images and were"
        console.print(f"{what} left alone (named in manifest.json)", highlight=False)
    for name, what in _files(written, options, objects):
        console.print(
            f"  {escape(str(options.out / name))}{'/' * name.endswith('/')}  [dim]{what}[/]", highlight=False
        )


def _print_images(console: Console, completed: Sequence[Line]) -> None:
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


def _print_growth(console: Console, written: Written) -> None:
    """A line for each condition, or for each well where there are no conditions."""
    growth = written.growth
    assert growth
    rows = [row for row in growth.fits if row["level"] == "condition"] or list(growth.fits)
    is_of_wells = bool(rows) and rows[0]["level"] == "well"
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        label = row["well"] or row["sample"] or ""
        name = f"{row['plate'] or ''} {label}".strip() if is_of_wells else str(row["condition"])
        groups.setdefault(name, []).append(row)
    table = Table(show_edge=False, header_style="bold")
    table.add_column("well" if is_of_wells else "condition", overflow="fold")
    table.add_column("wells", justify="right")
    table.add_column("doubling time", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("model, or why there is none", overflow="fold")
    shown = list(groups.items())[:SUMMARY_LINES]
    for name, of_group in shown:
        best = next((row for row in of_group if row["best"]), of_group[0])
        table.add_row(
            escape(name),
            str(best["n_wells"] or 1),
            f"{best['doubling_time_h']:.1f} h" if best["doubling_time_h"] else "",
            _interval(best["doubling_time_ci_low"], best["doubling_time_ci_high"], "h"),
            escape(best["refused"] or best["model"]),
        )
    console.print(table)
    if len(groups) > len(shown):
        console.print(f"… and {len(groups) - len(shown)} more, all in fits.csv")
    for row in growth.ic50:
        if row["ic50"] is None and row["n_concentrations"] < MIN_CONCENTRATIONS:
            continue
        value = f"{row['ic50']:.3g} {row['unit'] or ''}".strip() if row["ic50"] else escape(row["refused"] or "")
        interval = _interval(row["ic50_ci_low"], row["ic50_ci_high"], "")
        console.print(
            f"IC50 of {escape(row['drug'] or 'the drug')} on {row['measure']} at {row['time_h']:g} h: {value}"
            + (f" (95 % interval {interval})" if interval else ""),
            highlight=False,
        )


def _interval(low: float | None, high: float | None, unit: str) -> str:
    return f"{low:.3g} to {high:.3g} {unit}".strip() if low is not None and high is not None else ""


def _notes(written: Written) -> Iterator[str]:
    layout, growth = written.layout, written.growth
    if layout.is_plate:
        if layout.unplaced:
            names = ", ".join(escape(name) for name, _ in layout.unplaced[:NAMED])
            more = f" and {len(layout.unplaced) - NAMED} more" if len(layout.unplaced) > NAMED else ""
            yield f"In no well: {names}{more}. `spheroseg plate preview` says why."
        for clash in layout.clashes[:NAMED]:
            yield f"[yellow]note:[/] the same place more than once, so they are averaged: {escape(', '.join(clash))}"
        yield from (f"[yellow]note:[/] {escape(note)}" for note in layout.notes)
    if growth:
        if growth.tables.no_curves:
            yield f"[yellow]note:[/] {escape(growth.tables.no_curves)}"
        yield from (f"[yellow]note:[/] {escape(reason)}" for reason in growth.not_written.values())
        for name in growth.edited:
            yield f"[yellow]note:[/] {name} was changed by somebody and is left alone: it may be out of date"
        flags = Counter(flag for row in growth.tables.wells for flag in (row["qc_flags"] or "").split(";") if flag)
        if flags:
            named = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in flags.most_common())
            yield f"To look at: {named} (qc_flags of wells.csv)"


def _files(written: Written, options: RunOptions, objects: int) -> Iterator[tuple[str, str]]:
    yield "results.csv", "a row an object, all measurements"
    others = "growth.csv" if written.growth.not_written else "growth.csv and growth.parquet"
    yield "growth.xlsx", f"a row an object with well and time; also as {others}"
    yield "overlays/", "outlines and numbers, to look at"
    yield "masks/", "label images"
    for kind in ExportFormat:
        if kind in options.exports and (kind != ExportFormat.ROIS or objects):
            yield EXPORTED[kind]
    yield "manifest.json", "every input, what became of it, and how"
    if written.growth and written.growth.tables.wells:
        yield "fits.csv", "growth rates and doubling times; beside it wells, conditions, endpoint"
        yield "contact/", "all overlays of a well in a row"
        yield "charts/", "curves of each condition and well, heat map"
    if written.growth and written.growth.curve:
        yield written.growth.curve, "the growth curves"
