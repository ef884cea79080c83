"""Notes of `spheroseg run` about pixel sizes that cannot be right."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spheroseg.cli.output import plural
from spheroseg.run.result import ImageOutcome
from spheroseg.segmentation.pixel_size import NOT_SQUARE

SOURCES = {
    "option": "--pixel-size says",
    "OME-XML": "the OME-XML in the file says",
    "ImageJ": "the ImageJ tags in the file say",
}


def pixel_size_notes(images: Sequence[ImageOutcome]) -> Iterator[str]:
    """Yield one sentence per kind of contradiction, with the number of images that have it."""
    contradictions: Counter[tuple[str, str]] = Counter()
    for image in images:
        if size := image.pixel_size:
            contradictions.update((_statement(size), _statement(other)) for other in size.get("contradicted_by", ()))
    for (used, other), count in contradictions.items():
        yield f"{plural(count, 'image')}: {other}, but {used}, which was used. Find out which one is right."
    not_square = Counter(image.pixel_size is None for image in images if NOT_SQUARE in image.flags)
    if not_square[True]:
        yield (
            f"{plural(not_square[True], 'image')}: the pixels are not square, so there are no measurements in µm. "
            "Save the images with square pixels, or use --pixel-size."
        )
    if not_square[False]:
        yield (
            f"{plural(not_square[False], 'image')}: the file says that the pixels are not square, but they were "
            "measured as if they were."
        )


def _statement(size: Mapping[str, Any]) -> str:
    return f"{SOURCES[size['source']]} {size['um']:g} µm"
