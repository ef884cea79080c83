"""A preview as rows: for a CSV that a person corrects and hands back, and for programs."""

import csv
import io
from typing import Any

from spheroseg.plate.names import Picture, Preview

COLUMNS = (
    "image",
    "plate",
    "well",
    "sample",
    "site",
    "time_h",
    "time_point",
    "channel",
    "z",
    "condition",
    "drug",
    "concentration",
    "unit",
    "replicate",
)


def row_of(picture: Picture) -> dict[str, Any]:
    """What is known of one picture; None and "" are unknown. `problem` is why it has no place."""
    place, condition = picture.place, picture.condition
    return {
        "image": picture.name,
        "plate": place.plate if place else "",
        "well": place.well.name if place and place.well else "",
        "sample": place.sample if place else "",
        "site": place.site if place else None,
        # Minutes are no round hours.
        "time_h": round(place.time_h, 6) if place and place.time_h is not None else None,
        "time_point": place.time_point if place else None,
        "channel": place.channel if place else "",
        "z": place.z if place else None,
        "condition": condition.name,
        "drug": condition.drug,
        "concentration": condition.concentration,
        "unit": condition.unit,
        "replicate": condition.replicate,
        **dict(condition.more),
        "problem": picture.reason,
    }


def encode_preview(preview: Preview) -> bytes:
    """CSV in UTF-8, a line a picture; `read_conditions` reads it back."""
    rows = [row_of(picture) for picture in preview.pictures]
    more = dict.fromkeys(word for picture in preview.pictures for word, _ in picture.condition.more)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [*COLUMNS, *more, "problem"], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    # Spreadsheets take a file without the mark for an old code page, and break the micro sign.
    return buffer.getvalue().encode("utf-8-sig")
