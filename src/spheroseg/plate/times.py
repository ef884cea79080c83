"""Finds times in file names as people and microscopes write them: day2, 48h, 2d12h30m, t03, 2024-01-02."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from spheroseg.errors import BadPlate

HOURS_PER_UNIT = {"week": 168.0, "day": 24.0, "hour": 1.0, "minute": 1 / 60}

# The beginning and the end of a word of a name.
WORD_START = r"(?<![A-Za-z0-9])(?<!\d\.)"
WORD_END = r"(?!\.?[0-9])(?![A-Za-z])"
_N = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class NameTime:
    """The time in one name: hours, or the number of a time point, or a date with or without time of day.

    All three are None if the name has no time. The object is then false.
    """

    hours: float | None = None
    time_point: int | None = None
    date: datetime | None = None

    def __bool__(self) -> bool:
        return (self.hours, self.time_point, self.date) != (None, None, None)


NO_TIME = NameTime()

# Units before their numbers. Single letters come last, because they may also be the row of a well.
_UNIT_FIRST = [
    (re.compile(rf"{WORD_START}{word}{WORD_END}", re.IGNORECASE), unit)
    for word, unit in (
        (rf"(?:week|wk)[ _-]*({_N})", "week"),
        (rf"day[ _-]*\+?({_N})", "day"),
        (rf"(?:hour|hr)[ _-]*({_N})", "hour"),
        (rf"(?:minute|min)[ _-]*({_N})", "minute"),
        (rf"d\+?({_N})", "day"),
        (rf"h({_N})", "hour"),
    )
]
# Numbers before their units. Only a lower-case d is a day, because `3D` is a way to grow cells.
_NUMBER_FIRST = re.compile(
    rf"{WORD_START}(?:t=?|time[ _-]?)?(?=\d)"
    rf"(?:({_N})[ -]?(?:weeks?|wks?))?"
    rf"(?:({_N})(?:(?-i:d)|[ -]?days?))?"
    rf"(?:({_N})[ -]?(?:h|hrs?|hours?))?"
    rf"(?:({_N})(?:(?<=[dhDH]\d)m|(?<=[dhDH]\d\d)m|[ -]?(?:mins?|minutes?)))?{WORD_END}",
    re.IGNORECASE,
)
_TIME_POINT = re.compile(rf"{WORD_START}(?:t|tp|time|time[ _-]?point|frame)[ _=-]?(\d+){WORD_END}", re.IGNORECASE)
_DATE = re.compile(
    rf"{WORD_START}((?:19|20)\d\d)(?:y(\d\d)m(\d\d)d|([-_.]?)(\d\d)\4(\d\d))"
    rf"(?:[ T_-]?(\d\d)(?:h|[-:.]?)(\d\d)(?:m|[-:.]?(\d\d))?)?{WORD_END}"
)
_BARE_DAYS = re.compile(rf"{WORD_START}(\d+)d{WORD_END}")
_DIMENSIONS = ("2", "3")


def has_bare_days(names: Iterable[str]) -> bool:
    """Return whether 2d and 3d mean days in these names, because some have 4d or the like, and not dimensions."""
    return any(number not in _DIMENSIONS for name in names for number in _BARE_DAYS.findall(name))


def find_time(text: str, *, bare_days: bool) -> tuple[NameTime, str]:
    """Return the time in `text`, and `text` without it.

    bare_days: whether 2d and 3d are days and not dimensions.
    Raises BadPlate if two times in the text contradict each other.
    """
    # A date is usually the beginning of the experiment, so it is used only if there is no other time.
    date, rest = _find_date(text)
    parts: list[tuple[str, float]] = []
    for expression, unit in _UNIT_FIRST:
        parts += [(unit, float(number)) for number in expression.findall(rest)]
        rest = expression.sub(" ", rest)
    for match in list(_NUMBER_FIRST.finditer(rest)):
        if any(match.groups()) and (bare_days or not _is_dimension(match)):
            parts += [(unit, float(n)) for unit, n in zip(HOURS_PER_UNIT, match.groups(), strict=True) if n]
            rest = rest.replace(match[0], " ", 1)
    if parts:
        return NameTime(hours=_add_parts(parts)), rest
    time_points = {int(number) for number in _TIME_POINT.findall(rest)}
    if len(time_points) > 1:
        raise BadPlate(f"two time points in one name: {' and '.join(map(str, sorted(time_points)))}")
    if time_points:
        return NameTime(time_point=time_points.pop()), _TIME_POINT.sub(" ", rest)
    return (NameTime(date=date) if date else NO_TIME), rest


def _find_date(text: str) -> tuple[datetime | None, str]:
    for match in _DATE.finditer(text):
        year, *marked, _, plain_month, plain_day, hour, minute, second = match.groups()
        month, day = marked if marked[0] else (plain_month, plain_day)
        try:
            date = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
        except ValueError:
            # Not every number of eight digits is a date.
            continue
        return date, text.replace(match[0], " ", 1)
    return None, text


def parse_date(year: str, month: str, day: str, hour: str, minute: str) -> datetime:
    """Return the date. An empty hour or minute is 0. Raises BadPlate if the date does not exist."""
    try:
        return datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0))
    except ValueError:
        raise BadPlate(f"there is no date {year}-{month}-{day} {hour or 0}:{minute or 0}") from None


def hours_since(date: datetime, first: datetime) -> float:
    """Return the hours from `first` to `date`."""
    return (date - first) / timedelta(hours=1)


def format_hours(hours: float) -> str:
    """Return hours as people write them, without a unit: 1.5, 48."""
    return f"{hours:.6g}"


def _is_dimension(match: re.Match[str]) -> bool:
    weeks, days, hours, minutes = match.groups()
    return days in _DIMENSIONS and not (weeks or hours or minutes) and match[0].endswith(f"{days}d")


def _add_parts(parts: list[tuple[str, float]]) -> float:
    """Return the hours of (unit, amount) pairs.

    Day 2 and 48 h are the same time. Day 2 and 6 h are 54 h. Raises BadPlate for day 2 and 30 h, and for day 2 and
    day 3, which contradict each other.
    """
    by_unit: dict[str, float] = {}
    for unit, amount in parts:
        if by_unit.setdefault(unit, amount) != amount:
            raise BadPlate(
                f"two times in one name: {unit} {format_hours(by_unit[unit])} and {unit} {format_hours(amount)}; "
                "use a pattern to say which one counts"
            )
    hours = [amount * HOURS_PER_UNIT[unit] for unit, amount in by_unit.items()]
    if len({round(amount, 9) for amount in hours}) == 1:
        return hours[0]
    units = [unit for unit in HOURS_PER_UNIT if unit in by_unit]
    for larger, smaller in pairwise(units):
        if by_unit[smaller] * HOURS_PER_UNIT[smaller] >= HOURS_PER_UNIT[larger]:
            raise BadPlate(
                f"two times in one name: {larger} {format_hours(by_unit[larger])} and {smaller} "
                f"{format_hours(by_unit[smaller])}; use a pattern to say which one counts"
            )
    return sum(hours)
