"""Reads plate, well, site, time, channel and z of each image from its file name."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from spheroseg.errors import BadPlate
from spheroseg.plate.free_names import FolderContext, read_plain, read_words
from spheroseg.plate.name_fields import NameFields, NameReader
from spheroseg.plate.patterns import INSTRUMENTS, compile_pattern
from spheroseg.plate.position import PlatePosition
from spheroseg.plate.preview import Preview, PreviewImage
from spheroseg.plate.times import format_hours, hours_since
from spheroseg.plate.wells import PLATE_FORMATS

AUTO = "auto"
MAX_NAME_CHARACTERS = 2000
MAX_NUMBER = 1_000_000_000
FREE_PRESETS = ("plain", "words")
# If two presets read a folder equally well, the first one wins.
PRESETS = (*INSTRUMENTS, *FREE_PRESETS)
# Notes that are removed if a stack states the times of its pages.
NOT_IN_HOURS = "time points are numbered, not in hours: say how many hours lie between them (--interval)"
HAVE_NO_TIME = "names have no time, the others have one"
_ROW_D = 3


def parse_names(
    names: Iterable[str], pattern: str = AUTO, *, wells: int | None = None, interval_h: float | None = None
) -> Preview:
    """Read every name by one rule.

    names: displayed paths of the images, with / between folders.
    pattern: the name of a preset; or a template such as {well}_t{time}; or a regular expression with named groups;
    or "auto", which chooses the preset that gives the most names a position of their own.
    wells: the number of wells of the plate, if known. A name whose well is not on this plate cannot be read.
    interval_h: hours between numbered time points. The lowest number is 0 h.
    Raises BadPlate if the pattern, `wells` or `interval_h` cannot be used.
    """
    names = list(dict.fromkeys(names))
    if wells is not None and wells not in PLATE_FORMATS:
        raise BadPlate(f"there are no plates of {wells} wells: choose one of {', '.join(map(str, PLATE_FORMATS))}")
    if interval_h is not None and not 0 < interval_h < float("inf"):
        raise BadPlate("the hours between time points must be a positive number")
    context = FolderContext.from_names([name for name in names if len(name) <= MAX_NAME_CHARACTERS], wells)
    readers: dict[str, NameReader] = {
        **INSTRUMENTS,
        "plain": partial(read_plain, context=context),
        "words": partial(read_words, context=context),
    }
    readers = {preset: partial(_refuse_thumbnail, read) for preset, read in readers.items()}
    if pattern != AUTO:
        read = readers.get(pattern) or compile_pattern(pattern).read
        return _preview(names, pattern, read, wells, interval_h)
    return _choose_best([_preview(names, preset, readers[preset], wells, interval_h) for preset in PRESETS])


def _choose_best(previews: Sequence[Preview]) -> Preview:
    """Return the preview that gives the most images a position of their own. previews: in the order of PRESETS."""
    *with_wells, words = previews
    best = max(with_wells, key=_count_distinct_positions)
    # The preset for words can also read names with a well, so it must place more images than the others to be used.
    # It is also used if all wells would be in row D and are in lower case, as in d3: these are days.
    has_capital_d = any("D" in image.name for image in words.images)
    are_days = best.preset == "plain" and _has_only_row_d(best) and not has_capital_d
    if len(words.placed) > len(best.placed) - are_days:
        best = words
    if not best.placed:
        return replace(best, preset="", is_guessed=True, images=_collect_reasons(previews))
    return replace(best, is_guessed=True)


def _refuse_thumbnail(read: NameReader, path: str) -> NameFields:
    # ImageXpress writes a thumbnail of every image.
    if "_thumb" in path.rpartition("/")[2].lower():
        raise BadPlate("a thumbnail: leave it out")
    return read(path)


def _count_distinct_positions(preview: Preview) -> int:
    return len({position for _, position in preview.placed})


def _preview(
    names: Sequence[str], preset: str, read: NameReader, wells: int | None, interval_h: float | None
) -> Preview:
    fields_by_name: dict[str, NameFields] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            fields_by_name[name] = _read_checked(name, read, wells)
        except BadPlate as error:
            reasons[name] = str(error)
    positions, notes = _to_positions(fields_by_name, interval_h)
    images = tuple(PreviewImage(name, positions.get(name), reasons.get(name, "")) for name in names)
    preview = Preview(preset, images, wells=wells, notes=tuple(notes))
    if preset == "plain" and _has_only_row_d(preview):
        note = "every well is in row D: if D3 means day 3, use --pattern words"
        return replace(preview, notes=(*notes, note))
    return preview


def _read_checked(name: str, read: NameReader, wells: int | None) -> NameFields:
    # Archives may hold names of any length, and Python refuses to parse numbers with thousands of digits.
    if len(name) > MAX_NAME_CHARACTERS:
        raise BadPlate(f"the name has more than {MAX_NAME_CHARACTERS} characters")
    fields = read(name)
    if wells and fields.well and not fields.well.is_on(wells):
        raise BadPlate(f"{fields.well} is not on a plate of {wells} wells")
    if max(fields.time.hours or 0, fields.time.time_point or 0, fields.site or 0, fields.z or 0) > MAX_NUMBER:
        raise BadPlate("a number in the name is too large to be meant")
    return fields


def _to_positions(
    fields_by_name: dict[str, NameFields], interval_h: float | None
) -> tuple[dict[str, PlatePosition], list[str]]:
    """Convert time points and dates to hours where possible. Return the positions by name, and notes."""
    notes = []
    time_points = {
        name: fields.time.time_point for name, fields in fields_by_name.items() if fields.time.time_point is not None
    }
    first_point = min(time_points.values(), default=0)
    dates: dict[str, set[datetime]] = {}
    for fields in fields_by_name.values():
        if fields.time.date:
            dates.setdefault(fields.plate, set()).add(fields.time.date)
    positions = {}
    for name, fields in fields_by_name.items():
        hours, point, date = fields.time.hours, fields.time.time_point, fields.time.date
        if point is not None and interval_h:
            hours = (point - first_point) * interval_h
        # If all images of a plate have the same date, it is the day of the experiment and not a time within it.
        if date and len(dates[fields.plate]) > 1:
            hours = hours_since(date, min(dates[fields.plate]))
        positions[name] = PlatePosition(
            fields.plate, fields.well, fields.sample, fields.site, hours, point, fields.channel, fields.z
        )
    if len(set(time_points.values())) > 1 and not interval_h:
        notes.append(NOT_IN_HOURS)
    elif time_points and interval_h:
        notes.append(f"time point {first_point} is 0 h, each further one is {format_hours(interval_h)} h later")
    if any(len(of_plate) > 1 for of_plate in dates.values()):
        notes.append("time counts from the first image of each plate")
    return positions, [*notes, *_note_mixed_times(positions.values(), bool(time_points), interval_h)]


def _note_mixed_times(
    positions: Iterable[PlatePosition], has_time_points: bool, interval_h: float | None
) -> list[str]:
    """Return a note if only some names have a time, and one if some have hours and others time points."""
    positions = list(positions)
    notes = []
    untimed = sum(position.time_h is None and position.time_point is None for position in positions)
    if 0 < untimed < len(positions):
        notes.append(f"{untimed} of {len(positions)} {HAVE_NO_TIME}")
    timed = [position for position in positions if position.time_h is not None]
    if len({position.time_point is None for position in timed}) > 1 or (not interval_h and has_time_points and timed):
        notes.append("some times are numbers of time points and some are hours: check that they agree")
    return notes


def _has_only_row_d(preview: Preview) -> bool:
    """Return whether all wells are in row D and no name has a time. D3 may then mean day 3."""
    positions = [position for _, position in preview.placed]
    rows = {position.well.row for position in positions if position.well}
    return rows == {_ROW_D} and all(position.time_h is None and position.time_point is None for position in positions)


def _collect_reasons(previews: Sequence[Preview]) -> tuple[PreviewImage, ...]:
    """Return the images without a position, each with the reasons of the free presets, which accept most names."""
    reasons: dict[str, dict[str, None]] = {}
    for preview in previews:
        if preview.preset in FREE_PRESETS:
            for image in preview.images:
                reasons.setdefault(image.name, {})[image.reason] = None
    return tuple(PreviewImage(name, None, "; ".join(texts)) for name, texts in reasons.items())
