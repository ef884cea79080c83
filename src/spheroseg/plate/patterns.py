"""Reads names by one rule: a preset of an instrument, or a template or regular expression of the user."""

import re
from dataclasses import dataclass

from spheroseg.errors import BadPlate
from spheroseg.plate.name_fields import NameFields, NameReader, parse_groups

GROUP_NAMES = (
    *("plate", "well", "row", "column", "sample", "site", "channel", "z"),
    *("time", "week", "day", "hour", "minute", "year", "month"),
)

# The regular expression of each placeholder of a template such as {well}_day{day}. All others match a whole number.
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
    """A regular expression with named groups, searched in the whole path: folders, name and suffix.

    mismatch: the reason that is reported for a name that does not match.
    """

    name: str
    expression: re.Pattern[str]
    mismatch: str

    def read(self, path: str) -> NameFields:
        """Return the fields of the path. Raise BadPlate if it does not match or a field is not valid."""
        match = self.expression.search(path)
        if not match:
            raise BadPlate(self.mismatch)
        return parse_groups({word: text for word, text in match.groupdict().items() if text})


def compile_pattern(text: str) -> Pattern:
    """Compile a template such as `{well}_day{day}`, or a regular expression with named groups.

    Raises BadPlate with the reason if the text cannot be used.
    """
    placeholders = re.findall(r"\{([A-Za-z_]+)\}", text)
    source = _translate_template(text, placeholders) if placeholders else text
    try:
        expression = re.compile(source)
    except re.error as error:
        raise BadPlate(f"the pattern {text!r} is not a regular expression: {error}") from None
    groups = set(expression.groupindex)
    if unknown := sorted(groups - set(GROUP_NAMES)):
        raise BadPlate(f"the pattern names {', '.join(unknown)}; known are {', '.join(GROUP_NAMES)}")
    if not groups:
        raise BadPlate(
            f"the pattern {text!r} has no placeholder or named group: write it like {{well}}_t{{time}}, or as a "
            "regular expression with named groups, (?P<well>...); `spheroseg plate preview --help` lists the presets"
        )
    if len(groups & {"row", "column"}) == 1:
        raise BadPlate("the pattern has a row or a column alone: name both, or the well")
    if not groups & {"well", "row", "sample"}:
        raise BadPlate("the pattern identifies no well or sample: name a well, or row and column, or a sample")
    return Pattern(text, expression, f"does not follow {text}")


def _translate_template(text: str, placeholders: list[str]) -> str:
    """Return the regular expression of a template."""
    if unknown := sorted(set(placeholders) - set(GROUP_NAMES)):
        raise BadPlate(f"the pattern names {{{'}, {'.join(unknown)}}}; known are {', '.join(GROUP_NAMES)}")
    if twice := sorted({word for word in placeholders if placeholders.count(word) > 1}):
        raise BadPlate(f"the pattern has {{{twice[0]}}} twice: once is enough, * stands for anything else")
    source = ""
    for piece in re.split(r"(\{[A-Za-z_]+\}|\*)", text):
        word = piece[1:-1]
        if piece == "*":
            source += "[^/]*?"
        elif piece.startswith("{") and word in GROUP_NAMES:
            source += f"(?P<{word}>{_PLACEHOLDERS.get(word, '[0-9]+')})"
        else:
            source += re.escape(piece)
    # Match the whole file name, with as many folders as the template has.
    return rf"(?:^|/){source}(?:\.[A-Za-z]+)?$"


_WELL = r"(?P<well>[A-P]\d{1,2}|[Q-Z]\d{2}|A[A-F]\d{2})"
_GUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SUFFIX = r"\.[A-Za-z]+$"

_imagexpress = Pattern(
    "imagexpress",
    re.compile(
        r"(?:^|/)(?:TimePoint_(?P<time>\d+)/)?(?:ZStep_(?P<z>\d+)/)?(?:(?P<plate>[^/]+)_)?"
        # A site, a wavelength or a GUID must follow: a plate and a well alone are not specific to this instrument.
        rf"{_WELL}(?=_[sw]\d|{_GUID}|_{_GUID})"
        rf"(?:_s(?P<site>\d+))?(?:_w(?P<channel>\d{{1,2}}?))?_?(?:{_GUID})?{_SUFFIX}",
    ),
    "is not like plate_B02_s1_w1",
)
_incucyte = Pattern(
    "incucyte",
    re.compile(
        r"(?:^|/)(?:(?P<plate>[^/]+?)_)??"
        r"(?:(?P<channel>(?i:phase|brightfield|bf|green|red|orange|nir))_)?"
        rf"{_WELL}(?:_(?P<site>\d+))?_"
        r"(?:(?P<year>\d{4})y(?P<month>\d\d)m)?(?P<day>\d+)d_?(?P<hour>\d\d)h(?P<minute>\d\d)m(?:\d\ds)?"
        rf"{_SUFFIX}",
    ),
    "is not like name_A1_1_2024y01m02d_03h00m or name_A1_1_00d06h00m",
)
_yokogawa = Pattern(
    "yokogawa",
    re.compile(
        rf"(?:^|/)(?:(?P<plate>[^/]+)_)?{_WELL}_"
        rf"T(?P<time>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+){_SUFFIX}"
    ),
    "is not like name_A01_T0001F001L01A01Z01C01",
)

INSTRUMENTS: dict[str, NameReader] = {pattern.name: pattern.read for pattern in (_imagexpress, _incucyte, _yokogawa)}
