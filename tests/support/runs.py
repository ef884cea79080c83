"""Start `spheroseg run` as a person does, and read its results."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spheroseg.segmentation import classical

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "spheroids"
PICTURES = sorted(EXAMPLES.glob("*.png"))

# The classical model starts in half the time of a network, and its answers are exact on drawn pictures.
QUICK = {"RETRY_BACKOFF_SECONDS": "0.1", "SPHEROSEG_ENV": "development", "MODEL": classical.NAME}


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "spheroseg.cli", "run", *map(str, arguments)]


def run(*arguments: Any, code: int = 0, env: dict[str, str] | None = None, before: Sequence[str] = ()) -> str:
    done = subprocess.run(
        [*before, *command(*arguments)],
        env={**os.environ, **QUICK, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def manifest(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return content


def inputs(out: Path) -> dict[str, dict[str, Any]]:
    return {f"{item['image']}#{item['page']}": item for item in manifest(out)["inputs"]}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def query(out: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(out / ".spheroseg" / "spheroseg.db") as connection:
        return connection.execute(sql).fetchall()


def many_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        shutil.copy(PICTURES[number % len(PICTURES)], folder / f"image_{number:03}.png")
