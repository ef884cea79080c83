"""Objects that are far too small to be what grows in the wells of a plate."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

DEBRIS = "debris"
# Of the usual area on the plate: about a sixth of the diameter, a two hundredth of the volume. A spheroid that a
# drug has shrunk is larger, a cell beside one is smaller.
PART = 0.03

Row = dict[str, Any]


def is_of_curve(row: Mapping[str, Any]) -> bool:
    """Whether the image of a growth row has a place in a plate."""
    return any(row[name] not in (None, "") for name in ("well", "sample", "time_h", "time_point"))


def is_debris(row: Mapping[str, Any]) -> bool:
    return DEBRIS in row["qc_flags"].split(";")


def with_debris(rows: Sequence[Row]) -> list[Row]:
    """The growth rows, with the flag `debris` for objects below `PART` of the median of the largest of each image.

    The median is that of one plate, at all times. Areas in µm² are held against each other where they are known, and
    else those in px². Images without a place are left as they are.
    """
    limits = {plate: _limits(of_plate) for plate, of_plate in _by_plate(filter(is_of_curve, rows)).items()}
    return [
        {**row, "qc_flags": ";".join(filter(None, [row["qc_flags"], DEBRIS]))}
        if is_of_curve(row) and _is_below(row, limits[row["plate"] or ""])
        else dict(row)
        for row in rows
    ]


def _by_plate(rows: Iterable[Row]) -> dict[str, list[Row]]:
    plates: dict[str, list[Row]] = {}
    for row in rows:
        plates.setdefault(row["plate"] or "", []).append(row)
    return plates


def _limits(rows: Iterable[Row]) -> dict[str, float]:
    largest: dict[str, dict[tuple[str, int], float]] = {"area_um2": {}, "area_px2": {}}
    for row in rows:
        image = (row["image"], row["page"])
        for unit, areas in largest.items():
            if row[unit] is not None:
                areas[image] = max(row[unit], areas.get(image, 0.0))
    return {unit: PART * median(areas.values()) for unit, areas in largest.items() if areas}


def _is_below(row: Row, limits: Mapping[str, float]) -> bool:
    unit = "area_px2" if row["area_um2"] is None else "area_um2"
    return row[unit] is not None and bool(row[unit] < limits[unit])
