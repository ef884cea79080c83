"""What OME-XML says: of each `Pixels` element its attributes, its channels, and where in it a page lies."""

import html
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

# Regular expressions, not an XML parser: a stranger's file must not be able to expand entities in here, nor to name
# other files that are opened. No character is looked at many times, whatever the text.
_TAG = re.compile(r"<(/?)(?:[\w.-]+:)?([A-Za-z]+)\b([^<>]*)>([^<]*)")
_ATTRIBUTE = re.compile(r"""(?<![\w:])([\w:]+)\s*=\s*(["'])(.*?)\2""", re.DOTALL)

Attributes = Mapping[str, str]
Plane = tuple[int, int, int]  # t, z, channel; from 0


@dataclass
class Pixels:
    """`planes`: by the number of the page in this file, from 0. `sizes`: of t, z and channel, in all files of a set.

    `times`: what `Plane` elements say of a plane, as attributes.
    """

    attributes: Attributes
    sizes: Plane = (1, 1, 1)
    channels: list[Attributes] = field(default_factory=list)
    planes: dict[int, Plane] = field(default_factory=dict)
    times: dict[Plane, Attributes] = field(default_factory=dict)


def read_ome(xml: str, pages: int) -> list[Pixels]:
    """All `Pixels` of a document, in its order; what cannot be understood in one is left out of it.

    pages: how many the file has.
    """
    found: list[Pixels] = []
    blocks: list[list[tuple[Attributes, str | None]]] = []
    own_uuid = ""
    is_inside = False
    for is_end, name, attributes, text in _tags(_without_comments(xml)):
        if name == "Pixels":
            is_inside = not is_end
            if not is_end:
                found.append(Pixels(attributes))
                blocks.append([])
        elif is_end:
            continue
        elif name == "OME":
            own_uuid = attributes.get("UUID", "")
        elif not is_inside:
            continue
        elif name == "Channel":
            found[-1].channels.append(attributes)
        elif name == "TiffData":
            blocks[-1].append((attributes, None))
        elif name == "UUID" and blocks[-1]:
            blocks[-1][-1] = (blocks[-1][-1][0], text.strip())
        elif name == "Plane":
            place = tuple(_number(attributes, f"The{axis}") for axis in "TZC")
            if (plane := _plane(place)) is not None:
                found[-1].times[plane] = attributes
    left = pages
    for pixels, tiff_data in zip(found, blocks, strict=True):
        pixels.sizes = _sizes(pixels)
        # A page is named once; a text that names them again and again must not be able to fill the memory.
        pixels.planes = dict(islice(_planes(pixels, tiff_data, own_uuid, pages), left))
        left -= len(pixels.planes)
    return found


def _without_comments(xml: str) -> str:
    first, *others = xml.split("<!--")
    return first + "".join(other.partition("-->")[2] for other in others)


def _tags(xml: str) -> Iterator[tuple[bool, str, Attributes, str]]:
    for end, name, inside, text in _TAG.findall(xml):
        yield bool(end), name, {key: html.unescape(value) for key, _, value in _ATTRIBUTE.findall(inside)}, text


def _number(attributes: Attributes, name: str, default: int | None = None) -> int | None:
    text = attributes.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default


def _plane(place: tuple[int | None, ...]) -> Plane | None:
    t, z, channel = place
    return None if t is None or z is None or channel is None else (t, z, channel)


def _sizes(pixels: Pixels) -> Plane:
    t, z, samples = (_number(pixels.attributes, f"Size{axis}", 1) or 1 for axis in "TZC")
    # Red, green and blue are samples of one page, not three pages.
    per_page = [_number(channel, "SamplesPerPixel", 1) or 1 for channel in pixels.channels]
    if sum(per_page) == samples:
        return t, z, len(per_page)
    return t, z, samples


def _planes(
    pixels: Pixels, tiff_data: list[tuple[Attributes, str | None]], own_uuid: str, pages: int
) -> Iterator[tuple[int, Plane]]:
    order = pixels.attributes.get("DimensionOrder", "")
    if not re.fullmatch(r"XY(CTZ|CZT|TCZ|TZC|ZCT|ZTC)", order):
        return
    sizes = dict(zip("TZC", pixels.sizes, strict=True))
    total = math.prod(pixels.sizes)
    for attributes, uuid in tiff_data or [({}, None)]:
        if uuid is not None and own_uuid and uuid != own_uuid:
            continue  # the pixels lie in another file of the set
        is_placed = "IFD" in attributes
        ifd = _number(attributes, "IFD", 0) or 0
        count = _number(attributes, "PlaneCount", 1 if is_placed else total) or 0
        first, step = 0, 1
        for axis in order[2:]:
            first += step * (_number(attributes, f"First{axis}", 0) or 0)
            step *= sizes[axis]
        for number in range(min(count, total - first, pages - ifd)):
            rest, place = first + number, {}
            for axis in order[2:]:
                rest, place[axis] = divmod(rest, sizes[axis])
            yield ifd + number, (place["T"], place["Z"], place["C"])
