"""What `spheroseg run` says of pixel sizes that cannot be right."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spheroseg.run.outputs import Line
from spheroseg.segmentation.pixel_size import NOT_SQUARE

SAYS = {
    "option": "--pixel-size says",
    "OME-XML": "the OME-XML in the file says",
    "ImageJ": "the ImageJ tags in the file say",
}


def pixel_size_notes(lines: Sequence[Line]) -> Iterator[str]:
    """A sentence for each contradiction, however many images it is in."""
    found: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if size := line.pixel_size:
            found.update((_said(size), _said(other)) for other in size.get("contradicted_by", ()))
    for (used, other), count in found.items():
        yield f"{_images(count)}: {other}, but {used}, which was used. Find out which is right."
    uneven = Counter(line.pixel_size is None for line in lines if NOT_SQUARE in line.flags)
    if uneven[True]:
        yield (
            f"{_images(uneven[True])}: the pixels are not square, so nothing is in µm. "
            "Save with square pixels, or give --pixel-size."
        )
    if uneven[False]:
        yield f"{_images(uneven[False])}: the pixels are not square by what the file says, but were taken for it."


def _said(size: Mapping[str, Any]) -> str:
    return f"{SAYS[size['source']]} {size['um']:g} µm"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
