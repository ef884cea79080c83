"""Contact sheets for quality control: the overlays of a plate row or a condition, one row per well through time."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from spheroseg.export.contact_svg import (
    CAPTION_PX,
    GAP_PX,
    MARGIN_PX,
    TILE_WIDTH_PX,
    TITLE_PX,
    Canvas,
    draw_svg,
    format_caption,
    format_failed_tile,
    format_heading,
    format_missing_tile,
    format_row_label,
)
from spheroseg.export.growth_tables import IMAGE_FAILED
from spheroseg.plate.flags import split_flags
from spheroseg.plate.rows import GrowthRow

MAX_ROWS, MAX_COLUMNS = 12, 12  # of tiles on a page
MAX_PIXELS = 16_000_000
JPEG_QUALITY = 88  # outlines stay sharp, and a page of 96 images takes 2 to 4 MB


@dataclass(frozen=True)
class Tile:
    """One image on the sheet of that title.

    time: hours or the number of the time point, for the order. overlay: the file of its overlay (PNG or JPEG). If it
    has none, `reason` tells why.
    """

    sheet: str
    well: str
    condition: str
    time: float
    time_label: str
    overlay: Path | None
    n_objects: int | None = None
    flags: tuple[str, ...] = ()
    reason: str = ""

    @property
    def caption(self) -> str:
        """Well, time and number of objects."""
        count = "" if self.n_objects is None else f", n = {self.n_objects}"
        return f"{self.well}, {self.time_label}{count}"


@dataclass(frozen=True)
class ContactSheet:
    """One page. `name` is a valid file name, different for each page. `jpeg` is the encoded image."""

    name: str
    jpeg: bytes


def build_tiles(
    rows: Iterable[GrowthRow],
    overlay: Callable[[GrowthRow], Path | None],
    *,
    by: Literal["row", "condition"] = "row",
    reasons: Mapping[str, str] | None = None,
) -> list[Tile]:
    """Return one tile per image of the growth rows, which have one row per object.

    overlay: returns the file of the overlay of a row's image, or None. by: whether a sheet shows a row of the plate
    or a condition. reasons: why images failed, by the name of the image. A sample without a well counts as a well,
    and its plate as the row of the plate.
    """
    images: dict[tuple[Any, ...], GrowthRow] = {}
    flags: dict[tuple[Any, ...], dict[str, None]] = {}
    sites: dict[Any, set[Any]] = {}
    for row in rows:
        key = (row.get("image"), row.get("page"), row.get("channel"), row.get("z"))
        images.setdefault(key, row)
        sites.setdefault(_plate_and_well(row), set()).add(row.get("site"))
        flags.setdefault(key, {}).update(dict.fromkeys(split_flags(row.get("qc_flags"))))
    in_hours = all(row.get("time_h") is not None for row in images.values())
    tiles = []
    for key, row in images.items():
        time = row["time_h"] if in_hours else row.get("time_point")
        _, well = _plate_and_well(row)
        has_several_sites = len(sites[_plate_and_well(row)]) > 1
        failed = IMAGE_FAILED in flags[key]
        tiles.append(
            Tile(
                sheet=_sheet_title(row, by),
                well=well + (f" site {row.get('site')}" if has_several_sites else ""),
                condition=str(row.get("condition") or ""),
                time=float(time) if time is not None else 0.0,
                time_label=f"{time:g} h" if in_hours and time is not None else f"time point {time}",
                overlay=None if failed else overlay(row),
                n_objects=None if failed else row.get("n_objects"),
                flags=tuple(flag for flag in flags[key] if flag != IMAGE_FAILED),
                reason=(reasons or {}).get(str(row.get("image")), "the image failed") if failed else "",
            )
        )
    return tiles


def render_contact_sheets(tiles: Iterable[Tile]) -> Iterator[ContactSheet]:
    """Yield the pages of all sheets. A page has at most 12 wells, 12 times and 16 megapixels.

    Only one page and one overlay are in memory at a time.
    """
    sheets: dict[str, list[Tile]] = {}
    for tile in tiles:
        sheets.setdefault(tile.sheet, []).append(tile)
    names: set[str] = set()
    for title, own in sheets.items():
        pages = list(_split_into_pages(own))
        for number, page in enumerate(pages, start=1):
            suffix = f"_{number}" if len(pages) > 1 else ""
            name = _unused_name(re.sub(r"[^\w.+-]+", "_", title).strip("_.")[:80] or "sheet", suffix, names)
            heading = f"{title}, page {number} of {len(pages)}" if len(pages) > 1 else title
            yield ContactSheet(name, _encode(_draw(page, heading)))


# The rows of a page: the name of each well and its tiles, with None for a missing image.
Grid = list[tuple[str, list[Tile | None]]]


def _split_into_pages(tiles: Sequence[Tile]) -> Iterator[Grid]:
    wells: dict[str, list[Tile]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.time):
        wells.setdefault(tile.well, []).append(tile)
    times = sorted({tile.time for tile in tiles})
    longest = max(len(own) for own in wells.values())
    lines: Grid = []
    for well, own in sorted(wells.items()):
        # If each well was imaged at minutes of its own, a column per time would be nearly empty. The tiles of a well
        # are then only in order.
        if len(times) > 2 * longest:
            lines.append((well, [*own, *[None] * (longest - len(own))]))
        else:
            at = {tile.time: tile for tile in own}
            lines.append((well, [at.get(time) for time in times]))
    height = _tile_height(tiles)
    across = min(MAX_COLUMNS, max(len(line) for _, line in lines))
    wide = MARGIN_PX + across * (TILE_WIDTH_PX + GAP_PX)
    down = max(1, min(MAX_ROWS, (MAX_PIXELS // wide - TITLE_PX) // (height + CAPTION_PX)))
    for top in range(0, len(lines), down):
        for left in range(0, max(len(line) for _, line in lines), across):
            yield [(well, line[left : left + across]) for well, line in lines[top : top + down]]


def _draw(page: Grid, title: str) -> Canvas:
    tiles = [tile for _, line in page for tile in line if tile]
    height, across = _tile_height(tiles), max(len(line) for _, line in page)
    strip = height + CAPTION_PX
    canvas: Canvas = np.full(
        (TITLE_PX + strip * len(page), MARGIN_PX + across * (TILE_WIDTH_PX + GAP_PX), 3), 255, np.uint8
    )
    draw_svg(canvas[:TITLE_PX], format_heading(title))
    for number, (well, line) in enumerate(page):
        band = canvas[TITLE_PX + number * strip : TITLE_PX + (number + 1) * strip]
        drawing = [format_row_label(well, next((tile.condition for tile in line if tile), ""))]
        for column, tile in enumerate(line):
            left = MARGIN_PX + column * (TILE_WIDTH_PX + GAP_PX)
            picture = _read_thumbnail(tile.overlay, height) if tile and tile.overlay else None
            if picture is not None:
                y, x = (height - picture.shape[0]) // 2, left + (TILE_WIDTH_PX - picture.shape[1]) // 2
                band[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            elif tile is None:
                drawing.append(format_missing_tile(left, height))
            else:
                drawing.append(format_failed_tile(left, height, tile.reason or "no overlay"))
            if tile:
                drawing.append(format_caption(left, height, tile.caption, tile.flags))
        draw_svg(band, "".join(drawing))
    return canvas


def _read_thumbnail(path: Path, height: int) -> Canvas | None:
    """Return the picture, scaled to fit a tile of `height` px, or None if the file is missing or not a picture."""
    try:
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    if picture is None:
        return None
    scale = min(TILE_WIDTH_PX / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


def _tile_height(tiles: Sequence[Tile]) -> int:
    """Return the height in px of the first picture that can be read, limited to between a half and one width."""
    for tile in tiles:
        if tile.overlay and (picture := _read_thumbnail(tile.overlay, 10_000)) is not None:
            return min(TILE_WIDTH_PX, max(TILE_WIDTH_PX // 2, int(picture.shape[0])))
    return TILE_WIDTH_PX * 3 // 4


def _encode(canvas: Canvas) -> bytes:
    done, jpeg = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "a canvas of 8-bit colour can always be written as JPEG"
    return jpeg.tobytes()


def _plate_and_well(row: GrowthRow) -> tuple[str, str]:
    return str(row.get("plate") or ""), str(row.get("well") or row.get("sample") or "no well")


def _sheet_title(row: GrowthRow, by: Literal["row", "condition"]) -> str:
    plate, letter = str(row.get("plate") or ""), str(row.get("row") or "")
    if by == "condition":
        return " ".join(filter(None, (plate, str(row.get("condition") or "no condition"))))
    return " ".join(filter(None, (plate, f"row {letter}" if letter else ""))) or "images"


def _unused_name(name: str, suffix: str, names: set[str]) -> str:
    """Return a name that is not in `names`, and add it. Case does not count, as in many file systems."""
    found, number = name + suffix, 2
    while found.casefold() in names:
        found, number = f"{name}~{number}{suffix}", number + 1
    names.add(found.casefold())
    return found
