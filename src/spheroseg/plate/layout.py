"""Finds the position of every image of a run from its name, the table of conditions, and the metadata of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spheroseg.errors import BadPlate
from spheroseg.plate.condition_assignment import assign_conditions
from spheroseg.plate.conditions import NO_CONDITION, Condition, ConditionRow
from spheroseg.plate.detect import is_plate
from spheroseg.plate.names import AUTO, HAVE_NO_TIME, NOT_IN_HOURS, parse_names
from spheroseg.plate.position import NO_POSITION, PlatePosition
from spheroseg.plate.preview import Preview

OFF, ALL = "off", "all"


@dataclass(frozen=True)
class ImagePage:
    """One image whose position is to be found. It may be a page of a stack.

    name: its path as people read it. t: number of the time point in the stack, from 1. time_h: hours since the first
    page of the stack. None and "" mean that the file does not state it.
    """

    name: str
    t: int | None = None
    time_h: float | None = None
    channel: str = ""
    z: int | None = None


@dataclass(frozen=True)
class PlateLayout:
    """The position and the condition of each image, in the order of the images.

    positions: NO_POSITION for an image without one. is_plate: whether growth curves can be made. plates: (name,
    number of wells) pairs. unplaced: (name, reason) pairs. clashes: names that share one position. notes: sentences
    for the user.
    """

    positions: tuple[PlatePosition, ...]
    conditions: tuple[Condition, ...]
    is_plate: bool = False
    preset: str = ""
    is_guessed: bool = False
    plates: tuple[tuple[str, int], ...] = ()
    unplaced: tuple[tuple[str, str], ...] = ()
    clashes: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def select(self, indices: Sequence[int]) -> "PlateLayout":
        """Return the layout of the images at these indices alone."""
        return replace(
            self,
            positions=tuple(self.positions[index] for index in indices),
            conditions=tuple(self.conditions[index] for index in indices),
        )


def lay_out_plate(
    pages: Sequence[ImagePage],
    pattern: str = AUTO,
    conditions: Sequence[ConditionRow] = (),
    *,
    wells: int | None = None,
    interval_h: float | None = None,
) -> PlateLayout:
    """Return the position and the condition of every image.

    pattern, wells, interval_h: as for `names.parse_names`. The pattern "off" means that the images are not a plate.
    With "auto" and without conditions, `detect.is_plate` decides whether they are a plate. Raises BadPlate if no
    name fits the pattern, and as `parse_names` does.
    """
    no_plate = PlateLayout((NO_POSITION,) * len(pages), (NO_CONDITION,) * len(pages))
    if pattern == OFF:
        return no_plate
    preview = parse_names((page.name for page in pages), pattern, wells=wells, interval_h=interval_h)
    if conditions:
        preview = assign_conditions(preview, conditions)
    by_name = {image.name: image for image in preview.images}
    positions = [_add_stack_fields(by_name[page.name].position, page, interval_h) for page in pages]
    if not (conditions or pattern != AUTO or is_plate(positions)):
        return no_plate
    if not preview.placed:
        raise BadPlate(
            f"no name of an image fits {'any preset' if pattern == AUTO else pattern}: check the names with "
            "`spheroseg plate preview`, or run without --plate and --conditions"
        )
    return PlateLayout(
        positions=tuple(position or NO_POSITION for position in positions),
        conditions=tuple(by_name[page.name].condition for page in pages),
        is_plate=True,
        preset=preview.preset,
        is_guessed=preview.is_guessed,
        plates=tuple(preview.plates.items()),
        unplaced=tuple((image.name, image.reason) for image in preview.failed),
        clashes=_find_clashes(pages, positions),
        notes=_select_notes(preview, positions),
    )


def select_positions(
    positions: Sequence[PlatePosition], *, channel: int | str | None, z: int | str | None
) -> list[int]:
    """Return the indices of the positions with this channel and z. None and "all" select every one.

    A position without a channel or z is selected too.
    """
    return [
        index
        for index, position in enumerate(positions)
        if (channel in (None, ALL) or not position.channel or position.channel.casefold() == str(channel).casefold())
        and (z in (None, ALL) or position.z is None or position.z == z)
    ]


def _add_stack_fields(
    position: PlatePosition | None, page: ImagePage, interval_h: float | None
) -> PlatePosition | None:
    if position is None:
        return None
    hours, point = position.time_h, position.time_point
    if page.time_h is not None:
        # The time in the name is the time of the first page.
        hours = (hours or 0.0) + page.time_h
    elif page.t is not None and hours is None and point is None:
        point = page.t
        hours = (page.t - 1) * interval_h if interval_h else None
    return replace(
        position,
        time_h=hours,
        time_point=point,
        channel=position.channel or page.channel,
        z=position.z if position.z is not None else page.z,
    )


def _find_clashes(
    pages: Sequence[ImagePage], positions: Sequence[PlatePosition | None]
) -> tuple[tuple[str, ...], ...]:
    groups: dict[PlatePosition, list[str]] = {}
    for page, position in zip(pages, positions, strict=True):
        if position:
            groups.setdefault(position, []).append(page.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _select_notes(preview: Preview, positions: Sequence[PlatePosition | None]) -> tuple[str, ...]:
    # Notes about missing times are wrong if the stacks state the times.
    if all(position.time_h is not None for position in positions if position):
        return tuple(note for note in preview.notes if note != NOT_IN_HOURS and HAVE_NO_TIME not in note)
    return preview.notes
