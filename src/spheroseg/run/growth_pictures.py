"""Draw the charts and contact sheets of a plate."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mode
from typing import Any

from spheroseg.export.charts import (
    condition_chart,
    dose_chart,
    encode_json,
    encode_png,
    encode_svg,
    heat_map,
    plate_chart,
    well_chart,
)
from spheroseg.export.charts.style import AnyChart
from spheroseg.export.contact_sheets import build_tiles, render_contact_sheets
from spheroseg.export.growth_tables import GrowthTables, PlateImage
from spheroseg.plate.options import PlateOptions

Rows = Sequence[dict[str, Any]]
MAX_WELL_CHARTS = 384  # for more wells, only the charts of whole plates are drawn


def draw_growth(
    tables: GrowthTables,
    sheets: Mapping[str, Rows],
    measure: str,
    options: PlateOptions,
    images: Sequence[PlateImage],
    overlays: Mapping[tuple[str, int], Path],
) -> dict[str, bytes]:
    """Return the charts and contact sheets of a plate by their path in the output folder, the first chart first.

    sheets: rows of the tables, by name. measure: the column that curves show. overlays: files, by name and page
    (from 1) of the image.
    """
    charts = _charts(tables, sheets["fits"], sheets["ic50"], sheets["endpoint"], measure, options)
    return _by_name(charts) | _contact_sheets(tables.growth, images, overlays)


def _charts(
    tables: GrowthTables, fits: Rows, ic50: Rows, endpoint: Rows, measure: str, options: PlateOptions
) -> Iterator[tuple[str, bytes]]:
    wells = tables.wells
    has_times = len({(row["time_h"], row["time_point"]) for row in wells}) > 1
    if tables.conditions and has_times:
        yield from _all_formats("charts/conditions", condition_chart(tables.conditions, wells, measure=measure))
    plates: dict[str, list[dict[str, Any]]] = {}
    for row in wells:
        if row["well"]:
            plates.setdefault(row["plate"] or "", []).append(row)
    for plate, rows in plates.items():
        name = _file_name(plate)
        if has_times:
            yield from _all_formats(f"charts/plate{name}", plate_chart(rows, measure=measure, wells=options.wells))
        if any(row["time_h"] is not None or row["time_point"] is not None for row in rows):
            chart = heat_map(rows, time=_time_of(endpoint, rows), measure=measure, wells=options.wells)
            yield from _all_formats(f"charts/heatmap{name}", chart)
    for row in ic50:
        chart = dose_chart(endpoint, row)
        yield from _all_formats(f"charts/dose{_file_name(row['drug'] or '')}", chart)
    if has_times:
        yield from _well_charts(wells, fits, measure)


def _well_charts(wells: Rows, fits: Rows, measure: str) -> Iterator[tuple[str, bytes]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in wells:
        groups.setdefault(_curve(row), []).append(row)
    if len(groups) > MAX_WELL_CHARTS:
        return
    best = {_curve(row): row for row in fits if row["best"] and row["level"] == "well"}
    expected = sorted({row["time_h"] for row in wells if row["time_h"] is not None})
    for (plate, label), rows in groups.items():
        chart = well_chart(rows, best.get((plate, label)), measure=measure, expected=expected)
        yield f"charts/wells{_file_name(plate)}{_file_name(label)}.png", encode_png(chart)


def _curve(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return plate and well or sample. Both are empty if the names contain only times, as for a single spheroid."""
    return row["plate"] or "", row["well"] or row["sample"] or ""


def _time_of(endpoint: Rows, rows: Rows) -> float | None:
    """Return the time (h) in `rows` that is nearest to that of most endpoints, or None if there are no hours."""
    times = [row["time_h"] for row in endpoint if row["time_h"] is not None]
    present = {row["time_h"] for row in rows if row["time_h"] is not None}
    return min(present, key=lambda time: abs(time - mode(times))) if times and present else None


def _contact_sheets(
    rows: Rows, images: Sequence[PlateImage], overlays: Mapping[tuple[str, int], Path]
) -> dict[str, bytes]:
    reasons = {image.image: image.failed.replace("_", " ") for image in images if image.result is None}
    tiles = build_tiles(rows, lambda row: overlays.get((row["image"], row["page"])), reasons=reasons)
    return {f"contact/{sheet.name}.jpg": sheet.jpeg for sheet in render_contact_sheets(tiles)}


def _all_formats(name: str, chart: AnyChart) -> Iterator[tuple[str, bytes]]:
    yield f"{name}.png", encode_png(chart)
    yield f"{name}.svg", encode_svg(chart).encode()
    yield f"{name}.json", encode_json(chart).encode()


def _by_name(pictures: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Give each picture a name of its own. Samples a+b and a=b have the same name, and so may a and A."""
    named: dict[str, bytes] = {}
    taken: set[str] = set()
    for name, content in pictures:
        stem, _, suffix = name.rpartition(".")
        while f"{stem}.{suffix}".casefold() in taken:
            stem += "_"
        taken.add(f"{stem}.{suffix}".casefold())
        named[f"{stem}.{suffix}"] = content
    return named


def _file_name(text: str) -> str:
    safe = "".join(letter if letter.isalnum() or letter in "-. " else "_" for letter in text).strip(". ")
    return f"_{safe}" if safe else ""
