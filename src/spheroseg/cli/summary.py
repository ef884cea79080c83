"""Print the summary of a run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spheroseg.cli.output import duration, plural
from spheroseg.cli.pixel_size import pixel_size_notes
from spheroseg.export.formats import ExportFormat
from spheroseg.plate.options import MIN_CONCENTRATIONS
from spheroseg.run.result import ImageOutcome, RunResult

MAX_ROWS = 40
MAX_NAMES = 5
NOTE = "[yellow]note:[/]"
EXPORTED = {
    ExportFormat.ROIS: ("rois/", "outlines for ImageJ and Fiji"),
    ExportFormat.GEOJSON: ("geojson/", "outlines for QuPath"),
    ExportFormat.COCO: ("coco.json", "outlines for machine learning"),
    ExportFormat.BUNDLE: ("bundle.zip", "all results in one archive"),
}


def print_summary(console: Console, result: RunResult, seconds: float) -> None:
    """Print a table of conditions or images, then what failed, the notes, and the files that were written."""
    if result.growth.tables.wells:
        _print_fits(console, result)
    else:
        _print_images(console, result.completed)
    if result.failed:
        console.print(f"\n[bold red]{len(result.failed)} failed:[/]")
        for image in result.failed:
            error = f"  {escape(image.label)}: {escape(image.error or '')} [dim]({image.reason})[/]"
            console.print(error, highlight=False)
    console.print(
        f"\n{len(result.completed)} of {len(result.images)} images completed, "
        f"{plural(len(result.objects), 'object')}, in {duration(seconds)}, model {result.options.model.name}",
        highlight=False,
    )
    for note in (*pixel_size_notes(result.images), *_plate_notes(result), *_growth_notes(result)):
        console.print(note, highlight=False)
    if result.skipped:
        files = plural(len(result.skipped), "file")
        verb = "is not an image and was" if len(result.skipped) == 1 else "are not images and were"
        console.print(f"{files} {verb} skipped (listed in manifest.json)", highlight=False)
    console.print("\nResults:", highlight=False)
    for name, content in _files(result):
        path = f"{result.out / name}{'/' * name.endswith('/')}"
        console.print(f"  {escape(path)}  [dim]{content}[/]", highlight=False)


def _print_images(console: Console, images: Sequence[ImageOutcome]) -> None:
    table = Table(show_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("objects", justify="right")
    table.add_column("largest diameter", justify="right")
    table.add_column("flags", overflow="fold")
    for image in images[:MAX_ROWS]:
        flags = ", ".join(image.flags).replace("_", " ")
        table.add_row(escape(image.label), str(len(image.objects)), _largest_diameter(image), flags)
    if images:
        console.print(table)
    if len(images) > MAX_ROWS:
        console.print(f"… and {len(images) - MAX_ROWS} more, all in results.csv")


def _largest_diameter(image: ImageOutcome) -> str:
    if not image.objects:
        return ""
    largest = max(image.objects, key=lambda row: row["area_px2"])
    um = largest.get("equivalent_diameter_um")
    return f"{um:.1f} µm" if um is not None else f"{largest['equivalent_diameter_px']:.1f} px"


def _print_fits(console: Console, result: RunResult) -> None:
    """Print one row per condition, or one per well if there are no conditions."""
    growth = result.growth
    fits = [row for row in growth.fits if row["level"] == "condition"] or list(growth.fits)
    has_wells = bool(fits) and fits[0]["level"] == "well"
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in fits:
        label = row["well"] or row["sample"] or ""
        name = f"{row['plate'] or ''} {label}".strip() if has_wells else str(row["condition"])
        groups.setdefault(name, []).append(row)
    table = Table(show_edge=False, header_style="bold")
    table.add_column("well" if has_wells else "condition", overflow="fold")
    table.add_column("wells", justify="right")
    table.add_column("doubling time", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("growth model, or why there is none", overflow="fold")
    for name, group in list(groups.items())[:MAX_ROWS]:
        best = next((row for row in group if row["best"]), group[0])
        table.add_row(
            escape(name),
            str(best["n_wells"] or 1),
            f"{best['doubling_time_h']:.1f} h" if best["doubling_time_h"] else "",
            _interval(best["doubling_time_ci_low"], best["doubling_time_ci_high"], "h"),
            escape(best["refused"] or best["model"]),
        )
    console.print(table)
    if len(groups) > MAX_ROWS:
        console.print(f"… and {len(groups) - MAX_ROWS} more, all in fits.csv")
    for row in growth.ic50:
        if row["ic50"] is not None or row["n_concentrations"] >= MIN_CONCENTRATIONS:
            console.print(_ic50(row), highlight=False)


def _ic50(row: Mapping[str, Any]) -> str:
    value = f"{row['ic50']:.3g} {row['unit'] or ''}".strip() if row["ic50"] else escape(row["refused"] or "")
    interval = _interval(row["ic50_ci_low"], row["ic50_ci_high"], "")
    return f"IC50 of {escape(row['drug'] or 'the drug')} on {row['measure']} at {row['time_h']:g} h: {value}" + (
        f" (95 % interval {interval})" if interval else ""
    )


def _interval(low: float | None, high: float | None, unit: str) -> str:
    return f"{low:.3g} to {high:.3g} {unit}".strip() if low is not None and high is not None else ""


def _plate_notes(result: RunResult) -> Iterator[str]:
    layout = result.layout
    if not layout.is_plate:
        return
    if layout.unplaced:
        names = ", ".join(escape(name) for name, _ in layout.unplaced[:MAX_NAMES])
        more = f" and {len(layout.unplaced) - MAX_NAMES} more" if len(layout.unplaced) > MAX_NAMES else ""
        yield f"{NOTE} no well could be read from: {names}{more}. `spheroseg plate preview` says why."
    for names_of_one_place in layout.clashes[:MAX_NAMES]:
        yield (
            f"{NOTE} these images have the same well and time, so their values are averaged: "
            f"{escape(', '.join(names_of_one_place))}"
        )
    yield from (f"{NOTE} {escape(note)}" for note in layout.notes)


def _growth_notes(result: RunResult) -> Iterator[str]:
    growth = result.growth
    if growth.tables.no_curves:
        yield f"{NOTE} {escape(growth.tables.no_curves)}"
    yield from (f"{NOTE} {escape(reason)}" for reason in dict.fromkeys(growth.not_written.values()))
    for name in growth.edited:
        yield f"{NOTE} {name} was edited, so it was not overwritten and may be out of date"
    flags = Counter(flag for row in growth.tables.wells for flag in (row["qc_flags"] or "").split(";") if flag)
    if flags:
        counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in flags.most_common())
        yield f"Quality flags to check (column qc_flags of wells.csv): {counts}"


def _files(result: RunResult) -> Iterator[tuple[str, str]]:
    yield "results.csv", "one row per object, all measurements"
    others = "growth.csv" if "growth.parquet" in result.growth.not_written else "growth.csv and growth.parquet"
    yield "growth.xlsx", f"one row per object with well and time (also {others})"
    yield "overlays/", "images with outlines and object numbers"
    yield "masks/", "label images"
    for kind in ExportFormat:
        if kind in result.options.exports and (kind != ExportFormat.ROIS or result.objects):
            yield EXPORTED[kind]
    yield "manifest.json", "what was done with every input file, with checksums"
    if result.growth.tables.wells:
        yield "fits.csv", "growth rates and doubling times (see also wells.csv, conditions.csv, endpoint.csv)"
        if "charts" not in result.growth.not_written:
            yield "contact/", "contact sheets: all overlays of a well in one row"
            yield "charts/", "growth curves of conditions and wells, heat map"
    if result.growth.curve:
        yield result.growth.curve, "the growth curves"
