"""`spheroseg run` on simulated plates with known measurements, and on faulty ones."""

import csv
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow.parquet
import pytest
import tifffile

from .support.runs import EXAMPLES, manifest, query, run
from .support.synthetic import coverage, photograph

pytestmark = pytest.mark.slow

NETWORK = {"MODEL": ""}
PICTURES = ("conditions", "plate", "heatmap")


def simulate(folder: Path, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", "simulate", "plate", str(folder), *options],
        check=True,
        capture_output=True,
        timeout=120,
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plate") / "images"
    simulate(folder, "--wells", "6", "--times", "4", "--doses", "2", "--seed", "5")
    return folder


@pytest.fixture(scope="module")
def finished(plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "results"
    said = run(plate, "--out", out, env=NETWORK)
    assert (
        "File names describe a plate, read as plain (best guess): 6 wells, 4 times, conditions from conditions.csv."
        in said
    )
    assert said.rstrip().endswith("the growth curves")
    assert str(out / "charts" / "conditions.png") in said
    return out


def test_curves_are_those_of_the_plate(plate: Path, finished: Path) -> None:
    """Area within 2 %, doubling time within 5 % of what was drawn."""
    assert manifest(finished)["skipped"] == ["simulation.json", "truth.csv"]
    truth = {row["image"]: row for row in table(plate / "truth.csv")}
    grown = table(finished / "growth.csv")
    assert {row["image"] for row in grown} == set(truth)
    for row in grown:
        true = truth[row["image"]]
        assert float(row["area_um2"]) == pytest.approx(float(true["area_um2"]), rel=0.02)
        assert (row["well"], float(row["time_h"])) == (true["well"], float(true["time_h"]))
    doubling = {row["well"]: float(row["doubling_time_h"]) for row in truth.values()}
    fits = [row for row in table(finished / "fits.csv") if row["level"] == "well" and row["model"] == "exponential"]
    assert {row["well"] for row in fits} == set(doubling)
    for row in fits:
        assert float(row["doubling_time_h"]) == pytest.approx(doubling[row["well"]], rel=0.05)


def test_all_tables_say_the_same_and_pictures_are_there(finished: Path) -> None:
    grown = table(finished / "growth.csv")
    sheet = openpyxl.load_workbook(finished / "growth.xlsx")
    values = list(sheet["growth"].values)
    assert list(values[0]) == list(grown[0])
    areas = [row[values[0].index("area_um2")] for row in values[1:]]
    assert areas == [float(row["area_um2"]) for row in grown]
    assert {"wells", "conditions", "fits", "provenance"} <= set(sheet.sheetnames)
    columns = pyarrow.parquet.read_table(finished / "growth.parquet").to_pydict()
    assert columns["area_um2"] == areas
    for name in PICTURES:
        assert (finished / "charts" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (finished / "charts" / f"{name}.svg").read_text()
        assert json.loads((finished / "charts" / f"{name}.json").read_text())["$schema"]
    assert len(list((finished / "charts").glob("wells_*.png"))) == 6
    assert list((finished / "contact").glob("*.*"))


def test_conditions_are_means_over_wells(finished: Path) -> None:
    last = [row for row in table(finished / "conditions.csv") if float(row["time_h"]) == 36]
    assert [(row["drug"], float(row["concentration"]), row["n_wells"]) for row in last] == [
        ("drug", 0.0, "3"),
        ("drug", 2.0, "3"),
    ]
    wells = [row for row in table(finished / "wells.csv") if float(row["time_h"]) == 36]
    of_control = [float(row["volume_um3"]) for row in wells if float(row["concentration"]) == 0]
    mean = sum(of_control) / 3
    assert float(last[0]["volume_um3_mean"]) == pytest.approx(mean, rel=1e-6)
    spread = math.sqrt(sum((value - mean) ** 2 for value in of_control) / 2)
    assert float(last[0]["volume_um3_sd"]) == pytest.approx(spread, rel=1e-6)


def test_the_same_command_changes_no_byte_and_other_plate_options_segment_nothing(
    plate: Path, finished: Path
) -> None:
    out = finished.parent / "copy"
    shutil.copytree(finished, out)

    def hashes() -> dict[str, str]:
        made = [path for path in out.rglob("*") if path.is_file() and ".spheroseg" not in path.parts]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}

    before = hashes()
    run(plate, "--out", out, env=NETWORK)
    after = hashes()
    assert {name for name in before if before[name] != after.get(name)} == {"manifest.json"}
    run(plate, "--out", out, "--measure", "area", "--volume", "prolate", "--at", "24", env=NETWORK)
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(24,)]
    assert {row["measure"] for row in table(out / "fits.csv")} == {"area_um2"}
    assert {row["volume_method"] for row in table(out / "growth.csv")} == {"prolate"}
    assert {row["time_h"] for row in table(out / "endpoint.csv")} == {"24.0"}
    run(plate, "--out", out, "--plate", "off", env=NETWORK)
    assert not (out / "charts").exists()
    assert {row["well"] for row in table(out / "growth.csv")} == {""}
    assert manifest(out)["plate"] is None


def test_an_edited_table_is_kept_and_reported(plate: Path, finished: Path) -> None:
    out = finished.parent / "edited"
    shutil.copytree(finished, out)
    (out / "fits.csv").write_text("mine")
    said = run(plate, "--out", out, "--measure", "area", env=NETWORK)
    assert "fits.csv was edited, so it was not overwritten" in said
    assert (out / "fits.csv").read_text() == "mine"


def test_broken_files_an_empty_well_and_a_stack_leave_gaps_and_no_zeros(tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    simulate(folder, "--wells", "12", "--times", "4", "--faults", "--seed", "2", "--doses", "2")
    said = run(folder, "--out", out, code=1, env=NETWORK)
    faults = table(folder / "faults.csv")
    broken = [row["image"] for row in faults if row["fault"] in ("truncated", "text", "zero_bytes")]
    assert len(broken) == 3
    assert "3 failed:" in said
    grown = table(out / "growth.csv")
    assert {
        row["image"]: (row["area_um2"], row["qc_flags"]) for row in grown if row["image"] in broken
    } == dict.fromkeys(broken, ("", "image_failed"))
    (empty,) = {row["well"] for row in faults if row["fault"] == "empty_well"}
    of_empty = [row for row in table(out / "wells.csv") if row["well"] == empty]
    assert len(of_empty) == 4
    for row in of_empty:
        assert (row["area_um2"], row["rel_volume"]) == ("", "")
        assert {"no_object_found", "debris"} & set(row["qc_flags"].split(";"))
    (stack,) = {row["well"] for row in faults if row["fault"] == "stack"}
    assert [float(row["time_h"]) for row in grown if row["well"] == stack] == [0, 12, 24, 36]
    refused = [row for row in table(out / "fits.csv") if row["well"] == empty]
    assert refused
    assert all(row["refused"] and not row["doubling_time_h"] for row in refused)


def test_a_folder_that_is_not_a_plate_has_only_the_tables(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(EXAMPLES, "--out", out)
    assert "describe a plate" not in said
    assert len(table(out / "growth.csv")) == len(table(out / "results.csv"))
    assert not list(out.glob("charts*"))
    assert not (out / "fits.csv").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at", "13"], "--at is 13 h, but no image has that time. The images have: 0, 12, 24, 36"),
        (["--t0", "5"], "--t0 is 5 h"),
        (["--plate", "incucyte"], "no name of an image fits incucyte"),
        (["--conditions", "no.csv"], "cannot read no.csv"),
        (["--wells", "7"], "no plates of 7 wells"),
    ],
)
def test_an_option_that_does_not_fit_the_plate_is_refused_before_anything_is_queued(
    plate: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    assert words in run(plate, "--out", tmp_path / "out", *options, code=2)
    assert not (tmp_path / "out").exists()


def test_a_foreign_table_beside_the_images_is_an_error_that_says_how_to_ignore_it(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(EXAMPLES / "image_08.png", folder)
    (folder / "conditions.csv").write_text("lamp,exposure\nhalogen,20 ms\n")
    said = run(folder, "--out", tmp_path / "out", code=2, env={"COLUMNS": "200"})
    assert "it needs a column well" in said
    assert "use --plate off" in said
    run(folder, "--out", tmp_path / "out", "--plate", "off")


def test_stacks_of_channels_are_a_plate_once_a_channel_is_chosen(tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for number, well in enumerate(("A01", "A02"), start=1):
        times = [photograph(coverage(160, 160, radius, radius, 0, (80, 80))) for radius in (30, 33, 36, 40)]
        bright = np.stack(times).astype(np.uint16)
        tifffile.imwrite(
            folder / f"{well}.ome.tif",
            np.stack([bright, bright // 2 + number], axis=1),
            metadata={
                "axes": "TCYX",
                "PhysicalSizeX": 2.0,
                "PhysicalSizeY": 2.0,
                "TimeIncrement": 12.0,
                "TimeIncrementUnit": "h",
                "Channel": {"Name": ["BF", "GFP"]},
            },
        )
    said = run(folder, "--out", out, "--plate", "plain", code=1)
    assert "choose with --channel" in said
    assert {row["qc_flags"].split(";")[0] for row in table(out / "growth.csv")} == {"image_failed"}
    for channel in ("1", "BF"):
        run(folder, "--out", out, "--plate", "plain", "--channel", channel)
        grown = table(out / "growth.csv")
        assert [(row["well"], float(row["time_h"])) for row in grown] == [
            (well, hours) for well in ("A01", "A02") for hours in (0, 12, 24, 36)
        ]
        assert {row["channel"] for row in grown} == {"BF"}
        assert all(row["area_um2"] for row in grown)
    run(folder, "--out", out, "--plate", "plain", "--channel", "all")
    assert "no growth curves" in run(folder, "--out", out, "--plate", "plain", "--channel", "all")
    assert not (out / "fits.csv").exists()


def test_samples_with_equal_file_names_keep_their_own_pictures(tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for sample in ("a+b", "a=b"):
        for day in (1, 2):
            shutil.copy(EXAMPLES / "image_08.png", folder / f"{sample}_day{day}.png")
    run(folder, "--out", out, "--plate", "words")
    assert {row["sample"] for row in table(out / "wells.csv")} == {"a+b", "a=b"}
    assert len(list((out / "charts").glob("wells_*.png"))) == 2
