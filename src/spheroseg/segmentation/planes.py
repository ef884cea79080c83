"""Which pages of a stack are wanted: a person chooses, nothing is taken because it happens to be the first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spheroseg.errors import ChoosePlane
from spheroseg.segmentation.stack import PagePosition

ALL = "all"

Wanted = int | str | None


@dataclass(frozen=True)
class PlaneChoice:
    """Each a number from 1, `all`, or None where nothing was chosen; a channel also by its name."""

    time: Wanted = ALL
    z: Wanted = None
    channel: Wanted = None


NO_CHOICE = PlaneChoice()

_PLACE: Mapping[str, Callable[[PagePosition], int | None]] = {
    "time": lambda page: page.t,
    "z": lambda page: page.z,
    "channel": lambda page: page.channel,
}
_NOUNS = {"time": ("time point", "time points"), "z": ("z plane", "z planes"), "channel": ("channel", "channels")}


def choose_pages(pages: Sequence[PagePosition], choice: PlaneChoice) -> list[PagePosition]:
    """Those of `pages` that are wanted.

    Pages of a file that speaks of no axis are all wanted. A single picture of such a file is taken whatever number
    was chosen: its place may stand in its name.

    Raises ChoosePlane where a file has several z planes or channels of which none was chosen, or not the chosen one.
    """
    wanted: dict[str, Wanted] = {"time": choice.time, "z": choice.z, "channel": choice.channel}
    if isinstance(choice.channel, str) and choice.channel != ALL:
        wanted["channel"] = _number_of(choice.channel, pages)
    if all(place(page) is None for page in pages for place in _PLACE.values()):
        asked = [f"--{axis} {number}" for axis, number in wanted.items() if isinstance(number, int)]
        if asked and len(pages) > 1:
            raise ChoosePlane(
                f"the {len(pages)} pages of this file do not say which time, z plane or channel they are: "
                f"leave out {' and '.join(asked)} (each page is an image then), or save the stack as OME-TIFF"
            )
        return list(pages)
    open_axes: list[str] = []
    chosen = list(pages)
    for axis, number in wanted.items():
        there = sorted({_at(page, axis) for page in pages})
        if number is None and len(there) > 1:
            open_axes.append(axis)
        elif isinstance(number, int):
            if number not in there:
                raise ChoosePlane(
                    f"there is no {_NOUNS[axis][0]} {number} in this file: it has {_range(axis, pages)}"
                )
            chosen = [page for page in chosen if _at(page, axis) == number]
    if open_axes:
        raise ChoosePlane(_question(open_axes, pages))
    if not chosen:
        raise ChoosePlane("this stack has no page of the chosen time, z plane and channel: choose another")
    return chosen


def _at(page: PagePosition, axis: str) -> int:
    # Of several images in one file, one may have an axis that another has not.
    return _PLACE[axis](page) or 1


def _number_of(name: str, pages: Sequence[PagePosition]) -> int | None:
    """The channel of that name; None for a picture that does not say which channel it is."""
    names = {_at(page, "channel"): page.channel_name for page in pages}
    if not any(names.values()):
        if len(pages) > 1:
            raise ChoosePlane(f"the channels of this file have no names, so none is {name}: choose by number")
        return None
    found = [number for number, known in names.items() if known.casefold() == name.casefold()]
    if not found:
        raise ChoosePlane(f"there is no channel {name} in this file: it has {_range('channel', pages)}")
    if len(found) > 1:
        raise ChoosePlane(
            f"{len(found)} channels of this file are named {name}: choose by number, "
            f"it has {_range('channel', pages)}"
        )
    return found[0]


def _range(axis: str, pages: Sequence[PagePosition]) -> str:
    """As `z planes 1 to 5`, or `channels 1 (BF) and 3 (GFP)`."""
    names = {_at(page, axis): page.channel_name if axis == "channel" else "" for page in pages}
    there = sorted(names)
    noun = _NOUNS[axis][len(there) > 1]
    if not any(names.values()) and len(there) > 2 and there == list(range(there[0], there[-1] + 1)):
        return f"{noun} {there[0]} to {there[-1]}"
    said = [f"{number} ({names[number]})" if names[number] else str(number) for number in there]
    return f"{noun} {_listed(said)}"


def _question(axes: Sequence[str], pages: Sequence[PagePosition]) -> str:
    has, options, everything = [], [], []
    for axis in axes:
        there = {_at(page, axis) for page in pages}
        names = sorted({(page.channel, page.channel_name) for page in pages if page.channel_name and page.channel})
        told = f" ({', '.join(name for _, name in names)})" if axis == "channel" and names else ""
        has.append(f"{len(there)} {_NOUNS[axis][1]}{told}")
        options.append(f"--{axis}")
        everything.append(f"--{axis} {ALL}")
    return f"this stack has {_listed(has)}: choose with {_listed(options)}, or take all with {' '.join(everything)}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
