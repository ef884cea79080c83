"""`spheroseg history`: in which ways the images of a run were segmented."""

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
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that was given to `run --out`.")],
    as_json: Json = False,
) -> None:
    """Show the result versions of a run: one for each model, parameters and pixel size that were asked for.

    None is lost when another is asked for. The same command as then brings its tables and pictures back into DIR, and
    segments nothing again.
    """
    versions = asyncio.run(read_versions(out))
    print_rows(
        (_row(version, whole=as_json) for version in versions),
        COLUMNS,
        as_json=as_json,
        nothing="Nothing was segmented here yet.",
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
    """As they are typed, and only those that are not the default."""
    changed = {name: value for name, value in parameters.items() if value != _DEFAULTS.get(name)}
    words: Sequence[str] = [
        f"--no-{name}" if value is False else f"--{name.replace('_', '-')} {value}" for name, value in changed.items()
    ]
    return " ".join(words) or "defaults"
