"""Reads the attributes, channels and planes of each `Pixels` element of OME-XML."""

import html
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

# Regular expressions replace an XML parser, because an untrusted file must not be able to expand entities or to open
# other files. The time is linear in the length of the text.
_TAG = re.compile(r"<(/?)(?:[\w.-]+:)?([A-Za-z]+)\b([^<>]*)>([^<]*)")
_ATTRIBUTE = re.compile(r"""(?<![\w:])([\w:]+)\s*=\s*(["'])(.*?)\2""", re.DOTALL)

Attributes = Mapping[str, str]
Plane = tuple[int, int, int]  # t, z, channel; from 0


@dataclass
class Pixels:
    """A `Pixels` element.

    `sizes`: numbers of times, z planes and channels in all files of the set. `channels`: attributes of the `Channel`
    elements. `planes`: the plane of each page of this file, by page number from 0. `times`: attributes of the `Plane`
    elements.
    """

    attributes: Attributes
    sizes: Plane = (1, 1, 1)
    channels: list[Attributes] = field(default_factory=list)
    planes: dict[int, Plane] = field(default_factory=dict)
    times: dict[Plane, Attributes] = field(default_factory=dict)


def read_ome(xml: str, pages: int) -> list[Pixels]:
    """Return all `Pixels` elements in the order of the document. Elements that cannot be understood are left out.

    `pages`: the number of pages of the file.
    """
    elements: list[Pixels] = []
    blocks: list[list[tuple[Attributes, str | None]]] = []
    own_uuid = ""
    is_inside = False
    for is_end, name, attributes, text in _tags(_without_comments(xml)):
        if name == "Pixels":
            is_inside = not is_end
            if not is_end:
                elements.append(Pixels(attributes))
                blocks.append([])
        elif is_end:
            continue
        elif name == "OME":
            own_uuid = attributes.get("UUID", "")
        elif not is_inside:
            continue
        elif name == "Channel":
            elements[-1].channels.append(attributes)
        elif name == "TiffData":
            blocks[-1].append((attributes, None))
        elif name == "UUID" and blocks[-1]:
            blocks[-1][-1] = (blocks[-1][-1][0], text.strip())
        elif name == "Plane":
            position = tuple(_number(attributes, f"The{axis}") for axis in "TZC")
            if (plane := _plane(position)) is not None:
                elements[-1].times[plane] = attributes
    left = pages
    for pixels, tiff_data in zip(elements, blocks, strict=True):
        pixels.sizes = _sizes(pixels)
        # A file may not name more planes than it has pages: repeated entries must not be able to fill the memory.
        pixels.planes = dict(islice(_planes(pixels, tiff_data, own_uuid, pages), left))
        left -= len(pixels.planes)
    return elements


def _without_comments(xml: str) -> str:
    first, *others = xml.split("<!--")
    return first + "".join(other.partition("-->")[2] for other in others)


def _tags(xml: str) -> Iterator[tuple[bool, str, Attributes, str]]:
    for end, name, inside, text in _TAG.findall(xml):
        yield bool(end), name, {key: html.unescape(value) for key, _, value in _ATTRIBUTE.findall(inside)}, text


def _number(attributes: Attributes, name: str, default: int | None = None) -> int | None:
    text = attributes.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default


def _plane(position: tuple[int | None, ...]) -> Plane | None:
    t, z, channel = position
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
            rest, position = first + number, {}
            for axis in order[2:]:
                rest, position[axis] = divmod(rest, sizes[axis])
            yield ifd + number, (position["T"], position["Z"], position["C"])
