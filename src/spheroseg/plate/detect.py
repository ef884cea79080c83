"""Whether a folder is a plate, as long as nobody has said so."""

from collections.abc import Sequence

from spheroseg.plate.names import Place

PLACED = 0.8  # of all names
WELLS = 6  # the smallest plate: fewer, without a time, may be anything


def is_plate(places: Sequence[Place | None]) -> bool:
    """Whether most images have a place of their own, and these are those of a time-lapse or of many wells.

    places: of every image in the folder; None where its name did not tell.
    """
    placed = [place for place in places if place]
    if not placed or len(placed) < PLACED * len(places) or len(set(placed)) < PLACED * len(placed):
        return False
    times: dict[tuple[str, str], set[float]] = {}
    for place in placed:
        at = place.time_h if place.time_h is not None else place.time_point
        times.setdefault((place.plate, place.label), set()).update([] if at is None else [at])
    is_time_lapse = sum(len(of_curve) > 1 for of_curve in times.values()) * 2 > len(times)
    return is_time_lapse or len({place.well for place in placed if place.well}) >= WELLS
