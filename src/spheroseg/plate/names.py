"""Where each picture belongs, by its name: plate, well, site, time, channel, z."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from spheroseg.errors import BadPlate
from spheroseg.plate.conditions import NO_CONDITION, Condition
from spheroseg.plate.patterns import INSTRUMENTS, Fields, Reader, own_pattern
from spheroseg.plate.times import as_text, hours_since
from spheroseg.plate.wells import PLATES, Well, smallest_plate
from spheroseg.plate.words import Surroundings, read_plain, read_words

AUTO = "auto"
MOST_CHARACTERS = 2000
MOST = 1_000_000_000
# Where two read a folder alike, the first wins.
PRESETS = (*INSTRUMENTS, "plain", "words")


@dataclass(frozen=True)
class Place:
    """What one picture shows. `sample` stands for the well where there is none; `time_point` is a number in the
    name, `time_h` hours since the beginning. None and "": the name does not tell."""

    plate: str = ""
    well: Well | None = None
    sample: str = ""
    site: int | None = None
    time_h: float | None = None
    time_point: int | None = None
    channel: str = ""
    z: int | None = None

    @property
    def label(self) -> str:
        """What one curve is of: the well, or else the sample."""
        return self.well.name if self.well else self.sample


@dataclass(frozen=True)
class Picture:
    """A name, and its place or the reason why it has none."""

    name: str
    place: Place | None
    reason: str = ""
    condition: Condition = NO_CONDITION


@dataclass(frozen=True)
class Preview:
    """`preset` is the one that was used, or the pattern. `notes` are sentences that a person should read."""

    preset: str
    pictures: tuple[Picture, ...]
    is_guessed: bool = False
    wells: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def placed(self) -> list[tuple[Picture, Place]]:
        return [(picture, picture.place) for picture in self.pictures if picture.place]

    @property
    def failed(self) -> list[Picture]:
        return [picture for picture in self.pictures if not picture.place]

    @property
    def clashes(self) -> list[list[str]]:
        """Names that claim the same place: same plate, well, site, time, channel and z."""
        groups: dict[Place, list[str]] = {}
        for picture, place in self.placed:
            groups.setdefault(place, []).append(picture.name)
        return [names for names in groups.values() if len(names) > 1]

    def wells_of(self, plate: str) -> Counter[Well]:
        """How many pictures each well has."""
        return Counter(place.well for _, place in self.placed if place.plate == plate and place.well)

    @property
    def plates(self) -> dict[str, int]:
        """The plates that have wells, and how many wells the smallest plate has that they fit on."""
        names = sorted({place.plate for _, place in self.placed if place.well})
        return {name: self.wells or smallest_plate(self.wells_of(name)) for name in names}


def parse(
    names: Iterable[str], pattern: str = AUTO, *, wells: int | None = None, interval_h: float | None = None
) -> Preview:
    """Read every name by one rule.

    names: paths as people read them, with / between folders.
    pattern: a preset, a template such as {well}_t{time}, a regular expression with named groups, or auto, the preset
    that gives the most names a place of their own.
    wells: of the plate, if known: a well that it does not have is a reason.
    interval_h: hours between numbered time points; the lowest number is 0 h.
    Raises BadPlate for a pattern that cannot be used.
    """
    names = list(dict.fromkeys(names))
    if wells is not None and wells not in PLATES:
        raise BadPlate(f"there are no plates of {wells} wells here: {', '.join(map(str, PLATES))}")
    if interval_h is not None and not 0 < interval_h < float("inf"):
        raise BadPlate("the hours between time points must be a positive number")
    around = Surroundings.of([name for name in names if len(name) <= MOST_CHARACTERS], wells)
    readers: dict[str, Reader] = {
        **INSTRUMENTS,
        "plain": partial(read_plain, around=around),
        "words": partial(read_words, around=around),
    }
    readers = {name: partial(_read_no_thumbnail, read) for name, read in readers.items()}
    if pattern != AUTO:
        read = readers.get(pattern) or own_pattern(pattern).read
        return _preview(names, pattern, read, wells, interval_h)
    previews = [_preview(names, name, readers[name], wells, interval_h) for name in PRESETS]
    *with_wells, words = previews
    best = max(with_wells, key=_distinct)
    # A well is also a word: names that no other rule reads speak for words, and days that a small d makes.
    are_days = best.preset == "plain" and _look_like_days(best) and not any("D" in name for name in names)
    if len(words.placed) > len(best.placed) - are_days:
        best = words
    if not best.placed:
        return replace(best, preset="", is_guessed=True, pictures=_with_all_reasons(previews))
    return replace(best, is_guessed=True)


def _read_no_thumbnail(read: Reader, path: str) -> Fields:
    # ImageXpress lays one beside every picture.
    if "_thumb" in path.rpartition("/")[2].lower():
        raise BadPlate("a thumbnail: leave it out")
    return read(path)


def _distinct(preview: Preview) -> int:
    return len({place for _, place in preview.placed})


def _preview(
    names: Sequence[str], preset: str, read: Callable[[str], Fields], wells: int | None, interval_h: float | None
) -> Preview:
    found: dict[str, Fields] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            found[name] = _checked(name, read, wells)
        except BadPlate as error:
            reasons[name] = str(error)
    places, notes = _in_hours(found, interval_h)
    pictures = tuple(Picture(name, places.get(name), reasons.get(name, "")) for name in names)
    preview = Preview(preset, pictures, wells=wells, notes=tuple(notes))
    if preset == "plain" and _look_like_days(preview):
        note = "every well is in row D: if D3 means day 3, use --pattern words"
        return replace(preview, notes=(*notes, note))
    return preview


def _checked(name: str, read: Reader, wells: int | None) -> Fields:
    # Archives may hold names of any length; Python refuses to read numbers of thousands of digits.
    if len(name) > MOST_CHARACTERS:
        raise BadPlate(f"a name of more than {MOST_CHARACTERS} characters")
    fields = read(name)
    if wells and fields.well and not fields.well.is_on(wells):
        raise BadPlate(f"{fields.well} is not on a plate of {wells} wells")
    if max(fields.when.hours or 0, fields.when.number or 0, fields.site or 0, fields.z or 0) > MOST:
        raise BadPlate("a number in the name is too large to be meant")
    return fields


def _in_hours(found: dict[str, Fields], interval_h: float | None) -> tuple[dict[str, Place], list[str]]:
    """Numbers and moments become hours, as far as they can: that takes all names together."""
    notes = []
    numbers = {name: fields.when.number for name, fields in found.items() if fields.when.number is not None}
    first_number = min(numbers.values(), default=0)
    moments: dict[str, set[datetime]] = {}
    for fields in found.values():
        if fields.when.moment:
            moments.setdefault(fields.plate, set()).add(fields.when.moment)
    places = {}
    for name, fields in found.items():
        hours, number, moment = fields.when.hours, fields.when.number, fields.when.moment
        if number is not None and interval_h:
            hours = (number - first_number) * interval_h
        # One date on all pictures of a plate is the day of the experiment and no time in it.
        if moment and len(moments[fields.plate]) > 1:
            hours = hours_since(moment, min(moments[fields.plate]))
        places[name] = Place(
            fields.plate, fields.well, fields.sample, fields.site, hours, number, fields.channel, fields.z
        )
    if len(set(numbers.values())) > 1 and not interval_h:
        notes.append("time points are numbered, not in hours: say how many hours lie between them (--interval)")
    elif numbers and interval_h:
        notes.append(f"time point {first_number} is 0 h, one more is {as_text(interval_h)} h more")
    if any(len(of_plate) > 1 for of_plate in moments.values()):
        notes.append("time counts from the first picture of each plate")
    untimed = sum(place.time_h is None and place.time_point is None for place in places.values())
    if 0 < untimed < len(places):
        notes.append(f"{untimed} of {len(places)} names tell no time, the others do")
    if len({place.time_point is None for place in places.values() if place.time_h is not None}) > 1 or (
        not interval_h and numbers and any(place.time_h is not None for place in places.values())
    ):
        notes.append("some times are numbers of time points and some are hours: check that they agree")
    return places, notes


def _look_like_days(preview: Preview) -> bool:
    places = [place for _, place in preview.placed]
    rows = {place.well.row for place in places if place.well}
    return rows == {3} and all(place.time_h is None and place.time_point is None for place in places)


def _with_all_reasons(previews: Sequence[Preview]) -> tuple[Picture, ...]:
    """Of every preset's reasons those of the presets for people, which ask for least."""
    by_name = {
        name: "; ".join(dict.fromkeys(reasons))
        for name, *reasons in zip(
            [picture.name for picture in previews[0].pictures],
            *(
                [picture.reason for picture in preview.pictures]
                for preview in previews
                if preview.preset in PRESETS[3:]
            ),
            strict=True,
        )
    }
    return tuple(Picture(name, None, reason) for name, reason in by_name.items())
