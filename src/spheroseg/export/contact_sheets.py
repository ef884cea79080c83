"""Contact sheets for quality control: overlays of a plate row or a condition on a page, wells down, times across."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.export import contact_svg as ink
from spheroseg.export.contact_svg import CAPTION, GAP, MARGIN, TITLE, WIDTH

MOST_DOWN, MOST_ACROSS = 12, 12  # tiles of a page
MOST_PIXELS = 16_000_000
QUALITY = 88  # of the JPEG: outlines stay sharp, a page of 96 pictures takes 2 to 4 MB
FAILED = "image_failed"

Row = Mapping[str, Any]
Canvas = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tile:
    """One image in a sheet. `overlay` is its picture (PNG or JPEG); where there is none, `reason` says why."""

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
        count = "" if self.n_objects is None else f", n = {self.n_objects}"
        return f"{self.well}, {self.time_label}{count}"


@dataclass(frozen=True)
class Sheet:
    """`name` is fit for a file name, and different for each sheet."""

    name: str
    jpeg: bytes


def build_tiles(
    rows: Iterable[Row],
    overlay: Callable[[Row], Path | None],
    *,
    by: Literal["row", "condition"] = "row",
    reasons: Mapping[str, str] | None = None,
) -> list[Tile]:
    """A tile for each image of the growth rows (which have one row per object).

    overlay: the picture of the image of a row, or None. by: a sheet for each row of the plate, or for each condition.
    reasons: why an image failed, by its name. A sample that is in no well stands for one, and its plate for the row.
    """
    images: dict[tuple[Any, ...], Row] = {}
    flags: dict[tuple[Any, ...], dict[str, None]] = {}
    sites: dict[Any, set[Any]] = {}
    for row in rows:
        key = (row.get("image"), row.get("page"), row.get("channel"), row.get("z"))
        images.setdefault(key, row)
        sites.setdefault(_place(row), set()).add(row.get("site"))
        flags.setdefault(key, {}).update(dict.fromkeys(filter(None, str(row.get("qc_flags") or "").split(";"))))
    in_hours = all(row.get("time_h") is not None for row in images.values())
    found = []
    for key, row in images.items():
        time = row["time_h"] if in_hours else row.get("time_point")
        place, several = _place(row), len(sites[_place(row)]) > 1
        own = tuple(flags[key])
        found.append(
            Tile(
                sheet=_sheet(row, by),
                well=place[1] + (f" site {row.get('site')}" if several else ""),
                condition=str(row.get("condition") or ""),
                time=float(time) if time is not None else 0.0,
                time_label=f"{time:g} h" if in_hours and time is not None else f"time point {time}",
                overlay=None if FAILED in own else overlay(row),
                n_objects=None if FAILED in own else row.get("n_objects"),
                flags=tuple(flag for flag in own if flag != FAILED),
                reason=(reasons or {}).get(str(row.get("image")), "the image failed") if FAILED in own else "",
            )
        )
    return found


def render_contact_sheets(tiles: Iterable[Tile]) -> Iterator[Sheet]:
    """Pages of at most 12 wells and 12 times and 16 megapixels, in memory one at a time, and of it one overlay."""
    sheets: dict[str, list[Tile]] = {}
    for tile in tiles:
        sheets.setdefault(tile.sheet, []).append(tile)
    names: set[str] = set()
    for title, own in sheets.items():
        pages = list(_pages(own))
        for number, page in enumerate(pages, start=1):
            suffix = f"_{number}" if len(pages) > 1 else ""
            name = _unused(re.sub(r"[^\w.+-]+", "_", title).strip("_.")[:80] or "sheet", suffix, names)
            shown = f"{title}, page {number} of {len(pages)}" if len(pages) > 1 else title
            yield Sheet(name, _encode(_drawn(page, shown)))


Grid = list[tuple[str, list[Tile | None]]]


def _pages(tiles: Sequence[Tile]) -> Iterator[Grid]:
    wells: dict[str, list[Tile]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.time):
        wells.setdefault(tile.well, []).append(tile)
    times = sorted({tile.time for tile in tiles})
    longest = max(len(own) for own in wells.values())
    lines: Grid = []
    for well, own in sorted(wells.items()):
        # Wells photographed at minutes of their own stand in their order, as a column for each time would be empty.
        if len(times) > 2 * longest:
            lines.append((well, [*own, *[None] * (longest - len(own))]))
        else:
            at = {tile.time: tile for tile in own}
            lines.append((well, [at.get(time) for time in times]))
    height = _tile_height(tiles)
    across = min(MOST_ACROSS, max(len(line) for _, line in lines))
    wide = MARGIN + across * (WIDTH + GAP)
    down = max(1, min(MOST_DOWN, (MOST_PIXELS // wide - TITLE) // (height + CAPTION)))
    for top in range(0, len(lines), down):
        for left in range(0, max(len(line) for _, line in lines), across):
            yield [(well, line[left : left + across]) for well, line in lines[top : top + down]]


def _drawn(page: Grid, title: str) -> Canvas:
    tiles = [tile for _, line in page for tile in line if tile]
    height, across = _tile_height(tiles), max(len(line) for _, line in page)
    strip = height + CAPTION
    canvas: Canvas = np.full((TITLE + strip * len(page), MARGIN + across * (WIDTH + GAP), 3), 255, np.uint8)
    ink.write(canvas[:TITLE], ink.heading(title))
    for number, (well, line) in enumerate(page):
        band = canvas[TITLE + number * strip : TITLE + (number + 1) * strip]
        drawing = [ink.side(well, next((tile.condition for tile in line if tile), ""))]
        for place, tile in enumerate(line):
            left = MARGIN + place * (WIDTH + GAP)
            picture = _thumbnail(tile.overlay, height) if tile and tile.overlay else None
            if picture is not None:
                y, x = (height - picture.shape[0]) // 2, left + (WIDTH - picture.shape[1]) // 2
                band[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            elif tile is None:
                drawing.append(ink.blank(left, height))
            else:
                drawing.append(ink.empty(left, height, tile.reason or "no overlay"))
            if tile:
                drawing.append(ink.caption(left, height, tile.caption, tile.flags))
        ink.write(band, "".join(drawing))
    return canvas


def _thumbnail(path: Path, height: int) -> Canvas | None:
    """None where the file is missing or no picture."""
    try:
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    if picture is None:
        return None
    scale = min(WIDTH / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _tile_height(tiles: Sequence[Tile]) -> int:
    """That of the first picture that can be read, between a panorama and a square."""
    for tile in tiles:
        if tile.overlay and (picture := _thumbnail(tile.overlay, 10_000)) is not None:
            return min(WIDTH, max(WIDTH // 2, int(picture.shape[0])))
    return WIDTH * 3 // 4


def _encode(canvas: Canvas) -> bytes:
    done, jpeg = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done, "a canvas of 8-bit colour can always be written as JPEG"
    return jpeg.tobytes()


def _place(row: Row) -> tuple[str, str]:
    return str(row.get("plate") or ""), str(row.get("well") or row.get("sample") or "no well")


def _sheet(row: Row, by: Literal["row", "condition"]) -> str:
    plate, letter = str(row.get("plate") or ""), str(row.get("row") or "")
    if by == "condition":
        return " ".join(filter(None, (plate, str(row.get("condition") or "no condition"))))
    return " ".join(filter(None, (plate, f"row {letter}" if letter else ""))) or "images"


def _unused(name: str, suffix: str, names: set[str]) -> str:
    """Case counts for nothing, as on most disks."""
    found, number = name + suffix, 2
    while found.casefold() in names:
        found, number = f"{name}~{number}{suffix}", number + 1
    names.add(found.casefold())
    return found
