"""Reads the time, z plane and channel of each page of a TIFF, if the file states them."""

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

# The length of each unit in hours. In OME and ImageJ, the default unit is the second.
HOURS = {
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9 / 3600),
    **dict.fromkeys(("us", "µs", "\u03bcs", "microsecond", "microseconds"), 1e-6 / 3600),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3 / 3600),
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1 / 3600),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 1 / 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 1.0),
    **dict.fromkeys(("d", "day", "days"), 24.0),
}
MAX_DELAY = 0.1  # as a fraction of the interval; with a smaller delay, a page has its planned time

AXES = "TZC"


@dataclass(frozen=True)
class PagePosition:
    """The position of a page in its stack.

    `page` counts from 0. `t`, `z` and `channel` count from 1; they are None if the file does not state the axis, or
    its length is 1. `time_h`: hours since the first time of the file. `channel_name`: "" if it is not known; it may
    be known even if there is only one channel.
    """

    page: int
    t: int | None = None
    z: int | None = None
    channel: int | None = None
    time_h: float | None = None
    channel_name: str = ""


def read_pages(file: BinaryIO) -> list[PagePosition]:
    """Return the positions of all pages in the order of the file, without previews and pyramid levels.

    It understands OME-XML, the hyperstacks of ImageJ and the axes that tifffile writes. Pages of other files have no
    position. Raise `BadImage` as `decode` does.
    """
    with translate_library_errors():
        if detect_format(file) != TIFF:
            return [PagePosition(0)]
        tiff = Tiff(file)
        positions = _read_positions(tiff)
        # Page numbers in the metadata also count previews, so the pages are numbered again.
        return [
            replace(positions.get(page.index, PagePosition(0)), page=number) for number, page in enumerate(tiff.pages)
        ]


def _read_positions(tiff: Tiff) -> dict[int, PagePosition]:
    try:
        return _read_ome_positions(tiff) or _read_imagej_positions(tiff) or _read_tifffile_positions(tiff)
    except Exception:
        # If the metadata cannot be understood, the pages are still images. None of them may be lost.
        return {}


def _read_ome_positions(tiff: Tiff) -> dict[int, PagePosition]:
    return {number: position for pixels in tiff.ome for number, position in _read_pixels_positions(pixels).items()}


def _read_pixels_positions(pixels: Pixels) -> dict[int, PagePosition]:
    names = [channel.get("Name", "").strip() for channel in pixels.channels]
    times = _choose_times(pixels)
    positions = {}
    for number, plane in pixels.planes.items():
        t, z, channel = (index + 1 if size > 1 else None for index, size in zip(plane, pixels.sizes, strict=True))
        name = names[plane[2]] if plane[2] < len(names) else ""
        positions[number] = PagePosition(number, t, z, channel, times.get(plane) if t else None, name)
    return positions


def _choose_times(pixels: Pixels) -> dict[Plane, float]:
    """Return the hours since the first time by plane: measured times, or planned ones if the two are close."""
    measured = _read_measured_times(pixels)
    planned: dict[Plane, float] = {}
    interval = _read_hours(pixels.attributes, "TimeIncrement")
    if interval:
        planned = {plane: plane[0] * interval for plane in pixels.planes.values()}
        # Planned times are equal in all wells, so that a mean over wells can be computed.
        if all(abs(hours - plane[0] * interval) <= MAX_DELAY * interval for plane, hours in measured.items()):
            measured = {}
    return {plane: _round(hours) for plane, hours in {**planned, **measured}.items()}


def _read_measured_times(pixels: Pixels) -> dict[Plane, float]:
    """Return hours since the first time of the same channel and z plane, if they rise from page to page."""
    series: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for (t, z, channel), attributes in pixels.times.items():
        hours = _read_hours(attributes, "DeltaT", is_zero_allowed=True)
        if hours is not None:
            series[z, channel][t] = hours
    measured = {}
    for (z, channel), hours_at in series.items():
        in_order = [hours_at[t] for t in sorted(hours_at)]
        # Some programs write 0 for all planes. Others leave out planes, so that the first time is not known.
        if 0 in hours_at and all(before < after for before, after in pairwise(in_order)):
            measured.update({(t, z, channel): hours - hours_at[0] for t, hours in hours_at.items()})
    return measured


def _read_hours(attributes: Mapping[str, str], name: str, *, is_zero_allowed: bool = False) -> float | None:
    return _to_hours(attributes.get(name, ""), attributes.get(f"{name}Unit", "s"), is_zero_allowed)


def _to_hours(value: str, unit: str, is_zero_allowed: bool = False) -> float | None:
    scale = HOURS.get(unit.strip().lower().rstrip("."))
    try:
        hours = float(value) * scale if scale else math.nan
    except ValueError:
        return None
    return hours if math.isfinite(hours) and (hours > 0 or (is_zero_allowed and hours == 0)) else None


def _round(hours: float) -> float:
    return float(f"{hours:.9g}")  # 3 times 420 s is 0.35, not 0.35000000000000003


def _read_imagej_positions(tiff: Tiff) -> dict[int, PagePosition]:
    for text in tiff.descriptions:
        if text.startswith("ImageJ="):
            lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            frames, slices, channels = (
                _parse_count(lines.get(name, "")) for name in ("frames", "slices", "channels")
            )
            interval = _to_hours(lines.get("finterval", ""), lines.get("tunit", "s"))
            # ImageJ always stores channels first, then slices, then frames.
            return _number_regularly("TZC", (frames, slices, channels), range(tiff.page_count), interval)
    return {}


def _parse_count(text: str) -> int:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 1


def _read_tifffile_positions(tiff: Tiff) -> dict[int, PagePosition]:
    positions = {}
    for axes, shape, numbers in tiff.shaped_series():
        positions.update(_number_regularly(axes, shape, numbers, None))
    return positions


def _number_regularly(
    axes: str, shape: Sequence[int], numbers: Iterable[int], interval_h: float | None
) -> dict[int, PagePosition]:
    """Return the positions of pages that count through `axes`, the last fastest; {} if their number does not fit."""
    numbers = list(numbers)
    if math.prod(shape) != len(numbers) or not any(axis in AXES for axis in axes):
        return {}
    positions = {}
    for order, number in enumerate(numbers):
        rest, index = order, dict[str, int]()
        for axis, size in zip(reversed(axes), reversed(shape), strict=True):
            rest, remainder = divmod(rest, size)
            if size > 1:
                index[axis] = remainder + 1
        t = index.get("T")
        time_h = _round((t - 1) * interval_h) if t and interval_h else None
        positions[number] = PagePosition(number, t, index.get("Z"), index.get("C"), time_h)
    return positions
