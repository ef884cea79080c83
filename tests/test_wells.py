"""Wells: all spellings of a well are the same well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spheroseg.errors import BadPlate
from spheroseg.plate.wells import PLATE_FORMATS, Well, parse_row, parse_well, parse_wells, row_name, smallest_plate

sizes = st.sampled_from(sorted(PLATE_FORMATS))


@st.composite
def wells(draw: st.DrawFn) -> tuple[int, Well]:
    size = draw(sizes)
    rows, columns = PLATE_FORMATS[size]
    return size, Well(draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1)))


@given(wells())
def test_a_well_is_read_back_from_its_name(drawn: tuple[int, Well]) -> None:
    size, well = drawn
    assert parse_well(well.name) == well
    assert well.is_on(size)
    assert smallest_plate([well]) <= size


@given(wells(), st.integers(1, 3), st.booleans())
def test_case_and_leading_zeros_do_not_matter(drawn: tuple[int, Well], digits: int, is_small: bool) -> None:
    _, well = drawn
    text = f"{row_name(well.row)}{well.column + 1:0{digits}d}"
    assert parse_well(text.lower() if is_small else text) == well
    assert parse_row(str(well.row + 1)) == parse_row(row_name(well.row)) == well.row


@given(sizes)
def test_no_two_wells_of_a_plate_share_a_name(size: int) -> None:
    rows, columns = PLATE_FORMATS[size]
    assert len({Well(row, column).name for row in range(rows) for column in range(columns)}) == size


@pytest.mark.parametrize(("text", "name"), [("A1", "A01"), ("a01", "A01"), ("A001", "A01"), (" aa7 ", "AA07")])
def test_spellings_of_a_well_are_the_same_well(text: str, name: str) -> None:
    assert parse_well(text).name == name


@pytest.mark.parametrize("text", ["", "A", "A0", "A49", "AG01", "1A", "A1B", "A-1", "B²", "Å1", "A٣"])
def test_a_text_that_is_not_a_well_is_refused(text: str) -> None:
    with pytest.raises(BadPlate, match="well"):
        parse_well(text)


@pytest.mark.parametrize("size", sorted(PLATE_FORMATS))
def test_the_last_well_determines_the_plate_format(size: int) -> None:
    rows, columns = PLATE_FORMATS[size]
    assert smallest_plate([Well(0, 0), Well(rows - 1, columns - 1)]) == size


def test_a_range_has_all_wells_of_its_rectangle() -> None:
    assert [str(well) for well in parse_wells("b2-C03")] == ["B02", "B03", "C02", "C03"]
    assert parse_wells("H12") == [Well(7, 11)]
    with pytest.raises(BadPlate, match="backwards"):
        parse_wells("B2-A3")
