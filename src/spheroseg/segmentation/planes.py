"""Chooses the pages of a stack. The user has to choose: the first page is never used by default."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spheroseg.errors import ChoosePlane
from spheroseg.segmentation.stack import PagePosition

ALL = "all"

Number = int | str | None


@dataclass(frozen=True)
class PlaneChoice:
    """The chosen time, z plane and channel.

    Each is a number from 1, `all`, or None if nothing was chosen. A channel may also be a name.
    """

    time: Number = ALL
    z: Number = None
    channel: Number = None


NO_CHOICE = PlaneChoice()

_NUMBER_OF: Mapping[str, Callable[[PagePosition], int | None]] = {
    "time": lambda page: page.t,
    "z": lambda page: page.z,
    "channel": lambda page: page.channel,
}
_NOUNS = {"time": ("time point", "time points"), "z": ("z plane", "z planes"), "channel": ("channel", "channels")}


def choose_pages(pages: Sequence[PagePosition], choice: PlaneChoice) -> list[PagePosition]:
    """Return the pages that match the choice, in their order.

    If the file states no axis, all its pages are chosen. A file with a single page and no axis matches any number,
    because its position may be part of the file name.

    Raise ChoosePlane if a file has several z planes or channels and none was chosen, or if it lacks the chosen one.
    """
    numbers: dict[str, Number] = {"time": choice.time, "z": choice.z, "channel": choice.channel}
    if isinstance(choice.channel, str) and choice.channel != ALL:
        numbers["channel"] = _find_channel(choice.channel, pages)
    if all(number_of(page) is None for page in pages for number_of in _NUMBER_OF.values()):
        options = [f"--{axis} {number}" for axis, number in numbers.items() if isinstance(number, int)]
        if options and len(pages) > 1:
            raise ChoosePlane(
                f"the {len(pages)} pages of this file do not say which time, z plane or channel they are: "
                f"leave out {' and '.join(options)} (each page is an image then), or save the stack as OME-TIFF"
            )
        return list(pages)
    open_axes: list[str] = []
    chosen = list(pages)
    for axis, number in numbers.items():
        available = sorted({_at(page, axis) for page in pages})
        if number is None and len(available) > 1:
            open_axes.append(axis)
        elif isinstance(number, int):
            if number not in available:
                raise ChoosePlane(
                    f"there is no {_NOUNS[axis][0]} {number} in this file: it has {_describe_axis(axis, pages)}"
                )
            chosen = [page for page in chosen if _at(page, axis) == number]
    if open_axes:
        raise ChoosePlane(_question(open_axes, pages))
    if not chosen:
        raise ChoosePlane("this stack has no page of the chosen time, z plane and channel: choose another")
    return chosen


def _at(page: PagePosition, axis: str) -> int:
    # A file may hold several images, and some may lack an axis that others have.
    return _NUMBER_OF[axis](page) or 1


def _find_channel(name: str, pages: Sequence[PagePosition]) -> int | None:
    """Return the number of the channel with that name; None for a single page that states no channel."""
    names = {_at(page, "channel"): page.channel_name for page in pages}
    if not any(names.values()):
        if len(pages) > 1:
            raise ChoosePlane(f"the channels of this file have no names, so none is {name}: choose by number")
        return None
    matches = [number for number, known in names.items() if known.casefold() == name.casefold()]
    if not matches:
        raise ChoosePlane(f"there is no channel {name} in this file: it has {_describe_axis('channel', pages)}")
    if len(matches) > 1:
        raise ChoosePlane(
            f"{len(matches)} channels of this file are named {name}: choose by number, "
            f"it has {_describe_axis('channel', pages)}"
        )
    return matches[0]


def _describe_axis(axis: str, pages: Sequence[PagePosition]) -> str:
    """Return the numbers that pages have on an axis: `z planes 1 to 5`, or `channels 1 (BF) and 3 (GFP)`."""
    names = {_at(page, axis): page.channel_name if axis == "channel" else "" for page in pages}
    numbers = sorted(names)
    noun = _NOUNS[axis][len(numbers) > 1]
    if not any(names.values()) and len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{noun} {numbers[0]} to {numbers[-1]}"
    entries = [f"{number} ({names[number]})" if names[number] else str(number) for number in numbers]
    return f"{noun} {_join(entries)}"


def _question(axes: Sequence[str], pages: Sequence[PagePosition]) -> str:
    counts, options, all_options = [], [], []
    for axis in axes:
        numbers = {_at(page, axis) for page in pages}
        names = sorted({(page.channel, page.channel_name) for page in pages if page.channel_name and page.channel})
        listed = f" ({', '.join(name for _, name in names)})" if axis == "channel" and names else ""
        counts.append(f"{len(numbers)} {_NOUNS[axis][1]}{listed}")
        options.append(f"--{axis}")
        all_options.append(f"--{axis} {ALL}")
    return f"this stack has {_join(counts)}: choose with {_join(options)}, or take all with {' '.join(all_options)}"


def _join(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
