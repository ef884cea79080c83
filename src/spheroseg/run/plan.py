"""Find the images of a run and place them on plates, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spheroseg.errors import UnreadableInput
from spheroseg.plate.layout import PlateLayout
from spheroseg.run.inputs import InputList, find_inputs
from spheroseg.run.observer import RunObserver
from spheroseg.run.options import RunOptions
from spheroseg.run.plate_layout import choose_by_name, lay_out_inputs, use_conditions_beside


@dataclass(frozen=True)
class RunPlan:
    """What a run is going to do.

    options: with the conditions.csv that was found beside the images, if any.
    layout: the places of `listing.inputs`, in the same order.
    excluded: the number of images whose names state another channel or z than the chosen one.
    """

    options: RunOptions
    listing: InputList
    layout: PlateLayout
    excluded: int = 0


def plan_run(paths: Sequence[Path], options: RunOptions, observer: RunObserver) -> RunPlan:
    """List the images under `paths` and place them on plates.

    Raise UnreadableInput if a path does not exist or no image is found, and BadPlate if names, conditions or times
    do not fit the plate options.
    """
    listing = find_inputs(paths, choice=options.choice, progress=observer.reading) if paths else InputList([], [])
    if not listing.inputs:
        raise UnreadableInput(
            "no images found: spheroseg reads PNG, JPEG, BMP and TIFF files, also in folders and zip archives"
        )
    listing, options = use_conditions_beside(paths, listing, options)
    layout = lay_out_inputs(listing, options)
    total = len(listing.inputs)
    if layout.is_plate:
        listing, layout = choose_by_name(listing, layout, options)
    plan = RunPlan(options, listing, layout, excluded=total - len(listing.inputs))
    observer.planned(plan)
    return plan
