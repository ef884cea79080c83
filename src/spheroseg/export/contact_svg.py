"""Texts and frames of a contact sheet as SVG, in the same font as the charts, which has the letter µ."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import cv2
import numpy as np
import numpy.typing as npt
import vl_convert

from spheroseg.export.charts.style import FONT, GREY, INK, MARKED, wrap_text

TILE_WIDTH_PX = 320
GAP_PX = 8  # between two tiles
CAPTION_PX = 56  # below each tile
MARGIN_PX = 170  # at the left of the tiles, for the name of the well
TITLE_PX = 84  # above all tiles

Canvas = npt.NDArray[np.uint8]


def draw_svg(canvas: Canvas, drawing: str) -> None:
    """Draw SVG elements over `canvas` (height, width, 3: blue, green, red), in place."""
    height, width = canvas.shape[:2]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="{FONT}">'
        '<defs><pattern id="hatch" width="14" height="14" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="14" height="14" fill="#ececec"/>'
        f'<rect width="5" height="14" fill="#d8d8d8"/></pattern></defs>{drawing}</svg>'
    )
    png = np.frombuffer(vl_convert.svg_to_png(svg, scale=1.0), np.uint8)
    layer = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert layer is not None, "what was just encoded can be decoded"
    alpha = layer[..., 3:].astype(np.uint16)
    canvas[:] = (layer[..., :3] * alpha + canvas * (255 - alpha) + 127) // 255


def format_heading(title: str) -> str:
    """Return the title of a sheet, and the meaning of its marks."""
    hint = "Orange frame: a quality flag. Hatched: no result."
    return _text(16, 36, title[:120], 26, INK, bold=True) + _text(16, 64, hint, 17, GREY)


def format_row_label(well: str, condition: str) -> str:
    """Return the well and its condition, for the left of its tiles."""
    parts = wrap_text(condition, 18, 5) if condition else []
    below = "".join(_text(16, 54 + 20 * number, part, 16, GREY) for number, part in enumerate(parts))
    return _text(16, 28, well, 22, INK, bold=True) + below


def format_caption(left: int, height: int, text: str, flags: Sequence[str]) -> str:
    """Return the text below a tile of `height` px at `left`. If it has flags, they and a frame are added."""
    if not flags:
        return _text(left, height + 21, text, 18, INK)
    frame = (
        f'<rect x="{left + 2}" y="2" width="{TILE_WIDTH_PX - 4}" height="{height - 4}" fill="none" stroke="{MARKED}" '
    )
    listed = ", ".join(flags)
    listed = listed if len(listed) <= 36 else f"{listed[:35]}…"
    return (
        f'{frame}stroke-width="4"/>'
        + _text(left, height + 21, text, 18, INK)
        + _text(left, height + 42, listed, 16, MARKED, bold=True)
    )


def format_failed_tile(left: int, height: int, reason: str) -> str:
    """Return a hatched tile with the reason why the image has no result."""
    parts = wrap_text(reason, 32, 6)
    top = height / 2 - 11 * (len(parts) - 1) + 5
    text = "".join(
        _text(left + TILE_WIDTH_PX / 2, top + 22 * number, part, 17, INK, middle=True)
        for number, part in enumerate(parts)
    )
    return f'<rect x="{left}" y="0" width="{TILE_WIDTH_PX}" height="{height}" fill="url(#hatch)"/>{text}'


def format_missing_tile(left: int, height: int) -> str:
    """Return a dashed frame, for a well without an image at a time that other wells have."""
    frame = (
        f'<rect x="{left + 1}" y="1" width="{TILE_WIDTH_PX - 2}" height="{height - 2}" fill="none" stroke="#c4c4c4" '
    )
    return f'{frame}stroke-dasharray="6 5"/>' + _text(
        left + TILE_WIDTH_PX / 2, height / 2 + 5, "no image", 17, GREY, middle=True
    )


def _text(x: float, y: float, text: str, size: int, colour: str, *, bold: bool = False, middle: bool = False) -> str:
    more = (' font-weight="bold"' if bold else "") + (' text-anchor="middle"' if middle else "")
    # XML forbids some control characters: one of them would make the whole sheet unreadable.
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{more}>{escape(clean)}</text>'
