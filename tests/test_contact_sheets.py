import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spheroseg.export.contact_sheets import Tile, build_tiles, render_contact_sheets
from spheroseg.export.contact_svg import CAPTION_PX, GAP_PX, MARGIN_PX, TILE_WIDTH_PX, TITLE_PX
from tests.support.plate_rows import Rows, well_rows

ORANGE = (0, 94, 213)  # blue, green, red of the frame round a doubtful picture


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A blue picture, 4:3."""
    path = tmp_path / "µ overlay.png"
    cv2.imencode(".png", np.full((450, 600, 3), (200, 60, 20), np.uint8))[1].tofile(path)
    return path


def growth_rows(**more: Any) -> Rows:
    return [row | {"image": f"{row['well']}_{row['time_point']}.png"} for row in well_rows(**more)]


def opened(jpeg: bytes) -> Any:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def tile(page: Any, down: int, across: int) -> Any:
    top, left = TITLE_PX + down * (240 + CAPTION_PX), MARGIN_PX + across * (TILE_WIDTH_PX + GAP_PX)
    return page[top : top + 240, left : left + TILE_WIDTH_PX].astype(int)


def near(pixels: Any, colour: tuple[int, int, int]) -> Any:
    return np.abs(pixels - np.array(colour)).max(axis=-1) < 40


def test_a_plate_of_96_wells_has_a_sheet_of_moderate_size_for_each_row(overlay: Path) -> None:
    tiles = build_tiles(growth_rows(hours=range(0, 192, 24)), lambda _: overlay)
    few = [t for t in tiles if t.sheet in ("P1 row A", "P1 row H")]
    assert len({t.sheet for t in tiles}) == 8

    sheets = list(render_contact_sheets(few))

    assert [sheet.name for sheet in sheets] == ["P1_row_A", "P1_row_H"]
    for sheet in sheets:
        page = opened(sheet.jpeg)
        assert page.shape == (TITLE_PX + 12 * (240 + CAPTION_PX), MARGIN_PX + 8 * (TILE_WIDTH_PX + GAP_PX), 3)
        assert all(
            near(tile(page, down, across), (200, 60, 20)).mean() > 0.95 for down in range(12) for across in (0, 7)
        )


def test_the_same_tiles_give_the_same_bytes(overlay: Path) -> None:
    tiles = build_tiles(growth_rows(wells=6), lambda _: overlay)

    assert list(render_contact_sheets(tiles)) == list(render_contact_sheets(tiles))


def test_flags_are_framed_and_failed_and_missing_images_are_marked_tiles(overlay: Path) -> None:
    rows = growth_rows(wells=6, flagged=[("A01", 24.0)])
    rows = [row for row in rows if (row["well"], row["time_h"]) != ("A01", 72.0)]
    rows[2] |= {"qc_flags": "image_failed", "n_objects": None}

    tiles = build_tiles(rows, lambda _: overlay, reasons={"A01_2.png": "<broken> & short"})
    first = next(render_contact_sheets(tiles))

    assert tiles[2].reason == "<broken> & short"
    assert tiles[2].overlay is None
    assert [t.caption for t in tiles[:3]] == ["A01, 0 h, n = 1", "A01, 24 h, n = 1", "A01, 48 h"]
    page = opened(first.jpeg)
    plain, framed, failed, absent = (tile(page, 0, across) for across in range(4))
    assert near(framed, ORANGE)[:8].mean() > 0.3
    assert near(plain, ORANGE).sum() == 0
    assert not near(failed, (200, 60, 20)).any()
    assert near(failed, (216, 216, 216)).mean() > 0.8
    assert near(absent, (255, 255, 255)).mean() > 0.9


def test_an_image_of_several_objects_is_one_tile_with_the_flags_of_all(overlay: Path) -> None:
    row = growth_rows(wells=6)[0] | {"n_objects": 2}
    tiles = build_tiles([row | {"qc_flags": "a;b"}, row | {"qc_flags": "b;c"}], lambda _: overlay)

    assert [(t.n_objects, t.flags) for t in tiles] == [(2, ("a", "b", "c"))]


def test_an_overlay_that_cannot_be_read_is_an_empty_tile(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    found = {"A": tmp_path / "cut.png", "B": tmp_path / "gone.png"}
    tiles = build_tiles(growth_rows(wells=6, hours=(0,)), lambda row: found[row["row"]])

    sheets = [opened(sheet.jpeg) for sheet in render_contact_sheets(tiles)]
    assert all(near(tile(page, 0, 0), (216, 216, 216)).mean() > 0.7 for page in sheets)


def test_the_sheet_of_each_condition_has_a_unique_valid_file_name(overlay: Path) -> None:
    rates = {"5-FU 1 µM / DMSO": 0.0, "5-FU 1 µM : DMSO": 0.0, "../..": 0.0}
    tiles = build_tiles(growth_rows(wells=6, hours=(0,), rates=rates), lambda _: overlay, by="condition")

    names = [sheet.name for sheet in render_contact_sheets(tiles)]
    assert names == ["P1_5-FU_1_µM_DMSO", "P1_5-FU_1_µM_DMSO~2", "P1"]


def test_many_times_go_over_several_pages(overlay: Path) -> None:
    tiles = [Tile("P1 row A", "A01", "", float(hour), f"{hour} h", overlay) for hour in range(0, 90, 3)]

    pages = list(render_contact_sheets(tiles))

    assert [page.name for page in pages] == ["P1_row_A_1", "P1_row_A_2", "P1_row_A_3"]
    assert [(opened(page.jpeg).shape[1] - MARGIN_PX) // (TILE_WIDTH_PX + GAP_PX) for page in pages] == [12, 12, 6]


def test_a_page_has_at_most_16_megapixels_and_memory_for_one_page(overlay: Path) -> None:
    tiles = [
        Tile("all", f"A{well:02d}", "DMSO", float(hour), f"{hour} h", overlay)
        for well in range(1, 15)
        for hour in range(12)
    ]
    tracemalloc.start()
    pages = [opened_size(sheet.jpeg) for sheet in render_contact_sheets(tiles)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(pages) == 2
    assert max(pages) <= 16e6
    assert peak < 4 * 3 * 16e6


def opened_size(jpeg: bytes) -> int:
    height, width = opened(jpeg).shape[:2]
    return int(height * width)


def test_wells_imaged_at_minutes_of_their_own_have_their_tiles_in_order(overlay: Path) -> None:
    tiles = [
        Tile("A", f"A{well:02d}", "", hour * 24 + well / 10, f"{hour}", overlay)
        for well in range(1, 7)
        for hour in range(3)
    ]
    page = opened(next(render_contact_sheets(tiles)).jpeg)

    assert page.shape[1] == MARGIN_PX + 3 * (TILE_WIDTH_PX + GAP_PX)
