"""Where every image of a run belongs: what its name says, the conditions, and what its file says as a stack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spheroseg.errors import BadPlate
from spheroseg.plate.assign import with_conditions
from spheroseg.plate.conditions import NO_CONDITION, Condition, Row
from spheroseg.plate.detect import is_plate
from spheroseg.plate.names import AUTO, Place, Preview, parse

OFF, ALL = "off", "all"
NOWHERE = Place()


@dataclass(frozen=True)
class Page:
    """One image to place. `name` is its path as people read it; the rest is what a stack says of its page: numbers
    from 1, hours since its first page, None and "" where the file does not tell."""

    name: str
    t: int | None = None
    time_h: float | None = None
    channel: str = ""
    z: int | None = None


@dataclass(frozen=True)
class Layout:
    """`places` and `conditions` are in the order of the pages; a page without a place is NOWHERE.

    is_plate: whether there are curves to be made. `unplaced` are names with the reason. `notes` are for a person.
    """

    places: tuple[Place, ...]
    conditions: tuple[Condition, ...]
    is_plate: bool = False
    preset: str = ""
    is_guessed: bool = False
    plates: tuple[tuple[str, int], ...] = ()
    unplaced: tuple[tuple[str, str], ...] = ()
    clashes: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, kept: Sequence[int]) -> "Layout":
        """The same for the pages of these numbers alone."""
        return replace(
            self,
            places=tuple(self.places[number] for number in kept),
            conditions=tuple(self.conditions[number] for number in kept),
        )


def lay_out(
    pages: Sequence[Page],
    pattern: str = AUTO,
    conditions: Sequence[Row] = (),
    *,
    wells: int | None = None,
    interval_h: float | None = None,
) -> Layout:
    """Place every page.

    pattern: as for `names.parse`; off: no plate. With auto a folder is one only where most of its names say so.
    Raises BadPlate for a pattern that no name fits, and for what `parse` refuses.
    """
    nowhere = Layout((NOWHERE,) * len(pages), (NO_CONDITION,) * len(pages))
    if pattern == OFF:
        return nowhere
    preview = parse((page.name for page in pages), pattern, wells=wells, interval_h=interval_h)
    if conditions:
        preview = with_conditions(preview, conditions)
    known = {picture.name: picture for picture in preview.pictures}
    places = [_with_stack(known[page.name].place, page, interval_h) for page in pages]
    if not (conditions or pattern != AUTO or is_plate(places)):
        return nowhere
    if not preview.placed:
        raise BadPlate(
            f"no name of an image fits {'any preset' if pattern == AUTO else pattern}: see what they say with "
            "`spheroseg plate preview`, or leave out what makes a plate of them (--plate, --conditions)"
        )
    return Layout(
        places=tuple(place or NOWHERE for place in places),
        conditions=tuple(known[page.name].condition for page in pages),
        is_plate=True,
        preset=preview.preset,
        is_guessed=preview.is_guessed,
        plates=tuple(preview.plates.items()),
        unplaced=tuple((picture.name, picture.reason) for picture in preview.failed),
        clashes=_clashes(pages, places),
        notes=_notes(preview, places),
    )


def chosen(places: Sequence[Place], *, channel: int | str | None, z: int | str | None) -> list[int]:
    """Numbers of the places that are of this channel and z, as far as they tell; None and all: of any."""
    return [
        number
        for number, place in enumerate(places)
        if (channel in (None, ALL) or not place.channel or place.channel.casefold() == str(channel).casefold())
        and (z in (None, ALL) or place.z is None or place.z == z)
    ]


def _with_stack(place: Place | None, page: Page, interval_h: float | None) -> Place | None:
    if place is None:
        return None
    hours, point = place.time_h, place.time_point
    if page.time_h is not None:
        # The file is of a moment, and its pages go on from there.
        hours = (hours or 0.0) + page.time_h
    elif page.t is not None and hours is None and point is None:
        point = page.t
        hours = (page.t - 1) * interval_h if interval_h else None
    return replace(
        place,
        time_h=hours,
        time_point=point,
        channel=place.channel or page.channel,
        z=place.z if place.z is not None else page.z,
    )


def _clashes(pages: Sequence[Page], places: Sequence[Place | None]) -> tuple[tuple[str, ...], ...]:
    groups: dict[Place, list[str]] = {}
    for page, place in zip(pages, places, strict=True):
        if place:
            groups.setdefault(place, []).append(page.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _notes(preview: Preview, places: Sequence[Place | None]) -> tuple[str, ...]:
    # What a stack has told is no longer missing.
    if all(place.time_h is not None for place in places if place):
        return tuple(note for note in preview.notes if "--interval" not in note and "tell no time" not in note)
    return preview.notes
