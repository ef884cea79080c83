"""The user's table of conditions: what is in each well, and corrections of what the names say."""

import pytest

from spheroseg.errors import BadPlate
from spheroseg.plate.condition_assignment import assign_conditions
from spheroseg.plate.condition_table import read_conditions
from spheroseg.plate.conditions import Condition
from spheroseg.plate.names import parse_names
from spheroseg.plate.preview import Preview
from spheroseg.plate.preview_table import encode_preview
from spheroseg.plate.wells import parse_well


def assign(names: list[str], table: str | bytes) -> Preview:
    return assign_conditions(
        parse_names(names), read_conditions(table if isinstance(table, bytes) else table.encode(), "c.csv")
    )


def conditions_of(preview: Preview) -> dict[str, Condition]:
    return {image.name: image.condition for image in preview.images}


def complaint(table: str | bytes) -> str:
    with pytest.raises(BadPlate) as caught:
        read_conditions(table if isinstance(table, bytes) else table.encode(), "c.csv")
    return str(caught.value)


def test_a_row_for_a_well_applies_to_all_its_images() -> None:
    found = assign(
        ["A1_t1.png", "A1_t2.png", "A2_t1.png"],
        "well,condition,drug,concentration,unit,replicate,cells\na01,treated,cisplatin,2.5,uM,1,HCT116\n",
    )
    expected = Condition("treated", "cisplatin", 2.5, "µM", "1", (("cells", "HCT116"),))
    assert conditions_of(found) == {"A1_t1.png": expected, "A1_t2.png": expected, "A2_t1.png": Condition()}
    assert "without a condition: A02" in found.notes


@pytest.mark.parametrize(
    "table",
    [
        "row,column,drug,concentration,unit\nB,2,x,0.5,µM\n",
        "row,column,drug,concentration,unit\n2,02,x,0.5,uM\n",
        "Well;Compound;Dose (µM)\nB2;x;0,5\n",
        "well\tdrug\tconcentration [uM]\nB2\tx\t0.5\n",
        "well,drug,conc_uM\nB2,x,0.5\n",
        "﻿Well Position,Treatment,concentration (μM)\r\nA1-B2,x,0.5\r\n,,\r\n",
    ],
)
def test_the_tables_of_other_programs_are_read(table: str) -> None:
    (found,) = conditions_of(assign(["B02.png"], table)).values()
    assert (found.drug, found.concentration, found.unit) == ("x", 0.5, "µM")
    assert found.label == "x 0.5 µM"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_micro_sign_survives_every_spreadsheet(encoding: str) -> None:
    (found,) = conditions_of(assign(["A1.png"], "well,concentration,unit\nA1,1,µg/mL\n".encode(encoding))).values()
    assert found.unit == "µg/mL"


def test_a_row_for_an_image_or_a_plate_takes_precedence() -> None:
    found = assign(
        ["p/A1_t1.png", "p/A1_t2.png", "q/A1_t1.png"],
        "image,plate,well,condition\n,,A1,any\n,q,A1,of q\np/A1_t2.png,,,of one\n",
    )
    assert [image.condition.name for image in found.images] == ["any", "of one", "of q"]
    assert not found.notes[1:]


def test_a_row_for_an_image_corrects_its_position() -> None:
    found = assign(
        ["odd name.png", "A1_day1.png", "A2_day1.png"],
        "image,well,time_h,condition\nodd name.png,b7,36.5,late\nA1_day1.png,,25,\n",
    )
    odd, corrected, left = (place for _, place in found.placed)
    assert (odd.well, odd.time_h) == (parse_well("B07"), 36.5)
    assert (corrected.well, corrected.time_h) == (parse_well("A01"), 25)
    assert left.time_h == 24
    assert not found.failed


def test_samples_have_conditions_too() -> None:
    found = assign(["1_day2_18D.tif", "1_day2_18S.tif"], "sample,condition\n1_18D,dense\n")
    assert [image.condition.label for image in found.images] == ["dense", ""]


def test_rows_without_an_image_are_listed() -> None:
    found = assign(["A1.png"], "image,well,condition\n,A1-A3,x\n,C1-D2,y\nnone.png,,z\n")
    assert found.notes == ("in the table of conditions, but not here: C01-D02 (line 3), none.png (line 4)",)


def test_the_csv_of_the_preview_can_be_corrected_and_read_back() -> None:
    names = ["A1_t1.png", "A2_t1.png", "what.png"]
    before = assign(names, 'well,drug,concentration,unit,note\nA1,x,0.1,µM,"two, or\nthree"\n')
    written = encode_preview(before)
    again = assign(names, written)
    assert again.images == before.images
    corrected = written.decode("utf-8-sig").replace("what.png,,,", "what.png,,C9,").encode()
    assert str(assign(names, corrected).images[2].position.well) == "C09"  # type: ignore[union-attr]


def test_all_bad_lines_are_reported_at_once() -> None:
    message = complaint(
        "well,concentration,time_h,image\n"
        "A1,1,,\nZZ9,1,,\nA2,5 µM,,\nB2-A1,,,\n,,,\n,3,,\nA4,-1,,\na1,2,,\nA5,1,,,9\n"
    )
    assert message.splitlines() == [
        "c.csv cannot be used:",
        "  line 3: there is no well ZZ9: the largest plate goes from A01 to AF48",
        "  line 4: concentration must be a number, not '5 µM'; write its unit into the column unit",
        "  line 5: 'B2-A1' goes backwards: name the upper left well first, then the lower right one",
        "  line 7: names no well, image or sample",
        "  line 8: the concentration is below 0",
        "  line 10: 5 cells, but the header has 4: quote a cell that contains ','",
        "  line 9: A01 is on line 2 already",
    ]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "does not say whose conditions"),
        ("drug,concentration\nx,1\n", "it has drug, concentration"),
        ("well,well\nA1,A2\n", "has the column well twice"),
        ("well,drug\n", "has no lines below its header"),
        (b"PK\x03\x04\0\0", "is not a CSV file"),
        ("image,site\nx.png,1.5\n", "line 2: site must be a whole number, not '1.5'"),
        ("image,well\nx.png,A1-A3\n", "line 2: an image has one well"),
        ("row,column\nA,x\n", "line 2: 'x' is not a column"),
        ("row,column\nA,0\n", "line 2: no such well"),
        ("well,concentration\nA1,nan\n", "line 2: concentration must be a number"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_reason(table: str | bytes, expected: str) -> None:
    assert expected in complaint(table)
