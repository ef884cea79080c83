"""Times as people and microscopes write them into names: day2, 48h, 2d12h30m, t03, 2024-01-02."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from spheroseg.errors import BadPlate

HOURS = {"week": 168.0, "day": 24.0, "hour": 1.0, "minute": 1 / 60}

START = r"(?<![A-Za-z0-9])(?<!\d\.)"
END = r"(?!\.?[0-9])(?![A-Za-z])"
_N = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class When:
    """What one name says of its time: hours, or a number of the time point, or a moment; nothing is a time too."""

    hours: float | None = None
    number: int | None = None
    moment: datetime | None = None

    def __bool__(self) -> bool:
        return (self.hours, self.number, self.moment) != (None, None, None)


NEVER = When()

# A unit before its number. Single letters last: in a name with a well they have more than one meaning.
_BEFORE = [
    (re.compile(rf"{START}{word}{END}", re.IGNORECASE), unit)
    for word, unit in (
        (rf"(?:week|wk)[ _-]*({_N})", "week"),
        (rf"day[ _-]*\+?({_N})", "day"),
        (rf"(?:hour|hr)[ _-]*({_N})", "hour"),
        (rf"(?:minute|min)[ _-]*({_N})", "minute"),
        (rf"d\+?({_N})", "day"),
        (rf"h({_N})", "hour"),
    )
]
# `3D` is a way to grow cells; as a time it is written small, if at all.
_AFTER = re.compile(
    rf"{START}(?:t=?|time[ _-]?)?(?=\d)"
    rf"(?:({_N})[ -]?(?:weeks?|wks?))?"
    rf"(?:({_N})(?:(?-i:d)|[ -]?days?))?"
    rf"(?:({_N})[ -]?(?:h|hrs?|hours?))?"
    rf"(?:({_N})(?:(?<=[dhDH]\d)m|(?<=[dhDH]\d\d)m|[ -]?(?:mins?|minutes?)))?{END}",
    re.IGNORECASE,
)
_NUMBER = re.compile(rf"{START}(?:t|tp|time|time[ _-]?point|frame)[ _=-]?(\d+){END}", re.IGNORECASE)
_MOMENT = re.compile(
    rf"{START}((?:19|20)\d\d)(?:y(\d\d)m(\d\d)d|([-_.]?)(\d\d)\4(\d\d))"
    rf"(?:[ T_-]?(\d\d)(?:h|[-:.]?)(\d\d)(?:m|[-:.]?(\d\d))?)?{END}"
)
_BARE_DAYS = re.compile(rf"{START}(\d+)d{END}")
_DIMENSIONS = ("2", "3")


def tells_bare_days(names: Iterable[str]) -> bool:
    """Whether `3d` is a day in these names, because there is a `4d` too; alone, 2d and 3d are dimensions."""
    return any(number not in _DIMENSIONS for name in names for number in _BARE_DAYS.findall(name))


def find_time(text: str, *, bare_days: bool) -> tuple[When, str]:
    """The time in `text`, and `text` without it. Raises BadPlate where there are two that contradict each other."""
    # A date is as a rule when the experiment began: it counts only where there is nothing better.
    moment, rest = _find_moment(text)
    parts: list[tuple[str, float]] = []
    for expression, unit in _BEFORE:
        parts += [(unit, float(number)) for number in expression.findall(rest)]
        rest = expression.sub(" ", rest)
    for match in list(_AFTER.finditer(rest)):
        if any(match.groups()) and (bare_days or not _is_dimension(match)):
            parts += [(unit, float(n)) for unit, n in zip(HOURS, match.groups(), strict=True) if n]
            rest = rest.replace(match[0], " ", 1)
    if parts:
        return When(hours=_added(parts)), rest
    numbers = {int(number) for number in _NUMBER.findall(rest)}
    if len(numbers) > 1:
        raise BadPlate(f"two time points in one name: {' and '.join(map(str, sorted(numbers)))}")
    if numbers:
        return When(number=numbers.pop()), _NUMBER.sub(" ", rest)
    return (When(moment=moment) if moment else NEVER), rest


def _find_moment(text: str) -> tuple[datetime | None, str]:
    for match in _MOMENT.finditer(text):
        year, *marked, _, plain_month, plain_day, hour, minute, second = match.groups()
        month, day = marked if marked[0] else (plain_month, plain_day)
        try:
            moment = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
        except ValueError:
            # Eight digits are not always a date.
            continue
        return moment, text.replace(match[0], " ", 1)
    return None, text


def moment_of(year: str, month: str, day: str, hour: str, minute: str) -> datetime:
    """Raises BadPlate for a date that does not exist."""
    try:
        return datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0))
    except ValueError:
        raise BadPlate(f"there is no date {year}-{month}-{day} {hour or 0}:{minute or 0}") from None


def hours_since(moment: datetime, first: datetime) -> float:
    return (moment - first) / timedelta(hours=1)


def as_text(hours: float) -> str:
    """Hours for people: 1.5, 48."""
    return f"{hours:.6g}"


def _is_dimension(match: re.Match[str]) -> bool:
    weeks, days, hours, minutes = match.groups()
    return days in _DIMENSIONS and not (weeks or hours or minutes) and match[0].endswith(f"{days}d")


def _added(parts: list[tuple[str, float]]) -> float:
    """Day 2 and 48 h are the same; day 2 and 6 h are 54 h; day 2 and 30 h, or day 2 and day 3, contradict."""
    by_unit: dict[str, float] = {}
    for unit, amount in parts:
        if by_unit.setdefault(unit, amount) != amount:
            raise BadPlate(
                f"two times in one name: {unit} {as_text(by_unit[unit])} and {unit} {as_text(amount)}; "
                "say with a pattern which one counts"
            )
    hours = [amount * HOURS[unit] for unit, amount in by_unit.items()]
    if len({round(amount, 9) for amount in hours}) == 1:
        return hours[0]
    units = [unit for unit in HOURS if unit in by_unit]
    for larger, smaller in pairwise(units):
        if by_unit[smaller] * HOURS[smaller] >= HOURS[larger]:
            raise BadPlate(
                f"two times in one name: {larger} {as_text(by_unit[larger])} and {smaller} "
                f"{as_text(by_unit[smaller])}; say with a pattern which one counts"
            )
    return sum(hours)
