"""`spheroseg plate preview`, as a person starts it."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spheroseg.cli.plate import plate_app
from spheroseg.errors import BadPlate, UnreadableInput

WIDTHS = (80, 120)


def preview(*arguments: Any, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(plate_app, ["preview", *map(str, arguments)])


def folder_of(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # No file is opened: they may be empty.
        (folder / name).touch()
    return folder


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    names = [f"{row}{column}_day{day}.png" for row in "ABCDEFGH" for column in range(1, 13) for day in (0, 2)]
    return folder_of(tmp_path / "plate", [*names, "overview.png", "protocol.txt"])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_preview_shows_wells_times_the_map_and_names_not_understood(plate: Path, width: int) -> None:
    (plate / "C5_day2.png").unlink()
    shown = preview(plate, width=width)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.split() == ["A1_day2.png", "│", "A01", "│", "48", "h"] for line in lines)
    assert "Plate, 96 of 96 wells, images in each:" in lines
    assert " C   2  2  2  2  1  2  2  2  2  2  2  2" in lines
    assert "fewer than 2: C05 1" in lines
    assert "191 of 192 images read as plain (best guess): 96 wells, 2 times" in lines
    assert "  overview.png: no well in the name" in lines
    assert "… and 171 more: --all shows them, --csv FILE writes them" in lines
    assert len(preview(plate, "--all").output.splitlines()) > 191


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("last", "wells"), [("B3", 6), ("P24", 384), ("AF48", 1536)])
def test_the_map_of_every_plate_fits(tmp_path: Path, last: str, wells: int, width: int) -> None:
    shown = preview(folder_of(tmp_path, ["A1_t1.png", f"{last}_t1.png"]), width=width)
    assert f"2 of {wells} wells" in shown.output
    assert max(map(len, shown.output.splitlines())) <= width


def test_the_csv_can_be_mended_and_given_back(plate: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    assert preview(plate, "--csv", table).exit_code == 0
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 193
    assert (rows["B3_day2.png"]["well"], rows["B3_day2.png"]["time_h"]) == ("B03", "48.0")
    assert rows["overview.png"]["problem"] == "no well in the name"
    table.write_text("image;well;time_h;drug;concentration;unit\noverview.png;H12;72,5;x;0,5;uM\n", encoding="utf-8")
    report = json.loads(preview(plate, "--conditions", table, "--json").stdout)
    mended = next(image for image in report["images"] if image["image"] == "overview.png")
    assert (mended["well"], mended["time_h"], mended["concentration"], mended["unit"]) == ("H12", 72.5, 0.5, "µM")
    assert report["plates"][0]["used"]["H12"] == 3
    assert report["guessed"] is True


def test_conditions_are_shown(plate: Path, tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("well,condition\nA1-H6,control\nA7-H12,treated\n", encoding="utf-8")
    shown = preview(plate, "--conditions", table).output
    assert "│ control" in shown
    assert "2 conditions" in shown
    assert "without a condition" not in shown


def test_numbered_time_points_ask_for_the_interval(tmp_path: Path) -> None:
    names = [f"TimePoint_{time}/p_A0{well}_s1_w1.TIF" for time in (1, 2) for well in (1, 2)]
    shown = preview(folder_of(tmp_path, names))
    assert "point 2" in shown.output
    assert "--interval" in shown.output
    shown = preview(tmp_path, "--interval", 12)
    assert "12 h" in shown.output
    assert "read as imagexpress (best guess): 2 wells, 2 times, 1 site, 1 channel" in shown.output


def test_exit_code_1_where_no_name_is_understood(tmp_path: Path) -> None:
    shown = preview(folder_of(tmp_path, ["one.png", "two.png"]))
    assert shown.exit_code == 1
    assert "No name was understood" in shown.output
    assert "--pattern '{well}_day{day}'" in shown.output
    assert preview(folder_of(tmp_path / "empty", ["a.txt"])).exit_code == 1


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    shown = preview(folder_of(tmp_path, ["[bold]A01[_day1.png", "[/]x.png"]))
    assert "[bold]A01[_day1.png" in shown.output
    assert "[/]x.png: no well" in shown.output


def test_wrong_usage_says_what_to_do(plate: Path, tmp_path: Path) -> None:
    for arguments, error in (
        ([plate, "--pattern", "{wel}"], BadPlate),
        ([plate, "--wells", "95"], BadPlate),
        ([plate, "--interval", "0"], BadPlate),
        ([plate, "--csv", tmp_path / "no" / "x.csv"], BadPlate),
        ([plate, "--conditions", tmp_path / "none.csv"], UnreadableInput),
        ([tmp_path / "none"], UnreadableInput),
    ):
        assert isinstance(preview(*arguments).exception, error)


def test_a_table_of_conditions_in_the_folder_is_taken_unless_another_is_given(plate: Path, tmp_path: Path) -> None:
    (plate / "conditions.csv").write_text("well,condition\nA1-H12,beside\n")
    assert "beside" in preview(plate).output
    other = tmp_path / "other.csv"
    other.write_text("well,condition\nA1-H12,given\n")
    shown = preview(plate, "--conditions", other).output
    assert "given" in shown
    assert "beside" not in shown
