"""The tables of a plate as files, read back by the libraries that people use."""

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow.parquet
import pytest

from spheroseg.export.columns import COLUMNS, ColumnType
from spheroseg.export.csv_table import encode_csv
from spheroseg.export.growth_tables import GROWTH_COLUMNS, GrowthTables, build_growth_tables
from spheroseg.export.parquet import encode_parquet
from spheroseg.export.provenance import build_provenance_rows
from spheroseg.export.workbook import encode_workbook
from spheroseg.plate.condition_statistics import CONDITION_COLUMNS, SUMMARISED
from spheroseg.plate.conditions import Condition
from spheroseg.plate.options import GrowthOptions, VolumeMethod, WellValue
from spheroseg.plate.well_curves import WELL_COLUMNS

from .support.plate_images import MODEL, PARAMETERS, plate_image

TRAPS = [
    "1E5",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1.tif",
    "@SUM(A1)",
    "0012",
    "2024-01-02",
    "E05",
    "http://a.b/c",
    "a\x07b",
]
FITS = (
    "level,plate,well,sample,condition,measure,model,best,n_points,n_wells,from_h,to_h,y0,rate_per_h,rate_ci_low,"
    "rate_ci_high,doubling_time_h,doubling_time_ci_low,doubling_time_ci_high,capacity,capacity_ci_low,"
    "capacity_ci_high,r2,aicc,refused"
)
ENDPOINT = (
    "plate,well,sample,condition,drug,concentration,unit,replicate,time_h,area_um2,volume_um3,rel_area,rel_volume,"
    "area_px2,volume_px3,qc_flags"
)
IC50 = "drug,unit,measure,time_h,n_wells,n_concentrations,ic50,ic50_ci_low,ic50_ci_high,hill,top,bottom,r2,refused"

MANIFEST: dict[str, Any] = {
    "spheroseg": "0.2.0",
    "written_at": "2026-11-24T17:00:00+00:00",
    "asked_for": {
        "model": MODEL["name"],
        "model_version": MODEL["version"],
        "model_sha256": MODEL["sha256"],
        "parameters": {**PARAMETERS, "min_area_px": None, "min_area_um2": None},
        "pixel_size_um": None,
        "exports": ["rois"],
    },
    "counts": {"queued": 0, "processing": 0, "completed": 3, "failed": 1, "cancelled": 0},
    "exports": {},
    "inputs": [
        {
            "image": f"A0{number}.tif",
            "page": 1,
            "state": "completed",
            "reason": None,
            "error": None,
            "objects": 1,
            "pixel_size": {"um": 0.65, "source": "OME-XML"} if number < 3 else None,
            "parameters": {**PARAMETERS, "min_area_px": 50.0 * number},
            "metrics_version": "1",
        }
        for number in (1, 2, 3)
    ]
    + [{"image": "B01.tif", "page": 2, "state": "failed", "reason": "bad_image", "error": "the file is cut off"}],
    "skipped": ["notes.txt"],
}


def some_tables() -> GrowthTables:
    dose = Condition("", "cisplatin", 2.5, "µM", extra_columns=(("cells", "0012"),))
    return build_growth_tables(
        [
            plate_image("E05", 0, 1000, 20, um=0.65, condition=dose),
            plate_image("E05", 24, 2000, um=0.65, condition=dose, site=None),
            plate_image("A01", 0, 1500, um=None, condition=replace(dose, concentration=0.0)),
            plate_image("A01", 24),
        ],
        GrowthOptions(),
    )


def sheets_of(data: bytes) -> dict[str, list[tuple[Any, ...]]]:
    book = openpyxl.load_workbook(io.BytesIO(data))
    return {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book}


def empty_as_none(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(None if value == "" else value for value in row.values()) for row in rows]


def test_a_workbook_reads_back_as_it_went_in_with_numbers_as_numbers() -> None:
    made = some_tables()
    read = sheets_of(encode_workbook({"growth": made.growth, "wells": made.wells, "conditions": made.conditions}))
    for name, rows in (("growth", made.growth), ("wells", made.wells), ("conditions", made.conditions)):
        head, *lines = read[name]
        assert list(head) == list(rows[0])
        assert lines == empty_as_none(rows)


def test_the_header_stays_in_view_and_every_column_can_be_filtered() -> None:
    sheet = openpyxl.load_workbook(io.BytesIO(encode_workbook({"growth": some_tables().growth})))["growth"]
    assert sheet.freeze_panes == "A2"
    assert sheet.auto_filter.ref.startswith("A1:")
    assert sheet.auto_filter.ref.endswith("6")
    letters = {cell.value: cell.column_letter for cell in sheet[1]}
    assert sheet[f"{letters['volume_um3']}4"].number_format == "#,##0"
    assert 8 <= sheet.column_dimensions[letters["image"]].width <= 46


