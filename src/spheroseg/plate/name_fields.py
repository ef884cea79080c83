"""The fields of one file name: the common result of all ways to read a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spheroseg.errors import BadPlate
from spheroseg.plate.times import HOURS_PER_UNIT, NO_TIME, NameTime, find_time, parse_date
from spheroseg.plate.wells import Well, parse_row, parse_well


@dataclass(frozen=True)
class NameFields:
    """The fields of one name. None and "" mean that the name does not have the field.

    sample: identifies the spheroid if there is no well.
    """

    plate: str = ""
    well: Well | None = None
    sample: str = ""
    site: int | None = None
    channel: str = ""
    z: int | None = None
    time: NameTime = NO_TIME


# A function that reads the displayed path of an image. It raises BadPlate with the reason if it cannot.
NameReader = Callable[[str], NameFields]


def parse_groups(groups: Mapping[str, str]) -> NameFields:
    """Convert the texts of named groups, such as {"well": "A1", "day": "2"}, to fields.

    Raises BadPlate if a text is not valid for its group.
    """
    well = None
    if "well" in groups:
        well = parse_well(groups["well"])
    elif "row" in groups and "column" in groups:
        well = Well(parse_row(groups["row"]), _parse_whole(groups, "column") - 1)
    return NameFields(
        plate=groups.get("plate", "").strip(" _-"),
        well=well,
        sample=groups.get("sample", ""),
        site=_parse_whole(groups, "site") if "site" in groups else None,
        channel=normalise_channel(groups.get("channel", "")),
        z=_parse_whole(groups, "z") if "z" in groups else None,
        time=_parse_time(groups),
    )


def normalise_channel(text: str) -> str:
    """Return the channel without leading zeros, because 01 and 1 are the same channel."""
    return str(int(text)) if text.isdecimal() else text


def _parse_time(groups: Mapping[str, str]) -> NameTime:
    if "year" in groups and "month" in groups and "day" in groups:
        return NameTime(
            date=parse_date(*(groups.get(word, "") for word in ("year", "month", "day", "hour", "minute")))
        )
    units = [unit for unit in HOURS_PER_UNIT if unit in groups]
    if units:
        return NameTime(hours=sum(_parse_number(groups, unit) * HOURS_PER_UNIT[unit] for unit in units))
    if "time" not in groups:
        return NO_TIME
    text = groups["time"]
    if text.isdecimal():
        return NameTime(time_point=int(text))
    time, _ = find_time(text, bare_days=True)
    if not time:
        raise BadPlate(f"{text!r} is not a time: write the number of the time point, or a time like 48h, 2d12h, day2")
    return time


def _parse_whole(groups: Mapping[str, str], word: str) -> int:
    if not groups[word].isdecimal():
        raise BadPlate(f"{word} must be a whole number, not {groups[word]!r}")
    return int(groups[word])


def _parse_number(groups: Mapping[str, str], word: str) -> float:
    try:
        return float(groups[word].replace(",", "."))
    except ValueError:
        raise BadPlate(f"{word} must be a number, not {groups[word]!r}") from None
