"""`spheroseg simulate plate`, as a person starts it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spheroseg.cli.simulate import simulate_app
from spheroseg.errors import BadParameters, OutputUnusable
from spheroseg.plate.names import parse_names
from spheroseg.run.inputs import find_inputs

pytestmark = pytest.mark.slow

SMALL = ("--wells", 6, "--times", 2, "--size", 96, "--pixel-size", 8)


def simulate(*arguments: Any) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(simulate_app, ["plate", *map(str, arguments)])


def test_a_plate_is_written_with_its_tables(tmp_path: Path) -> None:
    out = tmp_path / "new" / "plate"
    shown = simulate(out, *SMALL)
    assert shown.exit_code == 0
    assert "12 images of 6 wells × 2 times, 96 × 96 px, 8 µm per pixel" in shown.output
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".tif") == [
        "conditions.csv",
        "simulation.json",
        "truth.csv",
    ]
    listing = find_inputs([out])
    assert [item.name for item in listing.inputs][:3] == ["A01_t000h.tif", "A01_t012h.tif", "A02_t000h.tif"]
    assert not any(item.problem for item in listing.inputs)
    assert json.loads((out / "simulation.json").read_text())["doses"] == [10.0]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    shown = simulate(tmp_path, *SMALL)
    assert isinstance(shown.exception, OutputUnusable)
    assert "name a new folder" in str(shown.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert isinstance(simulate(tmp_path / "mine.txt", *SMALL).exception, OutputUnusable)


def test_folders_of_time_points_are_made(tmp_path: Path) -> None:
    assert simulate(tmp_path, *SMALL, "--naming", "imagexpress").exit_code == 0
    names = [item.name for item in find_inputs([tmp_path]).inputs]
    assert names[0] == "TimePoint_1/simulated_A01_s1_w1.tif"
    assert len(parse_names(names).placed) == 12


def test_faults_are_named(tmp_path: Path) -> None:
    shown = simulate(tmp_path, *SMALL, "--faults", "--doses", "")
    assert shown.exit_code == 0
    assert "faults.csv  the files with faults" in shown.output
    assert (tmp_path / "faults.csv").read_text().count("\n") == 1 + 3 + 2 + 1


@pytest.mark.parametrize(("doses", "sentence"), [("1;2", "--doses is '1;2'"), ("1,-2", "dose -2 must be")])
def test_doses_that_are_none_are_refused_before_anything_is_written(
    tmp_path: Path, doses: str, sentence: str
) -> None:
    shown = simulate(tmp_path / "plate", *SMALL, f"--doses={doses}")
    assert isinstance(shown.exception, BadParameters)
    assert sentence in str(shown.exception)
    assert not (tmp_path / "plate").exists()
