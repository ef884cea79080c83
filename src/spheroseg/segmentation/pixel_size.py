"""Reads the pixel size that a file states, and decides between it and the one that the user gave."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONTRADICTION = "pixel_size_contradiction"
NOT_SQUARE = "pixel_size_not_square"

# The length of each unit in µm. ImageJ writes µ as the six characters \u00B5, see `_normalise_unit`.
MICROMETRES = {
    **dict.fromkeys(("å", "angstrom", "angstroms", "ångström"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-3),
    **dict.fromkeys(("µm", "um", "mum", "micron", "microns"), 1.0),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 1e4),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e6),
    **dict.fromkeys(("inch", "inches", "in"), 25_400.0),
}

MAX_XY_DIFFERENCE = 0.01  # as a fraction; X and Y that differ by less are equal up to rounding
MAX_SOURCE_DIFFERENCE = 0.01  # as a fraction; sources that differ by less agree
# Ignore a pixel size in inches above this. ImageJ takes the dpi of a printer for a pixel size, and even 1,200 dpi, a
# high resolution for paper, gives 21 µm.
MAX_INCH_PIXEL_UM = 20.0


@dataclass(frozen=True)
class PixelSize:
    """The side of a square pixel, µm, and its source: `option`, `OME-XML` or `ImageJ`.

    `contradicted_by`: sizes from other sources that differ by more than 1 %.
    """

    um: float
    source: str
    contradicted_by: tuple["PixelSize", ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return the size as it is stored with a result. `contradicted_by` is included only if it is not empty."""
        others = [{"um": other.um, "source": other.source} for other in self.contradicted_by]
        return {"um": self.um, "source": self.source, **({"contradicted_by": others} if others else {})}


@dataclass(frozen=True)
class NotSquare:
    """The sides, µm, of a pixel that is not square, and their source."""

    x_um: float
    y_um: float
    source: str


StatedSize = PixelSize | NotSquare


def resolve_pixel_size(
    explicit_um: float | None, stated: Sequence[StatedSize]
) -> tuple[PixelSize | None, tuple[str, ...]]:
    """Return the pixel size that applies (None if it is not known), and the flags of the image.

    `explicit_um` (µm) takes precedence over the sizes `stated` in the file, of which the first one applies. The flags
    are `pixel_size_contradiction`, and `pixel_size_not_square` if the file states such a size, used or not.
    """
    flags = [NOT_SQUARE] if any(isinstance(one, NotSquare) for one in stated) else []
    first = stated[0] if explicit_um is None and stated else None
    size = first if isinstance(first, PixelSize) else None
    if explicit_um is not None:
        size = PixelSize(explicit_um, "option")
    if size is None:
        # If the first source states pixels that are not square, a later source is not used: it is less reliable.
        return None, tuple(flags)
    others = tuple(
        one
        for one in stated
        if isinstance(one, PixelSize) and abs(one.um - size.um) > MAX_SOURCE_DIFFERENCE * max(one.um, size.um)
    )
    if others:
        flags.append(CONTRADICTION)
    return PixelSize(size.um, size.source, others), tuple(flags)


def from_ome(attributes: Mapping[str, str]) -> StatedSize | None:
    """Read `PhysicalSizeX/Y` of a `Pixels` element. The default unit is µm (OME schema 2016-06)."""
    sides = [
        _to_micrometres(attributes.get(f"PhysicalSize{axis}"), attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    ]
    return _make_size(sides[0], sides[1], "OME-XML")


def from_imagej(description: str, x_per_unit: float, y_per_unit: float) -> StatedSize | None:
    """Read the pixel size of ImageJ: `unit=` in the description, and pixels per unit in the resolution tags.

    Without such a description, the resolution tags are the dots per inch of a printer, so they are not used.
    """
    if not description.startswith("ImageJ="):
        return None
    lines = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
    units = lines.get("unit", ""), lines.get("yunit", lines.get("unit", ""))
    sides = [
        _to_micrometres(str(1 / n) if n > 0 else None, unit)
        for n, unit in zip((x_per_unit, y_per_unit), units, strict=True)
    ]
    size = _make_size(sides[0], sides[1], "ImageJ")
    if size is None or not units[0].strip().lower().startswith("in"):
        return size
    longer_side = size.um if isinstance(size, PixelSize) else max(size.x_um, size.y_um)
    return None if longer_side > MAX_INCH_PIXEL_UM else size


def _to_micrometres(value: str | None, unit: str) -> float | None:
    scale = MICROMETRES.get(_normalise_unit(unit))
    if value is None or scale is None:
        return None
    try:
        um = float(value) * scale
    except ValueError:
        return None
    return um if math.isfinite(um) and um > 0 else None


def _normalise_unit(unit: str) -> str:
    unit = re.sub(r"\\u00(b5|c5)", lambda match: chr(int(match[1], 16)), unit.strip(), flags=re.IGNORECASE)
    # Replace: µ and the Greek mu in UTF-8 that was decoded as latin-1; the Ångström sign; the Greek mu. Last, the
    # replacement character: a µ in latin-1 that was decoded as UTF-8.
    for wrong, right in (("\u00c2\u00b5", "µ"), ("\u00ce\u00bc", "µ"), ("\u212b", "Å"), ("\u03bc", "µ")):
        unit = unit.replace(wrong, right)
    return unit.replace("\ufffd", "µ").lower().rstrip(".")


def _make_size(x: float | None, y: float | None, source: str) -> StatedSize | None:
    # A pixel that is not square has no single size: with any one, lengths would be wrong.
    if x is None or y is None:
        return None
    if abs(x - y) > MAX_XY_DIFFERENCE * max(x, y):
        return NotSquare(_round(x), _round(y), source)
    return PixelSize(_round((x + y) / 2), source)


def _round(um: float) -> float:
    return float(f"{um:.9g}")  # a fraction in the file gives 0.65, not 0.6499999999999999
