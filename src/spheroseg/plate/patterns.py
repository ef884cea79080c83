"""Names that follow one rule: those of instruments, and a person's own."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spheroseg.errors import BadPlate
from spheroseg.plate.times import HOURS, NEVER, When, find_time, moment_of
from spheroseg.plate.wells import Well, parse_row, parse_well

WORDS = (
    *("plate", "well", "row", "column", "sample", "site", "channel", "z"),
    *("time", "week", "day", "hour", "minute", "year", "month"),
)


@dataclass(frozen=True)
class Fields:
    """What one name says. `sample` tells pictures apart where there is no well."""

    plate: str = ""
    well: Well | None = None
    sample: str = ""
    site: int | None = None
    channel: str = ""
    z: int | None = None
    when: When = NEVER


# Takes the path as people read it; raises BadPlate with the reason.
Reader = Callable[[str], Fields]

# {well}_day{day}: what may stand at the place of a word.
_PLACEHOLDERS = {
    "well": r"[A-Za-z]{1,2}\d{1,3}",
    "row": r"[A-Za-z]{1,2}|\d{1,2}",
    "plate": r"[^/]+?",
    "sample": r"[^/]+?",
    "channel": r"[A-Za-z0-9]+?",
    "day": r"\d+(?:\.\d+)?",
    "hour": r"\d+(?:\.\d+)?",
    "minute": r"\d+(?:\.\d+)?",
    "time": r"\d[0-9A-Za-z.]*?",
}


@dataclass(frozen=True)
class Pattern:
    """Named groups of a regular expression, searched in the path with its folders and its ending."""

    name: str
    expression: re.Pattern[str]
    # What to say of a name that does not follow it.
    otherwise: str

    def read(self, path: str) -> Fields:
        match = self.expression.search(path)
        if not match:
            raise BadPlate(self.otherwise)
        return fields_of({word: text for word, text in match.groupdict().items() if text})


def own_pattern(text: str) -> Pattern:
    """A template such as `{well}_day{day}`, or a regular expression with named groups. Raises BadPlate."""
    placed = re.findall(r"\{([A-Za-z_]+)\}", text)
    source = _of_template(text, placed) if placed else text
    try:
        expression = re.compile(source)
    except re.error as error:
        raise BadPlate(f"the pattern {text!r} is no regular expression: {error}") from None
    groups = set(expression.groupindex)
    if unknown := sorted(groups - set(WORDS)):
        raise BadPlate(f"the pattern names {', '.join(unknown)}; known are {', '.join(WORDS)}")
    if not groups:
        raise BadPlate(
            f"the pattern {text!r} names nothing: write it like {{well}}_t{{time}}, or as a regular expression with "
            "named groups, (?P<well>...); presets are named by `spheroseg plate preview --help`"
        )
    if len(groups & {"row", "column"}) == 1:
        raise BadPlate("the pattern has a row or a column alone: name both, or the well")
    if not groups & {"well", "row", "sample"}:
        raise BadPlate("the pattern says of no picture whose it is: name a well, or row and column, or a sample")
    return Pattern(text, expression, f"does not follow {text}")


def _of_template(text: str, placed: list[str]) -> str:
    if unknown := sorted(set(placed) - set(WORDS)):
        raise BadPlate(f"the pattern names {{{'}, {'.join(unknown)}}}; known are {', '.join(WORDS)}")
    if twice := sorted({word for word in placed if placed.count(word) > 1}):
        raise BadPlate(f"the pattern has {{{twice[0]}}} twice: once is enough, * stands for anything else")
    source = ""
    for piece in re.split(r"(\{[A-Za-z_]+\}|\*)", text):
        word = piece[1:-1]
        if piece == "*":
            source += "[^/]*?"
        elif piece.startswith("{") and word in WORDS:
            source += f"(?P<{word}>{_PLACEHOLDERS.get(word, '[0-9]+')})"
        else:
            source += re.escape(piece)
    # The file name in full, with so many of its folders as the template has.
    return rf"(?:^|/){source}(?:\.[A-Za-z]+)?$"


def fields_of(groups: Mapping[str, str]) -> Fields:
    """Raises BadPlate where a group holds what it cannot mean."""
    well = None
    if "well" in groups:
        well = parse_well(groups["well"])
    elif "row" in groups and "column" in groups:
        well = Well(parse_row(groups["row"]), _whole(groups, "column") - 1)
    return Fields(
        plate=groups.get("plate", "").strip(" _-"),
        well=well,
        sample=groups.get("sample", ""),
        site=_whole(groups, "site") if "site" in groups else None,
        channel=channel_name(groups.get("channel", "")),
        z=_whole(groups, "z") if "z" in groups else None,
        when=_when(groups),
    )


def channel_name(text: str) -> str:
    """01 and 1 are one channel."""
    return str(int(text)) if text.isdecimal() else text


def _when(groups: Mapping[str, str]) -> When:
    if "year" in groups and "month" in groups and "day" in groups:
        moment = moment_of(*(groups.get(word, "") for word in ("year", "month", "day", "hour", "minute")))
        return When(moment=moment)
    units = [unit for unit in HOURS if unit in groups]
    if units:
        return When(hours=sum(_number(groups, unit) * HOURS[unit] for unit in units))
    if "time" not in groups:
        return NEVER
    text = groups["time"]
    if text.isdecimal():
        return When(number=int(text))
    when, _ = find_time(text, bare_days=True)
    if not when:
        raise BadPlate(f"{text!r} is no time: a number of the time point, or like 48h, 2d12h, day2")
    return when


def _whole(groups: Mapping[str, str], word: str) -> int:
    if not groups[word].isdecimal():
        raise BadPlate(f"{word} must be a whole number, not {groups[word]!r}")
    return int(groups[word])


def _number(groups: Mapping[str, str], word: str) -> float:
    try:
        return float(groups[word].replace(",", "."))
    except ValueError:
        raise BadPlate(f"{word} must be a number, not {groups[word]!r}") from None


_WELL = r"(?P<well>[A-P]\d{1,2}|[Q-Z]\d{2}|A[A-F]\d{2})"
_GUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_ENDING = r"\.[A-Za-z]+$"

_imagexpress = Pattern(
    "imagexpress",
    re.compile(
        r"(?:^|/)(?:TimePoint_(?P<time>\d+)/)?(?:ZStep_(?P<z>\d+)/)?(?:(?P<plate>[^/]+)_)?"
        # Without site and wavelength nothing tells such a name from any other.
        rf"{_WELL}(?=_[sw]\d|{_GUID}|_{_GUID})(?:_s(?P<site>\d+))?(?:_w(?P<channel>\d{{1,2}}?))?_?(?:{_GUID})?{_ENDING}",
    ),
    "does not read like plate_B02_s1_w1",
)
_incucyte = Pattern(
    "incucyte",
    re.compile(
        r"(?:^|/)(?:(?P<plate>[^/]+?)_)??"
        r"(?:(?P<channel>(?i:phase|brightfield|bf|green|red|orange|nir))_)?"
        rf"{_WELL}(?:_(?P<site>\d+))?_"
        r"(?:(?P<year>\d{4})y(?P<month>\d\d)m)?(?P<day>\d+)d_?(?P<hour>\d\d)h(?P<minute>\d\d)m(?:\d\ds)?"
        rf"{_ENDING}",
    ),
    "does not read like name_A1_1_2024y01m02d_03h00m or name_A1_1_00d06h00m",
)
_yokogawa = Pattern(
    "yokogawa",
    re.compile(
        rf"(?:^|/)(?:(?P<plate>[^/]+)_)?{_WELL}_"
        rf"T(?P<time>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+){_ENDING}"
    ),
    "does not read like name_A01_T0001F001L01A01Z01C01",
)

INSTRUMENTS: dict[str, Reader] = {pattern.name: pattern.read for pattern in (_imagexpress, _incucyte, _yokogawa)}