@pytest.mark.parametrize("text", TRAPS)
def test_a_spreadsheet_reads_no_text_as_a_number_a_date_a_link_or_a_formula(text: str) -> None:
    data = encode_workbook({"growth": [{"image": text, "well": "E05", "area_um2": 1.5}]})
    sheet = openpyxl.load_workbook(io.BytesIO(data))["growth"]
    image, well, area = sheet[2]
    assert (image.data_type, well.data_type, area.data_type) in {("s", "s", "n"), ("inlineStr", "inlineStr", "n")}
    assert (image.value.replace("_x0007_", "\x07"), well.value, area.value) == (text, "E05", 1.5)
    assert image.hyperlink is None
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        assert b"<f>" not in parts.read("xl/worksheets/sheet1.xml")


def test_long_texts_are_cut_and_nan_and_infinity_are_empty_cells() -> None:
    rows = [
        {"image": "x" * 40_000, "area_um2": float("nan"), "volume_um3": float("inf"), "n_objects": 0, "best": True}
    ]
    ((_, line),) = sheets_of(encode_workbook({"growth": rows})).values()
    assert line == ("x" * 32_767, None, None, 0, True)


def test_a_table_too_long_for_one_sheet_continues_in_the_next() -> None:
    rows = [{"page": number} for number in range(1, 8)]
    read = sheets_of(encode_workbook({"growth": rows, "wells": rows[:2]}, max_rows=4))
    assert {name: [line[0] for line in lines] for name, lines in read.items()} == {
        "growth": ["page", 1, 2, 3],
        "growth_2": ["page", 4, 5, 6],
        "growth_3": ["page", 7],
        "wells": ["page", 1, 2],
    }


def test_a_table_without_rows_has_no_sheet() -> None:
    assert list(sheets_of(encode_workbook({"growth": [{"page": 1}], "fits": []}))) == ["growth"]


def test_the_same_tables_make_the_same_bytes_at_any_time() -> None:
    made = some_tables()
    provenance = build_provenance_rows(MANIFEST, {"growth": made.growth}, GrowthOptions(), date="2026-11-24")
    book = encode_workbook({"growth": made.growth, "provenance": provenance})
    assert book == encode_workbook({"growth": made.growth, "provenance": provenance})
    with zipfile.ZipFile(io.BytesIO(book)) as parts:
        assert {part.date_time[0] for part in parts.infolist()} == {1980}
        assert parts.read("docProps/core.xml").count(b"1980-01-01T00:00:00Z") == 2
    assert encode_parquet(made.growth, provenance) == encode_parquet(made.growth, provenance)


def test_a_parquet_file_has_types_nulls_and_provenance() -> None:
    made = some_tables()
    provenance = build_provenance_rows(MANIFEST, {"growth": made.growth}, GrowthOptions())
    table = pyarrow.parquet.read_table(io.BytesIO(encode_parquet(made.growth, provenance)))
    types = {field.name: str(field.type) for field in table.schema}
    assert types["well"] == types["qc_flags"] == types["cells"] == types["metrics_version"] == "string"
    assert types["col"] == types["n_objects"] == types["site"] == types["time_point"] == "int64"
    assert types["area_um2"] == types["time_h"] == types["concentration"] == "double"
    assert table.to_pylist() == made.growth
    assert table["site"].null_count == len(made.growth)
    assert table.schema.field("area_um2").metadata[b"unit"].decode() == "µm²"
    assert json.loads(table.schema.metadata[b"spheroseg"]) == provenance


def test_a_column_of_the_user_is_text_whatever_its_name() -> None:
    own = Condition("c", extra_columns=(("top", "upper"), ("area_um2", "12"), ("passage_h", "4")))
    rows = build_growth_tables([plate_image("A01", 0, 100, condition=own)], GrowthOptions()).growth
    (read,) = pyarrow.parquet.read_table(io.BytesIO(encode_parquet(rows, []))).to_pylist()
    assert (read["own_top"], read["own_area_um2"], read["passage_h"]) == ("upper", "12", "4")


def test_a_table_without_rows_is_a_parquet_file_too() -> None:
    assert pyarrow.parquet.read_table(io.BytesIO(encode_parquet([], []))).num_rows == 0


