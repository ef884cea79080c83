"""Place the images of a run on plates: read the conditions table, assign wells and times, choose channel and z."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spheroseg.errors import BadPlate, UnreadableInput
from spheroseg.plate.condition_table import read_conditions
from spheroseg.plate.conditions import ConditionRow
from spheroseg.plate.imaging_rounds import MAX_ROUND_SPREAD_H
from spheroseg.plate.layout import OFF, ImagePage, PlateLayout, lay_out_plate, select_positions
from spheroseg.run.inputs import InputList
from spheroseg.run.options import RunOptions

CONDITIONS = "conditions.csv"
MAX_HOURS_NAMED = 12  # in an error message


def read_conditions_file(path: Path) -> list[ConditionRow]:
    """Return the rows of a CSV table of conditions.

    Raise UnreadableInput if the file cannot be read, and BadPlate if its content is not such a table.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"cannot read {path}: {error.strerror}") from None
    return read_conditions(data, path.name)


def conditions_beside(paths: Sequence[Path]) -> Path | None:
    """Return the conditions.csv in the folder of images, if `paths` is one folder that has one."""
    beside = paths[0] / CONDITIONS
    return beside if len(paths) == 1 and beside.is_file() else None


def use_conditions_beside(
    paths: Sequence[Path], listing: InputList, options: RunOptions
) -> tuple[InputList, RunOptions]:
    """Add the conditions.csv that lies beside the images to the options, unless the options name another table.

    Raise BadPlate if that file is not a table of conditions.
    """
    beside = conditions_beside(paths)
    if beside is None or options.plate.conditions or options.plate.pattern == OFF:
        return listing, options
    try:
        rows = tuple(read_conditions_file(beside))
    except BadPlate as error:
        raise BadPlate(
            f"{error}\n  The file lies beside the images, so it was read as their table of conditions. "
            f"Fix it, move it away, or use --plate {OFF} to run without wells and times."
        ) from None
    listing = replace(listing, skipped=[name for name in listing.skipped if name != CONDITIONS])
    return listing, replace(options, plate=replace(options.plate, conditions=rows, conditions_file=CONDITIONS))


def lay_out_inputs(listing: InputList, options: RunOptions) -> PlateLayout:
    """Return the well, time and condition of each input.

    Raise BadPlate if `at_h` or `t0_h` is a time that no image has, and for what `lay_out_plate` refuses.
    """
    plate = options.plate
    pages = [
        ImagePage(item.name, item.t, item.time_h, item.channel_name or str(item.channel or ""), item.z)
        for item in listing.inputs
    ]
    layout = lay_out_plate(pages, plate.pattern, plate.conditions, wells=plate.wells, interval_h=plate.interval_h)
    if layout.is_plate:
        _check_time("--at", plate.at_h, layout)
        _check_time("--t0", plate.growth.t0_h, layout)
    return layout


def _check_time(option: str, asked_h: float | None, layout: PlateLayout) -> None:
    hours = sorted({place.time_h for place in layout.positions if place.time_h is not None})
    if asked_h is None or any(abs(hour - asked_h) <= MAX_ROUND_SPREAD_H for hour in hours):
        return
    known = ", ".join(f"{hour:g}" for hour in hours[:MAX_HOURS_NAMED]) or "none in hours"
    more = ", …" if len(hours) > MAX_HOURS_NAMED else ""
    raise BadPlate(f"{option} is {asked_h:g} h, but no image has that time. The images have: {known}{more}")


def choose_by_name(listing: InputList, layout: PlateLayout, options: RunOptions) -> tuple[InputList, PlateLayout]:
    """Leave out the images whose names state another channel or z than the chosen one.

    Raise BadPlate if no image is left.
    """
    by_name = select_positions(layout.positions, channel=options.choice.channel, z=options.choice.z)
    # The page of a stack was chosen when the file was read.
    stacks = {number for number, item in enumerate(listing.inputs) if item.channel is not None or item.z is not None}
    kept = sorted(stacks.union(by_name))
    if not kept:
        raise BadPlate("no image has that channel and z: `spheroseg plate preview` shows what the names say")
    return replace(listing, inputs=[listing.inputs[number] for number in kept]), layout.select(kept)
