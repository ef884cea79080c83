"""`spheroseg model evaluate`, on pictures drawn here and on real ones if they are available."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from spheroseg.cli.evaluate import evaluate
from spheroseg.errors import DataAway
from spheroseg.training.baselines import otsu
from spheroseg.training.data import Sample, Truth, read_samples, scene_samples
from spheroseg.training.evaluate import evaluate as scores_of
from spheroseg.training.evaluate import summaries
from tests.support.synthetic import Picture, coverage, photograph

pytestmark = pytest.mark.slow

REAL = Path(__file__).parents[2] / "shared" / "data"
COLUMNS = ("image", "mask", "source", "licence", "mask_kind", "modality", "height", "width", "foreground")
SIDE = 160

needs_real_data = pytest.mark.skipif(
    not (REAL / "manifest.csv").exists(), reason="the labelled pictures are not here: shared/data beside the checkout"
)


def command(*arguments: Any) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def disks(*centres: tuple[float, float], radius: float = 22) -> Picture:
    covers = [coverage(SIDE, SIDE, radius, radius, 0, centre) for centre in centres]
    return np.asarray(np.max([np.zeros((SIDE, SIDE), np.float32), *covers], axis=0), np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make two sets whose pictures Otsu segments exactly, except for what their names state."""
    folder = tmp_path / "data"
    one, two, speck = disks((60, 70)), disks((50, 50), (110, 110)), disks((130, 130), radius=8)
    pictures = {
        "spheroids/plain": (one, one),
        "spheroids/debris": (np.maximum(one, speck), one),
        "plates/two": (two, two),
        "plates/one_is_missed": (disks((50, 50)), two),
        "plates/side_by_side": (disks((50, 50), (90, 50)), disks((50, 50), (90, 50))),
    }
    rows = []
    for name, (shown, truth) in pictures.items():
        set_, stem = name.split("/")
        row = {"image": f"{set_}/images/{stem}.png", "mask": f"{set_}/masks/{stem}.png"}
        for path, pixels in zip(row.values(), (photograph(shown), 255.0 * (truth >= 0.5)), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / path), pixels.astype(np.uint8))
        rows.append({**row, "source": "drawn", "licence": "MIT", "modality": "brightfield"})
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        table.writerows(rows)
    loose = folder / "unlabelled" / "organoids" / "1.png"
    loose.parent.mkdir(parents=True)
    cv2.imwrite(str(loose), photograph(two).astype(np.uint8))
    return folder


def rows_of(output: str) -> dict[tuple[str, str], dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in output.splitlines()]
    head, _, *rows = lines
    return {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}


def test_a_sample_keeps_source_licence_and_the_kind_of_its_truth(data: Path) -> None:
    samples = read_samples(data)
    assert [sample.name for sample in samples] == sorted(sample.name for sample in samples)
    assert {(s.set, s.truth) for s in samples} == {("spheroids", Truth.SINGLE), ("plates", Truth.UNION)}
    assert {(s.source, s.licence, s.kind) for s in samples} == {("drawn", "MIT", "brightfield")}
    pixels, labels = next(s for s in samples if s.name == "plates/images/two.png").read()
    assert pixels.dtype == np.float32
    assert labels is not None
    assert set(np.unique(labels)) == {0, 1, 2}
    (loose,) = read_samples(data, ["unlabelled"])
    assert (loose.source, loose.licence, loose.truth) == ("TKassis/OrgaQuant", "MIT", Truth.NONE)
    assert loose.read()[1] is None


def test_without_the_folder_or_the_set_the_error_says_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataAway, match="--data"):
        read_samples(tmp_path / "nowhere")
    with pytest.raises(DataAway, match=r"no set 'wells'.*plates, spheroids"):
        read_samples(data, ["wells"])


def test_the_table_has_a_row_for_each_set_and_model(data: Path) -> None:
    result = command("otsu", "sauvola", "--data", data, "--set", "spheroids", "--set", "plates", "--jobs", 1)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.output)
    assert list(rows) == [
        (set_, model) for set_ in ("plates", "spheroids", "spheroids, largest") for model in ("otsu", "sauvola")
    ]
    plates = rows["plates", "otsu"]
    assert (plates["n"], plates["picture"]) == ("3", "one_is_missed.png")
    assert float(plates["worst"]) == pytest.approx(0.5, abs=0.02)
    assert float(plates["median"]) > 0.97
    # 2 + 1 + 1 of the 2 + 2 + 1 islands are found.
    assert plates["F1"] == f"~{2 * 4 / 9:.3f}"
    assert rows["spheroids", "otsu"]["F1"] == f"{2 * 2 / 5:.3f}"
    assert rows["spheroids, largest", "otsu"]["F1"] == "1.000"
    assert float(rows["spheroids, largest", "otsu"]["worst"]) > 0.97 > float(rows["spheroids", "otsu"]["worst"])