def test_csv_has_empty_cells_for_missing_values_and_no_formulas() -> None:
    image = replace(plate_image("A01", 0), image="=1+1.tif")
    (row,) = csv.DictReader(
        io.StringIO(encode_csv(build_growth_tables([image], GrowthOptions()).growth, leading=GROWTH_COLUMNS).decode())
    )
    assert list(row) == list(GROWTH_COLUMNS)
    assert (row["image"], row["area_um2"], row["rel_area"], row["n_objects"]) == ("'=1+1.tif", "", "", "0")
    header = encode_csv([], leading=WELL_COLUMNS).decode()
    assert header == ",".join(WELL_COLUMNS) + "\n"


def test_provenance_lists_what_made_the_numbers_and_what_failed() -> None:
    made = some_tables()
    options = GrowthOptions(VolumeMethod.LW2, WellValue.SUM, t0_h=24)
    rows = build_provenance_rows(MANIFEST, {"growth": made.growth, "wells": made.wells}, options, date="2026-11-23")
    assert {tuple(row) for row in rows} == {("section", "item", "value", "meaning")}
    said = {(row["section"], row["item"]): (row["value"], row["meaning"]) for row in rows}
    assert said["software", "spheroseg"][0] == "0.2.0"
    assert said["software", "date"][0] == "2026-11-23"
    assert said["software", "metrics_version"][0] == "1"
    assert said["model", "sha256"][0] == "a" * 64
    assert said["parameters", "threshold"] == (0.5, "used for all images")
    assert said["parameters", "min_area_px"] == ("50.0 to 150.0", "used, not the same for all images")
    assert said["parameters", "min_area_um2"][0] == "none"
    assert said["growth", "t0"][0] == 24
    assert said["growth", "volume_method"][0] == "lw2"
    assert "L·W²/2" in said["growth", "volume_method"][1]
    assert said["growth", "well_value"][0] == "sum"
    assert said["images", "completed"][0] == 3
    assert said["images", "failed"][0] == 1
    assert said["images without a result", "B01.tif page 2"] == ("bad_image", "the file is cut off")
    assert said["files left alone", "notes.txt"][1] == "not an image"
    assert said["columns of growth", "area_um2"] == ("µm²", "area, net of holes")
    assert said["columns of growth", "cells"] == ("text", "from your table of conditions")
    assert said["columns of wells", "n_images"][0] == "whole number"
    sizes = [(row["value"], row["meaning"]) for row in rows if row["section"] == "pixel size"]
    assert sizes == [
        (0.65, "µm, from OME-XML: 2 images"),
        (None, "not known: 1 images, whose columns in µm are empty"),
    ]


def test_provenance_lists_t0_of_each_plate_and_why_there_are_no_curves() -> None:
    frames = [plate_image("A01", time, 10, plate=plate) for plate, time in (("p", 6.0), ("q", 0.0), ("p", 12.0))]
    growth = build_growth_tables(frames, GrowthOptions()).growth
    rows = build_provenance_rows(MANIFEST, {"growth": growth}, GrowthOptions(), no_curves="choose a channel")
    said = {row["item"]: (row["value"], row["meaning"]) for row in rows}
    assert said["t0"] == (None, "h, the earliest time of each plate; rel_area and rel_volume are 1 there")
    assert (said["t0 of plate p"][0], said["t0 of plate q"][0]) == (6, 0)
    assert said["curves"] == (None, "choose a channel")
    assert said["date"][0] == MANIFEST["written_at"]
    without = build_provenance_rows(MANIFEST, {"growth": growth}, GrowthOptions(), date="")
    assert [row["value"] for row in without if row["item"] == "date"] == [None]


def test_the_page_about_growth_names_every_column() -> None:
    page = (Path(__file__).parents[1] / "docs" / "growth.md").read_text()
    assert {name for name in (*GROWTH_COLUMNS, *WELL_COLUMNS, *SUMMARISED) if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    "names",
    [GROWTH_COLUMNS, WELL_COLUMNS, CONDITION_COLUMNS, *(names.split(",") for names in (FITS, ENDPOINT, IC50))],
)
def test_every_column_has_a_meaning_and_the_unit_of_its_name(names: list[str]) -> None:
    assert set(names) <= COLUMNS.keys()
    for name in names:
        if name.endswith(("_um2", "_um2_mean", "_um2_sd")):
            assert (COLUMNS[name].type, COLUMNS[name].unit) == (ColumnType.NUMBER, "µm²")
    assert COLUMNS["doubling_time_ci_low"].unit == "h"
    assert COLUMNS["rate_ci_high"].unit == "1/h"
    assert COLUMNS["pixel_size_um"].unit == "µm"
