"""The images of a run as those of a plate: conditions, wells and times, and which of them are left alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from spheroseg.cli.options import CONDITIONS, conditions_beside, conditions_of
from spheroseg.errors import BadPlate
from spheroseg.plate.imaging_rounds import MAX_ROUND_SPREAD_H
from spheroseg.plate.layout import OFF, ImagePage, PlateLayout, lay_out_plate, select_positions
from spheroseg.run.inputs import Listing
from spheroseg.run.options import RunOptions

MOST_HOURS = 12  # in an error


def with_conditions_beside(
    paths: Sequence[Path], listing: Listing, options: RunOptions
) -> tuple[Listing, RunOptions]:
    """With the conditions.csv in the folder of the images, where no other was named. Raises BadPlate."""
    beside = conditions_beside(paths)
    if beside is None or options.plate.conditions or options.plate.pattern == OFF:
        return listing, options
    try:
        rows = tuple(conditions_of(beside))
    except BadPlate as error:
        raise BadPlate(
            f"{error}\n  It lies beside the images, and nothing else says to use it: mend it, move it away, or go on "
            f"without wells and times by --plate {OFF}"
        ) from None
    listing = replace(listing, skipped=[name for name in listing.skipped if name != CONDITIONS])
    return listing, replace(options, plate=replace(options.plate, conditions=rows, conditions_file=CONDITIONS))


def laid_out(listing: Listing, options: RunOptions) -> PlateLayout:
    """Where each image belongs. Raises BadPlate where an option asks for a time that there is not."""
    plate = options.plate
    pages = [
        ImagePage(item.name, item.t, item.time_h, item.channel_name or str(item.channel or ""), item.z)
        for item in listing.inputs
    ]
    layout = lay_out_plate(pages, plate.pattern, plate.conditions, wells=plate.wells, interval_h=plate.interval_h)
    hours = sorted({place.time_h for place in layout.positions if place.time_h is not None})
    for option, asked in (("--at", plate.at_h), ("--t0", plate.growth.t0_h)):
        if (
            layout.is_plate
            and asked is not None
            and not any(abs(hour - asked) <= MAX_ROUND_SPREAD_H for hour in hours)
        ):
            known = ", ".join(f"{hour:g}" for hour in hours[:MOST_HOURS]) or "none in hours"
            more = ", …" if len(hours) > MOST_HOURS else ""
            raise BadPlate(f"{option} is {asked:g} h, but no image is of that time; there are: {known}{more}")
    return layout


def chosen_by_name(
    listing: Listing, layout: PlateLayout, options: RunOptions, console: Console
) -> tuple[Listing, PlateLayout]:
    """Without images whose names tell another channel or z than was chosen. Raises BadPlate where none is left."""
    by_name = select_positions(layout.positions, channel=options.choice.channel, z=options.choice.z)
    # Of a stack the page was chosen when it was read.
    stacks = {number for number, item in enumerate(listing.inputs) if item.channel is not None or item.z is not None}
    kept = sorted(stacks.union(by_name))
    left = len(layout.positions) - len(kept)
    if not kept:
        raise BadPlate("no image is of that channel and z: `spheroseg plate preview` shows what the names say")
    if left:
        console.print(f"{left} images of another channel or z are left alone.", highlight=False)
    return replace(listing, inputs=[listing.inputs[number] for number in kept]), layout.select(kept)


def described(layout: PlateLayout, options: RunOptions) -> str:
    """The plate in a sentence, for people."""
    how = f"read as {layout.preset}" + (", the best guess" if layout.is_guessed else "")
    curves = len({(place.plate, place.well_or_sample) for place in layout.positions if place.well_or_sample})
    times = {place.time_point if place.time_h is None else place.time_h for place in layout.positions} - {None}
    parts = [f"{curves} {'wells' if layout.plates else 'samples'}", f"{len(times)} times" if times else "no times"]
    if options.plate.conditions_file:
        parts.append(f"conditions from {options.plate.conditions_file}")
    return f"A plate, {escape(how)}: {', '.join(map(escape, parts))}. --plate {OFF} leaves that out."
