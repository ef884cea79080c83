"""Flags objects that are far too small to be a spheroid of the plate."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from spheroseg.plate.flags import join_flags, split_flags
from spheroseg.plate.rows import GrowthRow

DEBRIS = "debris"
# As a share of the usual area on the plate. It is about 1/6 of the diameter and 1/200 of the volume. A spheroid that
# a drug has shrunk is larger; a single cell beside a spheroid is smaller.
MIN_AREA_SHARE = 0.03


def has_plate_position(row: GrowthRow) -> bool:
    """Return whether the image of the row belongs to a growth curve: it has a well, a sample or a time."""
    return any(row[name] not in (None, "") for name in ("well", "sample", "time_h", "time_point"))


def is_debris(row: GrowthRow) -> bool:
    """Return whether `flag_debris` has flagged the object of the row."""
    return DEBRIS in split_flags(row["qc_flags"])


def flag_debris(rows: Sequence[GrowthRow]) -> list[GrowthRow]:
    """Return copies of the rows, with the flag `debris` on objects smaller than `MIN_AREA_SHARE` of the usual area.

    The usual area of a plate is the median, over its images of all times, of the largest object of each image. Areas
    in µm² are compared if they are known, otherwise areas in px². Images without a position are left as they are.
    """
    limits = {
        plate: _limits(of_plate) for plate, of_plate in _group_by_plate(filter(has_plate_position, rows)).items()
    }
    return [
        {**row, "qc_flags": join_flags([*split_flags(row["qc_flags"]), DEBRIS])}
        if has_plate_position(row) and _is_below(row, limits[row["plate"] or ""])
        else dict(row)
        for row in rows
    ]


def _group_by_plate(rows: Iterable[GrowthRow]) -> dict[str, list[GrowthRow]]:
    plates: dict[str, list[GrowthRow]] = {}
    for row in rows:
        plates.setdefault(row["plate"] or "", []).append(row)
    return plates


def _limits(rows: Iterable[GrowthRow]) -> dict[str, float]:
    """Return the minimum area of a spheroid for each unit that the rows have."""
    largest: dict[str, dict[tuple[str, int], float]] = {"area_um2": {}, "area_px2": {}}
    for row in rows:
        image = (row["image"], row["page"])
        for unit, areas in largest.items():
            if row[unit] is not None:
                areas[image] = max(row[unit], areas.get(image, 0.0))
    return {unit: MIN_AREA_SHARE * median(areas.values()) for unit, areas in largest.items() if areas}


def _is_below(row: GrowthRow, limits: Mapping[str, float]) -> bool:
    unit = "area_px2" if row["area_um2"] is None else "area_um2"
    return row[unit] is not None and bool(row[unit] < limits[unit])
