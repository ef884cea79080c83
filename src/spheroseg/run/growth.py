"""Write the growth results of a run: tables, fits, charts and contact sheets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from spheroseg.export.csv_table import encode_csv
from spheroseg.export.growth_tables import GROWTH_COLUMNS, GrowthTables, PlateImage, build_growth_tables
from spheroseg.export.parquet import encode_parquet
from spheroseg.export.provenance import build_provenance_rows
from spheroseg.export.workbook import encode_workbook
from spheroseg.extras import install_command, is_installed
from spheroseg.plate.options import PlateOptions
from spheroseg.run.results_folder import ResultsFolder

Rows = Sequence[dict[str, Any]]
NO_PARQUET = (
    f"growth.parquet needs the extra 'parquet', which is not installed ({install_command('parquet')}); "
    "growth.csv and growth.xlsx have the same rows"
)
NO_CHARTS = (
    f"charts and contact sheets need the extra 'charts', which is not installed ({install_command('charts')}); "
    "the tables have the values of all of them"
)


@dataclass(frozen=True)
class GrowthResult:
    """The growth tables of a run.

    fits, ic50: rows of fits.csv and ic50.csv. curve: the path in the output folder of the first growth chart; None if
    there are no curves. edited: files that a person has edited, so that they were not overwritten.
    """

    tables: GrowthTables
    fits: Rows
    ic50: Rows
    curve: str | None
    edited: tuple[str, ...]
    not_written: dict[str, str] = field(default_factory=dict)  # file or folder: why, in a sentence


def write_growth(
    folder: ResultsFolder,
    images: Sequence[PlateImage],
    options: PlateOptions,
    manifest: Mapping[str, Any],
    date: datetime | None,
    overlays: Mapping[tuple[str, int], Path],
    *,
    is_plate: bool,
) -> GrowthResult:
    """Place tables, and of a plate the curves too. Without a change they are the same bytes as before.

    manifest: of the run, for the provenance sheet. date: when the newest result was finished. overlays: files, by
    name and page (from 1) of the image. is_plate: whether to draw curves.
    """
    tables = build_growth_tables(images, options.growth)
    sheets: dict[str, Rows] = {"growth": tables.growth}
    pictures: dict[str, bytes] = {}
    not_written = {} if is_installed("parquet") else {"growth.parquet": NO_PARQUET}
    if is_plate and tables.wells:
        # Not above: SciPy and Altair take a second to load, which a run without a plate need not wait for.
        from spheroseg.plate.endpoints import build_endpoint_rows
        from spheroseg.plate.fit_table import build_fit_rows, default_measure
        from spheroseg.plate.ic50 import build_ic50_rows

        measure = default_measure(tables.wells, options.measure.columns)
        endpoint = build_endpoint_rows(tables.wells, options.at_h)
        sheets |= {"wells": tables.wells, "conditions": tables.conditions}
        sheets |= {"fits": build_fit_rows(tables.wells, measure)}
        sheets |= {"endpoint": endpoint, "ic50": build_ic50_rows(endpoint)}
        if is_installed("charts"):
            from spheroseg.run.growth_pictures import draw_growth

            pictures = draw_growth(tables, sheets, measure, options, images, overlays)
        else:
            not_written |= dict.fromkeys(("charts", "contact"), NO_CHARTS)
    placed = dict(_encoded_tables(sheets, options, manifest, date, tables.no_curves)) | pictures
    curve = next((name for name in pictures if name.startswith("charts/") and name.endswith(".png")), None)
    edited = [name for name, content in placed.items() if folder.put(name, content)["edited"]]
    return GrowthResult(tables, sheets.get("fits", []), sheets.get("ic50", []), curve, tuple(edited), not_written)


def _encoded_tables(
    sheets: Mapping[str, Rows],
    options: PlateOptions,
    manifest: Mapping[str, Any],
    date: datetime | None,
    no_curves: str,
) -> Iterator[tuple[str, bytes]]:
    for name, rows in sheets.items():
        if rows or name == "growth":
            yield f"{name}.csv", encode_csv(rows, leading=() if rows else GROWTH_COLUMNS)
    made = date.isoformat(timespec="seconds") if date else ""
    provenance = build_provenance_rows(manifest, sheets, options.growth, no_curves=no_curves, date=made)
    yield "growth.xlsx", encode_workbook({**sheets, "provenance": provenance})
    if is_installed("parquet"):
        yield "growth.parquet", encode_parquet(sheets["growth"], provenance)
