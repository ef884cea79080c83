"""How large a pixel is in the specimen: by whom, and whether they agree."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONTRADICTION = "pixel_size_contradiction"
NOT_SQUARE = "pixel_size_not_square"

# What one unit is in µm. ImageJ writes µ as the six characters \u00B5.
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

SQUARE_WITHIN = 0.01  # X and Y may differ by this fraction: rounding in the file, not another optic
AGREE_WITHIN = 0.01  # and so may two that say how large a pixel is
COARSEST_INCH_UM = 20.0  # ImageJ turns the dpi of any print-ready picture into "inch": 1,200 dpi is paper


@dataclass(frozen=True)
class PixelSize:
    """Side of a square pixel in µm, and who said so: `option`, `OME-XML` or `ImageJ`.

    `contradicted_by`: others that said something more than 1 % apart.
    """

    um: float
    source: str
    contradicted_by: tuple["PixelSize", ...] = ()

    def record(self) -> dict[str, Any]:
        """As results keep it; `contradicted_by` is there only where there is a contradiction."""
        others = [{"um": other.um, "source": other.source} for other in self.contradicted_by]
        return {"um": self.um, "source": self.source, **({"contradicted_by": others} if others else {})}


@dataclass(frozen=True)
class NotSquare:
    """Sides in µm of a pixel that has no single size."""

    x_um: float
    y_um: float
    source: str


StatedSize = PixelSize | NotSquare


def resolve_pixel_size(
    explicit_um: float | None, said: Sequence[StatedSize]
) -> tuple[PixelSize | None, tuple[str, ...]]:
    """The pixel size that holds, and the flags of an image that has it.

    explicit_um: µm, wins over all that is `said` in the file, of which the first wins over the others. Flags:
    `pixel_size_contradiction`, and `pixel_size_not_square` where the file says so, whatever size holds.
    """
    flags = [NOT_SQUARE] if any(isinstance(one, NotSquare) for one in said) else []
    first = said[0] if explicit_um is None and said else None
    size = first if isinstance(first, PixelSize) else None
    if explicit_um is not None:
        size = PixelSize(explicit_um, "option")
    if size is None:
        # Where the first has no single size, what another says is no better.
        return None, tuple(flags)
    others = tuple(
        one
        for one in said
        if isinstance(one, PixelSize) and abs(one.um - size.um) > AGREE_WITHIN * max(one.um, size.um)
    )
    if others:
        flags.append(CONTRADICTION)
    return PixelSize(size.um, size.source, others), tuple(flags)


def from_ome(attributes: Mapping[str, str]) -> StatedSize | None:
    """`PhysicalSizeX/Y` of a `Pixels` element; the unit is µm unless one is named (OME 2016-06)."""
    sides = [
        _micrometres(attributes.get(f"PhysicalSize{axis}"), attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    ]
    return _square(sides[0], sides[1], "OME-XML")


def from_imagej(description: str, x_per_unit: float, y_per_unit: float) -> StatedSize | None:
    """ImageJ's TIFF dialect: `unit=` in the description, pixels per that unit in the resolution tags.

    Resolution tags without such a description are the dots per inch of a printer, so they are never used.
    """
    if not description.startswith("ImageJ="):
        return None
    lines = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
    units = lines.get("unit", ""), lines.get("yunit", lines.get("unit", ""))
    sides = [
        _micrometres(str(1 / n) if n > 0 else None, unit)
        for n, unit in zip((x_per_unit, y_per_unit), units, strict=True)
    ]
    size = _square(sides[0], sides[1], "ImageJ")
    if size is None or not units[0].strip().lower().startswith("in"):
        return size
    coarsest = size.um if isinstance(size, PixelSize) else max(size.x_um, size.y_um)
    return None if coarsest > COARSEST_INCH_UM else size


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
    unit = re.sub(r"\\u00(b5|c5)", lambda found: chr(int(found[1], 16)), unit.strip(), flags=re.IGNORECASE)
    # UTF-8 that was read as latin-1; the Ångström sign; a Greek mu; a µ that was latin-1.
    for wrong, right in (("\u00c2\u00b5", "µ"), ("\u00ce\u00bc", "µ"), ("\u212b", "Å"), ("\u03bc", "µ")):
        unit = unit.replace(wrong, right)
    return unit.replace("\ufffd", "µ").lower().rstrip(".")


def _square(x: float | None, y: float | None, source: str) -> StatedSize | None:
    # A pixel that is not square has no single size; reporting one would bend every length.
    if x is None or y is None:
        return None
    if abs(x - y) > SQUARE_WITHIN * max(x, y):
        return NotSquare(_neat(x), _neat(y), source)
    return PixelSize(_neat((x + y) / 2), source)


def _neat(um: float) -> float:
    return float(f"{um:.9g}")  # a fraction in the file gives 0.65, not 0.6499999999999999
