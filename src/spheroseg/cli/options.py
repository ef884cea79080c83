"""Options that several commands share: how names, conditions and times of a plate are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spheroseg.errors import UnreadableInput
from spheroseg.plate.condition_table import read_conditions
from spheroseg.plate.conditions import ConditionRow
from spheroseg.plate.names import AUTO, PRESETS
from spheroseg.plate.wells import PLATE_FORMATS

CONDITIONS = "conditions.csv"
PATTERNS = (
    f"{AUTO}, {', '.join(PRESETS)}; or your own: {{well}}_day{{day}}, or a regular expression with named groups."
)

Conditions = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help=f"Table with a column well, row and column, or image; by default the {CONDITIONS} in the folder.",
        rich_help_panel="Plate",
    ),
]
Interval = Annotated[
    float | None,
    typer.Option(metavar="HOURS", help="Between time points that the names only number.", rich_help_panel="Plate"),
]
Wells = Annotated[
    int | None,
    typer.Option(
        metavar="N", help=f"Wells of the plate: {', '.join(map(str, PLATE_FORMATS))}.", rich_help_panel="Plate"
    ),
]


def conditions_beside(paths: Sequence[Path]) -> Path | None:
    """The conditions.csv in the one folder that was named, which is meant for it unless another was given."""
    beside = paths[0] / CONDITIONS
    return beside if len(paths) == 1 and beside.is_file() else None


def conditions_of(path: Path) -> list[ConditionRow]:
    """The lines of a CSV of conditions. Raises BadPlate, or UnreadableInput where there is no such file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"cannot read {path}: {error.strerror}") from None
    return read_conditions(data, path.name)
