"""Reads file names without a fixed format: a well with words around it, or words alone."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from spheroseg.errors import BadPlate
from spheroseg.plate.name_fields import NameFields, normalise_channel
from spheroseg.plate.times import NO_TIME, WORD_END, WORD_START, find_time, has_bare_days
from spheroseg.plate.wells import Well, parse_well

_WELL = re.compile(rf"{WORD_START}(well[ _-]*)?([A-Za-z]{{1,2}})(\d{{1,3}}){WORD_END}", re.IGNORECASE)
_LAST_ROWS = re.compile(rf"{WORD_START}A[A-F]\d\d?{WORD_END}", re.IGNORECASE)
# Letters that may be a row but also mean channel, day, field, hour, plate, site, time point, wavelength or z.
_AMBIGUOUS_ROWS = frozenset("CDFHPSTWZ")

_PLATE = re.compile(rf"{WORD_START}plate[ _-]*([A-Za-z0-9]+){WORD_END}", re.IGNORECASE)
_SITE = re.compile(rf"{WORD_START}(?:site|field|fov|pos|position)[ _-]?(\d+){WORD_END}", re.IGNORECASE)
_SHORT_SITE = re.compile(rf"{WORD_START}[sf](\d+){WORD_END}", re.IGNORECASE)
_CHANNEL = re.compile(rf"{WORD_START}(?:ch|channel)[ _-]?(\d+){WORD_END}", re.IGNORECASE)
_SHORT_CHANNEL = re.compile(rf"{WORD_START}[cw](\d+){WORD_END}", re.IGNORECASE)
_Z = re.compile(rf"{WORD_START}z(?:[ _-]?step|[ _-]?stack|[ _-]?slice)?[ _-]?(\d+){WORD_END}", re.IGNORECASE)
# Not part of a sample name: magnification, bit depth, and the (2) that a file manager adds to a copy.
_NOT_SAMPLE = re.compile(rf"\(\d+\)|{WORD_START}\d+(?:\.\d+)?(?:x|[ _-]?bit){WORD_END}", re.IGNORECASE)
_SEPARATORS_AT_ENDS = re.compile(r"^[\s_\-.,]+|[\s_\-.,]+$")
_REPEATED_SEPARATORS = re.compile(r"([\s_\-.,])[\s_\-.,]+")


class AmbiguousWell(BadPlate):
    """Two words of a name may be the well, and nothing shows which one is."""


@dataclass
class FolderContext:
    """Facts that follow only from all names of a folder together.

    wells: the number of wells of the plate, if known. bare_days: whether 2d and 3d are days.
    word_index: the usual number of words before the well. word_index_counts: the number of names with each number of
    words before the well.
    """

    wells: int | None = None
    bare_days: bool = False
    word_index: int | None = None
    word_index_counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def from_names(cls, names: Sequence[str], wells: int | None) -> "FolderContext":
        """Read all names once, and count the words before the well in the names in which the well is certain."""
        has_last_rows = any(_LAST_ROWS.search(_stem(name)) for name in names)
        context = cls(wells or (1536 if has_last_rows else None), has_bare_days(_stem(name) for name in names))
        for name in names:
            try:
                read_plain(name, context)
            except BadPlate:
                continue
        if context.word_index_counts:
            context.word_index = context.word_index_counts.most_common(1)[0][0]
        return context


def read_plain(path: str, context: FolderContext) -> NameFields:
    """Read a well, and a time if there is one: A01_t03, B2 day 3, 48h/C05. This is the preset "plain".

    Raises BadPlate if there is no well, or if several words may be the well.
    """
    stem, folders = _stem(path), _folders(path)
    well_and_rest = _choose_well(stem, context)
    if well_and_rest:
        well, stem = well_and_rest
    else:
        folder = next((folder for folder in reversed(folders) if _read_well_folder(folder, context)), None)
        if folder is None:
            raise BadPlate("no well in the name")
        folders.remove(folder)
        well = parse_well(_read_well_folder(folder, context))
    fields, rest = _read_keywords(stem, context)
    fields = replace(fields, well=well)
    site, channel = _SHORT_SITE.search(rest), _SHORT_CHANNEL.search(rest)
    if site and fields.site is None:
        fields = replace(fields, site=int(site[1]))
    if channel and not fields.channel:
        fields = replace(fields, channel=normalise_channel(channel[1]))
    return _complete_from_folders(fields, folders, context)


def read_words(path: str, context: FolderContext) -> NameFields:
    """Read a time, and the rest of the name as the sample: 1_day2_10x, spheroid 3 48h. This is the preset "words".

    Raises BadPlate if there is no time.
    """
    fields, rest = _read_keywords(_stem(path), context)
    fields = _complete_from_folders(fields, _folders(path), context)
    if not fields.time:
        raise BadPlate("no time in the name")
    rest = _REPEATED_SEPARATORS.sub(r"\1", _NOT_SAMPLE.sub(" ", rest).replace("_ ", "_").replace(" _", "_"))
    sample = _SEPARATORS_AT_ENDS.sub("", rest)
    # If the name has no sample, each spheroid has its own folder, with one file per time.
    return replace(fields, sample=sample) if sample else replace(fields, sample=fields.plate, plate="")


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _folders(path: str) -> list[str]:
    return [re.sub(r"\.zip$", "", part, flags=re.IGNORECASE) for part in PurePosixPath(path).parts[:-1]]


def _read_keywords(text: str, context: FolderContext) -> tuple[NameFields, str]:
    """Return the time, plate, site, channel and z that the text names by keywords, and the rest of the text."""
    time, rest = find_time(text, bare_days=context.bare_days)
    taken = {}
    for word, expression in (("plate", _PLATE), ("site", _SITE), ("channel", _CHANNEL), ("z", _Z)):
        match = expression.search(rest)
        if match:
            taken[word] = match[1]
            rest = rest.replace(match[0], " ", 1)
    return NameFields(
        plate=taken.get("plate", ""),
        site=int(taken["site"]) if "site" in taken else None,
        channel=normalise_channel(taken.get("channel", "")),
        z=int(taken["z"]) if "z" in taken else None,
        time=time,
    ), rest


def _complete_from_folders(fields: NameFields, folders: Iterable[str], context: FolderContext) -> NameFields:
    """Add a missing time and plate from the names of the folders, the nearest folder first.

    If no folder has the word plate, the folders without a time make up the name of the plate.
    """
    left = []
    plate, time = fields.plate, fields.time
    for folder in reversed(list(folders)):
        folder_fields, _ = _read_keywords(folder, context)
        # If the name has a time, a date in the name of a folder is only the day on which the folder was made.
        is_time = bool(folder_fields.time) and not time
        time = folder_fields.time if is_time else time
        plate = plate or folder_fields.plate
        if not is_time and not folder_fields.plate:
            left.append(folder)
    return replace(fields, plate=plate or "/".join(reversed(left)), time=time if time else NO_TIME)


def _read_well_folder(folder: str, context: FolderContext) -> str:
    """Return the well that the folder is named after, or ""."""
    match = _WELL.fullmatch(folder)
    text = f"{match[2]}{match[3]}" if match else ""
    return text if text and _is_on_plate(text, context) else ""


def _is_on_plate(text: str, context: FolderContext) -> bool:
    try:
        return parse_well(text).is_on(context.wells or 384)
    except BadPlate:
        return False


def _choose_well(stem: str, context: FolderContext) -> tuple[Well, str] | None:
    """Return the well and the rest of the name, or None if there is no well. Raises AmbiguousWell."""
    wells = [match for match in _WELL.finditer(stem) if _is_on_plate(match[2] + match[3], context)]
    usual = [match for match in wells if parse_well(match[2] + match[3]).is_on(384)]
    match = _decide([match for match in wells if match[1]] or usual or wells, stem, context)
    if match is None:
        return None
    return parse_well(match[2] + match[3]), f"{stem[: match.start()]} {stem[match.end() :]}"


def _decide(wells: list[re.Match[str]], stem: str, context: FolderContext) -> re.Match[str] | None:
    """Return the match that is the well. If it is certain, count its word index in the context."""
    unambiguous = [match for match in wells if match[2].upper() not in _AMBIGUOUS_ROWS]
    candidates = unambiguous or wells
    capitals = [match for match in candidates if match[2].isupper()]
    if len(candidates) > 1 and len(capitals) == 1:
        candidates = capitals
    if len(candidates) == 1:
        if unambiguous:
            context.word_index_counts[_word_index(stem, candidates[0])] += 1
        return candidates[0]
    for match in wells:
        if _word_index(stem, match) == context.word_index:
            return match
    if candidates:
        names = " or ".join(match[2] + match[3] for match in candidates)
        raise AmbiguousWell(f"which one is the well, {names}? Say so with a pattern")
    return None


def _word_index(stem: str, match: re.Match[str]) -> int:
    """Return the number of words before the match."""
    return len(re.findall(r"[A-Za-z0-9]+", stem[: match.start()]))