def test_the_limit_applies_to_each_set_and_the_file_has_every_picture(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    command(
        "otsu", "--data", data, "--set", "spheroids", "--set", "plates", "--limit", 2, "--jobs", 1, "--json", file
    )
    report = json.loads(file.read_text())
    assert [model["name"] for model in report["models"]] == ["otsu"]
    assert {(row["set"], row["licence"], row["truth"]) for row in report["data"]} == {
        ("spheroids", "MIT", "single"),
        ("plates", "MIT", "union"),
    }
    assert [(row["set"], row["pictures"]) for row in report["sets"]] == [
        ("plates", 2),
        ("spheroids", 2),
        ("spheroids", 2),
    ]
    assert len(report["pictures"]) == 6
    assert report["pictures"][0]["counts"] == {"found": 1, "expected": 2, "matched": 1}


def test_kinds_of_pictures_have_their_own_rows(data: Path) -> None:
    result = command("otsu", "--data", data, "--set", "plates", "--jobs", 1, "--by-kind")
    assert list(rows_of(result.output)) == [("plates", "otsu"), ("plates: brightfield", "otsu")]


def test_overlays_show_truth_and_what_was_found(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "overlays"
    result = command(
        "otsu", "--data", data, "--set", "plates", "--set", "unlabelled", "--jobs", 1, "--overlays", folder
    )
    assert result.exit_code == 0, result.output
    assert rows_of(result.output)["unlabelled", "otsu"]["objects"] == "2"
    assert (folder / "unlabelled" / "organoids_1_otsu.jpg").exists()
    canvas = cv2.imread(str(folder / "plates" / "one_is_missed_otsu.jpg"))
    assert canvas is not None
    blue, _, red = np.moveaxis(canvas.astype(int), -1, 0)
    scale = canvas.shape[0] / SIDE
    near = np.zeros(blue.shape, bool)
    near[: round(80 * scale), : round(80 * scale)] = True
    assert np.any(red - blue > 60)
    assert not np.any((red - blue > 60) & ~near)
    assert np.any((blue - red > 60) & ~near)


@pytest.mark.parametrize("name", ["fields", "sizes"])
def test_pictures_are_composed_of_the_spheroids_in_the_data(data: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "scores.json"
    result = command("otsu", "--data", data, "--set", name, "--limit", 3, "--jobs", 1, "--json", file)
    assert result.exit_code == 0, result.output
    assert rows_of(result.output)[name, "otsu"]["n"] == "3"
    (made_of,) = json.loads(file.read_text())["data"]
    assert (made_of["source"], made_of["truth"]) == ("of drawn; composed by spheroseg", "instances")


@pytest.mark.parametrize("name", ["fields", "sizes"])
def test_without_a_spheroid_to_cut_the_set_is_refused_with_a_reason(data: Path, name: str) -> None:
    manifest = data / "manifest.csv"
    rows = manifest.read_text()
    # There is no spheroid in brightfield, and none with background beside it.
    manifest.write_text(rows.replace("brightfield", "fluorescence"))
    assert f"leave --set {name} out" in str(refused(data, name))
    manifest.write_text(rows)
    for mask in (data / "spheroids" / "masks").iterdir():
        cv2.imwrite(str(mask), np.full((SIDE, SIDE), 255, np.uint8))
    assert "no brightfield spheroid" in str(refused(data, name))


def refused(data: Path, name: str) -> DataAway:
    failed = command("otsu", "--data", data, "--set", name).exception
    assert isinstance(failed, DataAway)
    return failed


def test_the_number_of_processes_changes_nothing(data: Path) -> None:
    samples = read_samples(data)

    def scored(jobs: int) -> list[tuple[Any, ...]]:
        scores = [score for of_one in scores_of(samples, {"otsu": otsu}, jobs) for score in of_one]
        return [(s.set, s.name, s.kept, s.iou, s.counts, s.objects, s.flags) for s in scores]

    assert scored(1) == scored(2)


def test_touching_objects_count_separately_if_the_truth_separates_them() -> None:
    """Drawn scenes number each object. A threshold merges touching objects, and the score must show it."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    labels[40:120, 30:80], labels[40:120, 80:130] = 1, 2
    sample = Sample("scenes", "scenes/0", "touching", "drawn", "MIT", Truth.INSTANCES, Drawn(labels))
    ((score,),) = scores_of([sample], {"otsu": otsu})
    assert score.iou is not None
    assert score.iou > 0.97
    assert score.counts is not None
    assert (score.counts.found, score.counts.expected) == (1, 2)


class Drawn:
    def __init__(self, labels: np.ndarray[Any, np.dtype[np.uint16]]) -> None:
        self.labels = labels

    def __call__(self) -> tuple[Picture, np.ndarray[Any, np.dtype[np.uint16]]]:
        return photograph((self.labels > 0).astype(np.float32)), self.labels


def test_drawn_scenes_number_each_object() -> None:
    (sample,) = scene_samples(1)
    pixels, labels = sample.read()
    assert (sample.set, sample.truth) == ("scenes", Truth.INSTANCES)
    assert labels is not None
    assert labels.shape == pixels.shape


@needs_real_data
def test_the_real_sets_can_be_read_and_scored() -> None:
    samples = read_samples(REAL)
    assert {sample.set for sample in samples} == {"spheroids", "nuclei", "phase_cells"}
    assert all(sample.licence and sample.source for sample in samples)
    assert len(read_samples(REAL, ["unlabelled"])) == 19
    some = [sample for sample in samples if sample.set == "spheroids"][:4]
    (every, largest) = summaries(score for of_one in scores_of(some, {"otsu": otsu}) for score in of_one)
    assert (every.pictures, largest.kept) == (4, "largest")
    assert largest.mean is not None
    assert 0 < largest.mean < 1
