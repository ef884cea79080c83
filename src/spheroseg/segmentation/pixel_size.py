"""How large a pixel is in the specimen, where the file itself says so."""

import html
import math
import re
from dataclasses import dataclass

# What one unit is in µm. ImageJ writes µ as the six characters \u00B5.
MICROMETRES = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "inch": 25_400.0,
    "inches": 25_400.0,
    "in": 25_400.0,
}

SQUARE_WITHIN = 0.01  # X and Y may differ by this fraction: rounding in the file, not another optic
COARSEST_INCH_UM = 20.0  # ImageJ turns the dpi of any print-ready picture into "inch": 1,200 dpi is paper


@dataclass(frozen=True)
class PixelSize:
    """Side of a square pixel in µm, and who said so: `option`, `OME-XML` or `ImageJ`."""

    um: float
    source: str


def from_ome(xml: str) -> PixelSize | None:
    """The `PhysicalSizeX/Y` of the first `Pixels` element; the unit is µm unless one is named (OME 2016-06)."""
    # A regular expression, not an XML parser: a stranger's file must not be able to expand entities in here.
    pixels = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", xml)
    if pixels is None:
        return None
    attributes = {name: html.unescape(value) for name, _, value in _ATTRIBUTE.findall(pixels.group(1))}
    sides = [
        _micrometres(attributes.get(f"PhysicalSize{axis}"), attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    ]
    return _square(sides[0], sides[1], "OME-XML")


def from_imagej(description: str, x_per_unit: float, y_per_unit: float) -> PixelSize | None:
    """ImageJ's TIFF dialect: `unit=` in the description, pixels per that unit in the resolution tags.

    Resolution tags without such a description are the dots per inch of a printer, so they are never used.
    """
    if not description.startswith("ImageJ="):
        return None
    lines = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
    unit = lines.get("unit", "")
    sides = [_micrometres(str(1 / n) if n > 0 else None, unit) for n in (x_per_unit, y_per_unit)]
    size = _square(sides[0], sides[1], "ImageJ")
    if size is not None and unit.strip().lower().startswith("in") and size.um > COARSEST_INCH_UM:
        return None
    return size


_ATTRIBUTE = re.compile(r"""([\w:]+)\s*=\s*(["'])(.*?)\2""", re.DOTALL)


def _micrometres(value: str | None, unit: str) -> float | None:
    scale = MICROMETRES.get(_plain(unit))
    if value is None or scale is None:
        return None
    try:
        um = float(value) * scale
    except ValueError:
        return None
    return um if math.isfinite(um) and um > 0 else None


def _plain(unit: str) -> str:
    unit = re.sub(r"\\u00b5", "µ", unit.strip(), flags=re.IGNORECASE)
    return unit.replace("\u03bc", "µ").replace("\ufffd", "µ").lower()  # Greek mu; a µ that was latin-1


def _square(x: float | None, y: float | None, source: str) -> PixelSize | None:
    # A pixel that is not square has no single size; reporting one would bend every length.
    if x is None or y is None or abs(x - y) > SQUARE_WITHIN * max(x, y):
        return None
    return PixelSize(float(f"{(x + y) / 2:.9g}"), source)  # a fraction in the file gives 0.65, not 0.6499999999999999
