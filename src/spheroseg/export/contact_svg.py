"""What is written and drawn on a contact sheet, as SVG: so the letters are those of the charts, µ among them."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import cv2
import numpy as np
import numpy.typing as npt
import vl_convert

from spheroseg.export.charts.style import FONT, GREY, INK, MARKED, lines

# px of a sheet: a tile is wide, apart from the next, has below it for its caption, at its left and above all tiles.
WIDTH, GAP, CAPTION, MARGIN, TITLE = 320, 8, 56, 170, 84

Canvas = npt.NDArray[np.uint8]


def write(canvas: Canvas, drawing: str) -> None:
    """Draws over `canvas` (blue, green, red) in place."""
    height, width = canvas.shape[:2]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="{FONT}">'
        '<defs><pattern id="hatch" width="14" height="14" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="14" height="14" fill="#ececec"/>'
        f'<rect width="5" height="14" fill="#d8d8d8"/></pattern></defs>{drawing}</svg>'
    )
    png = np.frombuffer(vl_convert.svg_to_png(svg, scale=1.0), np.uint8)
    drawn = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert drawn is not None, "what was just encoded can be decoded"
    alpha = drawn[..., 3:].astype(np.uint16)
    canvas[:] = (drawn[..., :3] * alpha + canvas * (255 - alpha) + 127) // 255


def heading(title: str) -> str:
    hint = "Orange frame: a quality flag. Hatched: no result."
    return _text(16, 36, title[:120], 26, INK, bold=True) + _text(16, 64, hint, 17, GREY)


def side(well: str, condition: str) -> str:
    """The well and its condition at the left of its tiles."""
    parts = lines(condition, 18, 5) if condition else []
    below = "".join(_text(16, 54 + 20 * number, part, 16, GREY) for number, part in enumerate(parts))
    return _text(16, 28, well, 22, INK, bold=True) + below


def caption(left: int, height: int, text: str, flags: Sequence[str]) -> str:
    if not flags:
        return _text(left, height + 21, text, 18, INK)
    frame = f'<rect x="{left + 2}" y="2" width="{WIDTH - 4}" height="{height - 4}" fill="none" stroke="{MARKED}" '
    said = ", ".join(flags)
    said = said if len(said) <= 36 else f"{said[:35]}…"
    return (
        f'{frame}stroke-width="4"/>'
        + _text(left, height + 21, text, 18, INK)
        + _text(left, height + 42, said, 16, MARKED, bold=True)
    )


def empty(left: int, height: int, reason: str) -> str:
    """Of an image without a result: why."""
    parts = lines(reason, 32, 6)
    top = height / 2 - 11 * (len(parts) - 1) + 5
    said = "".join(
        _text(left + WIDTH / 2, top + 22 * number, part, 17, INK, middle=True) for number, part in enumerate(parts)
    )
    return f'<rect x="{left}" y="0" width="{WIDTH}" height="{height}" fill="url(#hatch)"/>{said}'


def blank(left: int, height: int) -> str:
    """Where the well has no image at a time that others have."""
    frame = f'<rect x="{left + 1}" y="1" width="{WIDTH - 2}" height="{height - 2}" fill="none" stroke="#c4c4c4" '
    return f'{frame}stroke-dasharray="6 5"/>' + _text(
        left + WIDTH / 2, height / 2 + 5, "no image", 17, GREY, middle=True
    )


def _text(x: float, y: float, text: str, size: int, colour: str, *, bold: bool = False, middle: bool = False) -> str:
    more = (' font-weight="bold"' if bold else "") + (' text-anchor="middle"' if middle else "")
    # Characters that XML cannot have at all would make the whole sheet unreadable.
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{more}>{escape(clean)}</text>'
