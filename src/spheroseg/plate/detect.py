"""Decides whether the images of a folder are a plate if the user has not said so."""

from collections.abc import Sequence

from spheroseg.plate.position import PlatePosition

MIN_PLACED_SHARE = 0.8  # of all images; as many must have a position of their own
MIN_WELLS = 6  # as on the smallest plate; names with fewer wells and no time may mean anything


def is_plate(positions: Sequence[PlatePosition | None]) -> bool:
    """Return whether most images have a position of their own, and form a time-lapse or fill many wells.

    positions: one for each image of the folder, None if the name does not state it.
    """
    placed = [position for position in positions if position]
    if not placed or len(placed) < MIN_PLACED_SHARE * len(positions):
        return False
    if len(set(placed)) < MIN_PLACED_SHARE * len(placed):
        return False
    times: dict[tuple[str, str], set[float]] = {}
    for position in placed:
        time = position.time_h if position.time_h is not None else position.time_point
        times.setdefault((position.plate, position.well_or_sample), set()).update([] if time is None else [time])
    is_time_lapse = sum(len(of_curve) > 1 for of_curve in times.values()) * 2 > len(times)
    return is_time_lapse or len({position.well for position in placed if position.well}) >= MIN_WELLS
