"""Names that people give: a well and words around it, or words alone."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from spheroseg.errors import BadPlate
from spheroseg.plate.patterns import Fields, channel_name
from spheroseg.plate.times import END, NEVER, START, find_time, tells_bare_days
from spheroseg.plate.wells import Well, parse_well

_WELL = re.compile(rf"{START}(well[ _-]*)?([A-Za-z]{{1,2}})(\d{{1,3}}){END}", re.IGNORECASE)
_LAST_ROWS = re.compile(rf"{START}A[A-F]\d\d?{END}", re.IGNORECASE)
# Letters that mean something else too: channel, day, field, hour, plate; site, time point, wavelength, z.
_MORE_MEANINGS = frozenset("CDFHPSTWZ")

_PLATE = re.compile(rf"{START}plate[ _-]*([A-Za-z0-9]+){END}", re.IGNORECASE)
_SITE = re.compile(rf"{START}(?:site|field|fov|pos|position)[ _-]?(\d+){END}", re.IGNORECASE)
_SHORT_SITE = re.compile(rf"{START}[sf](\d+){END}", re.IGNORECASE)
_CHANNEL = re.compile(rf"{START}(?:ch|channel)[ _-]?(\d+){END}", re.IGNORECASE)
_SHORT_CHANNEL = re.compile(rf"{START}[cw](\d+){END}", re.IGNORECASE)
_Z = re.compile(rf"{START}z(?:[ _-]?step|[ _-]?stack|[ _-]?slice)?[ _-]?(\d+){END}", re.IGNORECASE)
# Facts of the camera, and what a file manager adds to a second copy: not whose picture it is.
_OF_NO_SAMPLE = re.compile(rf"\(\d+\)|{START}\d+(?:\.\d+)?(?:x|[ _-]?bit){END}", re.IGNORECASE)
_EDGES = re.compile(r"^[\s_\-.,]+|[\s_\-.,]+$")
_BETWEEN = re.compile(r"([\s_\-.,])[\s_\-.,]+")


class Undecided(BadPlate):
    """Two words read as wells, and nothing in this name says which one it is."""


@dataclass
class Surroundings:
    """What a name alone does not say, but all of them together do."""

    wells: int | None = None
    bare_days: bool = False
    # How many words go before the well, where the names agree.
    position: int | None = None
    positions: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, names: Sequence[str], wells: int | None) -> "Surroundings":
        has_last_rows = any(_LAST_ROWS.search(_stem(name)) for name in names)
        around = cls(wells or (1536 if has_last_rows else None), tells_bare_days(_stem(name) for name in names))
        for name in names:
            try:
                read_plain(name, around)
            except BadPlate:
                continue
        if around.positions:
            around.position = around.positions.most_common(1)[0][0]
        return around


def read_plain(path: str, around: Surroundings) -> Fields:
    """A well, and a time if there is one: A01_t03, B2 day 3, 48h/C05. Raises BadPlate."""
    stem, folders = _stem(path), _folders(path)
    chosen = _choose_well(stem, around)
    if chosen:
        well, stem = chosen
    else:
        folder = next((folder for folder in reversed(folders) if _whole_well(folder, around)), None)
        if folder is None:
            raise BadPlate("no well in the name")
        folders.remove(folder)
        well = parse_well(_whole_well(folder, around))
    found, rest = _words(stem, around)
    found = replace(found, well=well)
    site, channel = _SHORT_SITE.search(rest), _SHORT_CHANNEL.search(rest)
    if site and found.site is None:
        found = replace(found, site=int(site[1]))
    if channel and not found.channel:
        found = replace(found, channel=channel_name(channel[1]))
    return _with_folders(found, folders, around)


def read_words(path: str, around: Surroundings) -> Fields:
    """A time in words, and no well: 1_day2_10x, spheroid 3 48h. What is left names the sample. Raises BadPlate."""
    found, rest = _words(_stem(path), around)
    found = _with_folders(found, _folders(path), around)
    if not found.when:
        raise BadPlate("no time in the name")
    rest = _BETWEEN.sub(r"\1", _OF_NO_SAMPLE.sub(" ", rest).replace("_ ", "_").replace(" _", "_"))
    sample = _EDGES.sub("", rest)
    # A folder for each spheroid, and in it nothing but times.
    return replace(found, sample=sample) if sample else replace(found, sample=found.plate, plate="")


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _folders(path: str) -> list[str]:
    return [re.sub(r"\.zip$", "", part, flags=re.IGNORECASE) for part in PurePosixPath(path).parts[:-1]]


def _words(text: str, around: Surroundings) -> tuple[Fields, str]:
    when, rest = find_time(text, bare_days=around.bare_days)
    taken = {}
    for word, expression in (("plate", _PLATE), ("site", _SITE), ("channel", _CHANNEL), ("z", _Z)):
        match = expression.search(rest)
        if match:
            taken[word] = match[1]
            rest = rest.replace(match[0], " ", 1)
    return Fields(
        plate=taken.get("plate", ""),
        site=int(taken["site"]) if "site" in taken else None,
        channel=channel_name(taken.get("channel", "")),
        z=int(taken["z"]) if "z" in taken else None,
        when=when,
    ), rest


def _with_folders(found: Fields, folders: Iterable[str], around: Surroundings) -> Fields:
    """What the name does not say, the folders may, the nearest first; those that say nothing name the plate."""
    left = []
    plate, when = found.plate, found.when
    for folder in reversed(list(folders)):
        of_folder, _ = _words(folder, around)
        # A date is when somebody made the folder, as long as there is a better time.
        is_time = bool(of_folder.when) and not when
        when = of_folder.when if is_time else when
        plate = plate or of_folder.plate
        if not is_time and not of_folder.plate:
            left.append(folder)
    return replace(found, plate=plate or "/".join(reversed(left)), when=when if when else NEVER)


def _whole_well(folder: str, around: Surroundings) -> str:
    match = _WELL.fullmatch(folder)
    text = f"{match[2]}{match[3]}" if match else ""
    return text if text and _is_on_plate(text, around) else ""


def _is_on_plate(text: str, around: Surroundings) -> bool:
    try:
        return parse_well(text).is_on(around.wells or 384)
    except BadPlate:
        return False


def _choose_well(stem: str, around: Surroundings) -> tuple[Well, str] | None:
    """The well, and the rest of the name. None: there is none. Raises Undecided."""
    found = [match for match in _WELL.finditer(stem) if _is_on_plate(match[2] + match[3], around)]
    usual = [match for match in found if parse_well(match[2] + match[3]).is_on(384)]
    match = _decide([match for match in found if match[1]] or usual or found, stem, around)
    if match is None:
        return None
    return parse_well(match[2] + match[3]), f"{stem[: match.start()]} {stem[match.end() :]}"


def _decide(found: list[re.Match[str]], stem: str, around: Surroundings) -> re.Match[str] | None:
    plain = [match for match in found if match[2].upper() not in _MORE_MEANINGS]
    candidates = plain or found
    capitals = [match for match in candidates if match[2].isupper()]
    if len(candidates) > 1 and len(capitals) == 1:
        candidates = capitals
    if len(candidates) == 1:
        if plain:
            around.positions[_position(stem, candidates[0])] += 1
        return candidates[0]
    for match in found:
        if _position(stem, match) == around.position:
            return match
    if candidates:
        names = " or ".join(match[2] + match[3] for match in candidates)
        raise Undecided(f"which one is the well, {names}? Say so with a pattern")
    return None


def _position(stem: str, match: re.Match[str]) -> int:
    return len(re.findall(r"[A-Za-z0-9]+", stem[: match.start()]))
