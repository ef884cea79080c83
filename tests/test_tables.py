"""The table of measured objects, and its CSV as a spreadsheet reads it."""

import csv
import io

import pytest

from spheroseg.export.csv_table import encode_csv
from spheroseg.export.object_table import build_object_rows, list_object_columns

from .support.plates import a_result


def table(name: str, um: float | None = None) -> list[dict[str, str]]:
    content = encode_csv(build_object_rows({"image": name}, a_result(um)), leading=["image"])
    return list(csv.DictReader(io.StringIO(content.decode())))


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-1.png", "@SUM(A1).png", "\t=1.png", " =1.png", "\r@x.png"])
def test_a_file_name_cannot_be_a_formula(name: str) -> None:
    (row,) = table(name)
    assert row["image"] == "'" + name.replace("\r", " ")


@pytest.mark.parametrize("name", ["a=b.png", "B02-1.png", "über.png", "'quoted.png", ""])
def test_other_names_and_all_numbers_are_unchanged(name: str) -> None:
    (row,) = table(name)
    assert row["image"] == name
    assert row["centroid_x_px"] == "-1.5"


def test_flags_of_image_and_object_are_in_one_column_each_once() -> None:
    result = a_result(flags=["several_objects", "low_contrast"])
    result["objects"] = [{**result["objects"][0], "flags": ["touches_edge", "low_contrast"]}]
    (row,) = build_object_rows({}, result)
    assert row["qc_flags"] == "several_objects;low_contrast;touches_edge"


def test_the_list_of_columns_has_every_column_of_a_row() -> None:
    (row,) = build_object_rows({"image": "a"}, a_result(um=0.5))
    assert list_object_columns(["image"], ["threshold", "min_area_px"]) == list(row)
