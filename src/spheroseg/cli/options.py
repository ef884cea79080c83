"""Options that several commands share: how names, conditions and times of a plate are read."""

from pathlib import Path
from typing import Annotated

import typer

from spheroseg.plate.names import AUTO, PRESETS
from spheroseg.plate.wells import PLATE_FORMATS
from spheroseg.run.plate_layout import CONDITIONS

PANEL = "Plates and growth curves"
PATTERNS = (
    f"{AUTO}, {', '.join(PRESETS)}; or your own pattern such as {{well}}_day{{day}}, or a regular expression with "
    "named groups."
)

Conditions = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help="Table of what is in each well. It needs a column well, or row and column, or image. "
        f"By default the {CONDITIONS} in the folder of the images.",
        rich_help_panel=PANEL,
    ),
]
Interval = Annotated[
    float | None,
    typer.Option(
        metavar="HOURS", help="Time between images, if the names only number the time points.", rich_help_panel=PANEL
    ),
]
Wells = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=f"Number of wells of the plate: {', '.join(map(str, PLATE_FORMATS))}.",
        rich_help_panel=PANEL,
    ),
]
