"""Objects that are too small to be a spheroid of the plate."""

from spheroseg.export.growth_tables import GrowthTables, build_growth_tables
from spheroseg.plate.debris import DEBRIS, MIN_AREA_SHARE
from spheroseg.plate.options import GrowthOptions, WellValue

from .support.plate_images import plate_image

USUAL = 10_000.0


def tables(*, well_value: WellValue = WellValue.LARGEST, um: float | None = 1.0) -> GrowthTables:
    """Return the tables of two wells of spheroids, one with a cell beside it, and of a well of cells alone."""
    images = [
        plate_image("A01", 0, USUAL, MIN_AREA_SHARE * USUAL * 0.9, um=um),
        plate_image("A01", 24, 1.5 * USUAL, um=um),
        plate_image("A02", 0, USUAL, um=um),
        plate_image("A02", 24, 1.5 * USUAL, um=um),
        plate_image("A03", 0, 60.0, 80.0, um=um),
        plate_image("A03", 24, 70.0, um=um),
    ]
    return build_growth_tables(images, GrowthOptions(well_value=well_value))


def test_cells_beside_a_spheroid_are_in_the_table_but_do_not_count_for_the_well() -> None:
    made = tables(well_value=WellValue.SUM)
    first = [row for row in made.growth if row["well"] == "A01" and row["time_h"] == 0]
    assert [row["area_um2"] for row in first] == [USUAL, MIN_AREA_SHARE * USUAL * 0.9]
    assert [DEBRIS in row["qc_flags"] for row in first] == [False, True]
    well = next(row for row in made.wells if row["well"] == "A01" and row["time_h"] == 0)
    assert (well["area_um2"], well["qc_flags"]) == (USUAL, "several_objects")


def test_a_well_of_cells_alone_has_no_value_and_a_flag() -> None:
    for um in (1.0, 0.5, None):
        of_well = [row for row in tables(um=um).wells if row["well"] == "A03"]
        assert len(of_well) == 2
        for row in of_well:
            assert (row["area_um2"], row["area_px2"], row["rel_volume"]) == (None, None, None)
            assert DEBRIS in row["qc_flags"].split(";")


def test_a_spheroid_that_a_drug_has_shrunk_is_not_debris() -> None:
    images = [plate_image("A01", hours, USUAL) for hours in (0, 24, 48)]
    images += [plate_image("A02", hours, area) for hours, area in ((0, USUAL), (24, 0.2 * USUAL), (48, 0.04 * USUAL))]
    made = build_growth_tables(images, GrowthOptions())
    assert all(DEBRIS not in row["qc_flags"] for row in made.growth)


def test_images_without_a_position_are_not_compared() -> None:
    images = [plate_image("", None, USUAL, sample="", time_point=None), plate_image("", None, 60.0)]
    assert all(DEBRIS not in row["qc_flags"] for row in build_growth_tables(images, GrowthOptions()).growth)
