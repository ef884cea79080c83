"""Which time, z plane and channel each page of a TIFF is, where the file says so."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO

from spheroseg.segmentation.file_format import TIFF, detect_format
from spheroseg.segmentation.image import translate_library_errors
from spheroseg.segmentation.ome import Pixels, Plane
from spheroseg.segmentation.tiff import Tiff

# What one unit is in hours. OME and ImageJ both mean seconds where they name none.
HOURS = {
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9 / 3600),
    **dict.fromkeys(("us", "µs", "\u03bcs", "microsecond", "microseconds"), 1e-6 / 3600),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3 / 3600),
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1 / 3600),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 1 / 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 1.0),
    **dict.fromkeys(("d", "day", "days"), 24.0),
}
ON_THE_GRID = 0.1  # of the interval: so far a picture may be from its turn and still be of that moment

AXES = "TZC"


@dataclass(frozen=True)
class PagePosition:
    """`page` counts from 0, as everywhere; `t`, `z` and `channel` from 1, as people do.

    They are None where the file does not speak of such an axis, or has only one. `time_h`: hours since the first time
    of the file. `channel_name` may be known of a single channel too; "" where it is not.
    """

    page: int
    t: int | None = None
    z: int | None = None
    channel: int | None = None
    time_h: float | None = None
    channel_name: str = ""


def read_pages(file: BinaryIO) -> list[PagePosition]:
    """The pictures in a file, in its order; previews and pyramid levels inside a TIFF are none.

    Read are OME-XML, ImageJ's hyperstacks and the axes that tifffile writes; any other page has no place. Raises
    `BadImage` like `decode`.
    """
    with translate_library_errors():
        if detect_format(file) != TIFF:
            return [PagePosition(0)]
        tiff = Tiff(file)
        places = _places(tiff)
        # Without the pages that are no pictures, a page has another number here than in the file.
        return [
            replace(places.get(page.index, PagePosition(0)), page=number) for number, page in enumerate(tiff.pages)
        ]


def _places(tiff: Tiff) -> dict[int, PagePosition]:
    try:
        return _ome(tiff) or _imagej(tiff) or _shaped(tiff)
    except Exception:
        # What is said of the pages may be nonsense; they are there all the same, and none of them may be lost.
        return {}


def _ome(tiff: Tiff) -> dict[int, PagePosition]:
    return {number: place for pixels in tiff.ome for number, place in _of_pixels(pixels).items()}


def _of_pixels(pixels: Pixels) -> dict[int, PagePosition]:
    names = [channel.get("Name", "").strip() for channel in pixels.channels]
    moments = _moments(pixels)
    places = {}
    for number, plane in pixels.planes.items():
        t, z, channel = (at + 1 if size > 1 else None for at, size in zip(plane, pixels.sizes, strict=True))
        name = names[plane[2]] if plane[2] < len(names) else ""
        places[number] = PagePosition(number, t, z, channel, moments.get(plane) if t else None, name)
    return places


def _moments(pixels: Pixels) -> dict[Plane, float]:
    """Hours since the first time, by plane: those measured, unless they are those that were planned."""
    measured = _measured(pixels)
    planned: dict[Plane, float] = {}
    interval = _hours(pixels.attributes, "TimeIncrement")
    if interval:
        planned = {plane: plane[0] * interval for plane in pixels.planes.values()}
        # What was planned is the same number in every well, so that a mean over wells can be made of it.
        if all(abs(hours - plane[0] * interval) <= ON_THE_GRID * interval for plane, hours in measured.items()):
            measured = {}
    return {plane: _neat(hours) for plane, hours in {**planned, **measured}.items()}


def _measured(pixels: Pixels) -> dict[Plane, float]:
    """Of each channel and z plane, since its own first time; only where times go on from page to page."""
    series: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for (t, z, channel), attributes in pixels.times.items():
        hours = _hours(attributes, "DeltaT", is_zero_allowed=True)
        if hours is not None:
            series[z, channel][t] = hours
    measured = {}
    for (z, channel), hours_at in series.items():
        in_order = [hours_at[t] for t in sorted(hours_at)]
        # Some programs fill in 0 everywhere; others leave planes out, and then nothing is known of the first.
        if 0 in hours_at and all(before < after for before, after in pairwise(in_order)):
            measured.update({(t, z, channel): hours - hours_at[0] for t, hours in hours_at.items()})
    return measured


def _hours(attributes: Mapping[str, str], name: str, *, is_zero_allowed: bool = False) -> float | None:
    return _in_hours(attributes.get(name, ""), attributes.get(f"{name}Unit", "s"), is_zero_allowed)


def _in_hours(value: str, unit: str, is_zero_allowed: bool = False) -> float | None:
    scale = HOURS.get(unit.strip().lower().rstrip("."))
    try:
        hours = float(value) * scale if scale else math.nan
    except ValueError:
        return None
    return hours if math.isfinite(hours) and (hours > 0 or (is_zero_allowed and hours == 0)) else None


def _neat(hours: float) -> float:
    return float(f"{hours:.9g}")  # 0.35 of 3 times 420 s, not 0.35000000000000003


def _imagej(tiff: Tiff) -> dict[int, PagePosition]:
    for text in tiff.descriptions:
        if text.startswith("ImageJ="):
            lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            frames, slices, channels = (_count(lines.get(name, "")) for name in ("frames", "slices", "channels"))
            interval = _in_hours(lines.get("finterval", ""), lines.get("tunit", "s"))
            # The order is always the same: channels first, then slices, then frames.
            return _regular("TZC", (frames, slices, channels), range(tiff.page_count), interval)
    return {}


def _count(text: str) -> int:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 1


def _shaped(tiff: Tiff) -> dict[int, PagePosition]:
    places = {}
    for axes, shape, numbers in tiff.shaped():
        places.update(_regular(axes, shape, numbers, None))
    return places


def _regular(
    axes: str, shape: Sequence[int], numbers: Iterable[int], interval_h: float | None
) -> dict[int, PagePosition]:
    """Pages in the order of `axes`, of which the last runs fastest; none where their count is another."""
    numbers = list(numbers)
    if math.prod(shape) != len(numbers) or not any(axis in AXES for axis in axes):
        return {}
    places = {}
    for order, number in enumerate(numbers):
        rest, at = order, dict[str, int]()
        for axis, size in zip(reversed(axes), reversed(shape), strict=True):
            rest, here = divmod(rest, size)
            if size > 1:
                at[axis] = here + 1
        t = at.get("T")
        time_h = _neat((t - 1) * interval_h) if t and interval_h else None
        places[number] = PagePosition(number, t, at.get("Z"), at.get("C"), time_h)
    return places
