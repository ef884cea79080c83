"""`spheroseg history`: show the result versions of a run."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from spheroseg.cli.output import Json, print_rows
from spheroseg.database.versions import ResultVersion
from spheroseg.run.history import read_versions
from spheroseg.segmentation.parameters import Parameters

COLUMNS = ("version", "model", "model_sha256", "pixel_size_um", "parameters", "completed", "failed", "first_used")
_DEFAULTS = {field.name: field.default for field in fields(Parameters)}


def history(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `spheroseg run`.")],
    as_json: Json = False,
) -> None:
    """Show the result versions of a run: one per combination of model, parameters and pixel size.

    All versions are kept. To restore the tables and pictures of a version in DIR, run the same command as then; no
    image is segmented again.
    """
    versions = asyncio.run(read_versions(out))
    print_rows(
        (_row(version, whole=as_json) for version in versions),
        COLUMNS,
        as_json=as_json,
        if_empty="No images have been segmented here yet.",
    )


def _row(version: ResultVersion, *, whole: bool) -> dict[str, Any]:
    sha256 = version.model_sha256 or ""
    return {
        "version": version.number,
        "model": version.model,
        "model_sha256": sha256 if whole else sha256[:12],
        "pixel_size_um": version.pixel_size_um,
        "parameters": version.parameters if whole else _as_options(version.parameters),
        "completed": version.completed,
        "failed": version.failed,
        "first_used": version.first_used_at,
    }


def _as_options(parameters: dict[str, Any]) -> str:
    """Return the parameters that are not the default, as command line options."""
    changed = {name: value for name, value in parameters.items() if value != _DEFAULTS.get(name)}
    words: Sequence[str] = [
        f"--no-{name}" if value is False else f"--{name.replace('_', '-')} {value}" for name, value in changed.items()
    ]
    return " ".join(words) or "defaults"
