"""Turns a preview into a table: a CSV file that the user can correct and give back as conditions, or JSON."""

import csv
import io
from typing import Any

from spheroseg.plate.preview import Preview, PreviewImage

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


def build_preview_row(image: PreviewImage) -> dict[str, Any]:
    """Return the row of one image: `COLUMNS`, the user's own columns, and `problem`.

    `problem` is the reason if the image has no position. None and "" mean unknown.
    """
    position, condition = image.position, image.condition
    return {
        "image": image.name,
        "plate": position.plate if position else "",
        "well": position.well.name if position and position.well else "",
        "sample": position.sample if position else "",
        "site": position.site if position else None,
        # Minutes may be long fractions of an hour.
        "time_h": round(position.time_h, 6) if position and position.time_h is not None else None,
        "time_point": position.time_point if position else None,
        "channel": position.channel if position else "",
        "z": position.z if position else None,
        "condition": condition.name,
        "drug": condition.drug,
        "concentration": condition.concentration,
        "unit": condition.unit,
        "replicate": condition.replicate,
        **dict(condition.extra_columns),
        "problem": image.reason,
    }


def encode_preview(preview: Preview) -> bytes:
    """Return a CSV file in UTF-8 with one line per image, which `read_conditions` can read."""
    rows = [build_preview_row(image) for image in preview.images]
    extra = dict.fromkeys(column for image in preview.images for column, _ in image.condition.extra_columns)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [*COLUMNS, *extra, "problem"], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    # Without a byte order mark, spreadsheet programs assume an old code page and show a wrong micro sign.
    return buffer.getvalue().encode("utf-8-sig")
