"""`spheroseg run`, as a person starts it: real processes, real images."""

import re
import shutil
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from spheroseg.segmentation.model import DEFAULT_MODEL, find_model

from .support.runs import EXAMPLES, PICTURES, ROOT, inputs, manifest, many_images, query, rows, run
from .support.synthetic import coverage, photograph

pytestmark = pytest.mark.slow

SPHEROIDS = ROOT.parent / "shared" / "data" / "spheroids" / "images"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, segmented."""
    out = tmp_path_factory.mktemp("run") / "results"
    said = run(*PICTURES, "--out", out)
    assert "8 of 8 images completed" in said
    assert str(out / "results.csv") in said
    return out


def test_by_default_the_network_is_asked_and_each_result_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(*PICTURES, "--out", out, env={"MODEL": ""})
    assert f"model {DEFAULT_MODEL}" in said
    assert "8 of 8 images completed" in said
    model = find_model(DEFAULT_MODEL)
    assert {(row["model"], row["model_sha256"]) for row in rows(out)} == {(model.name, model.sha256)}
    assert len({row["image"] for row in rows(out)}) == 8


def test_a_folder_of_images_becomes_tables_masks_and_overlays(finished: Path) -> None:
    names = sorted(path.stem for path in PICTURES)
    assert sorted(path.stem for path in (finished / "overlays").glob("*.jpg")) == names
    assert sorted(path.stem for path in (finished / "masks").glob("*.tif")) == names
    assert sorted(row["image"] for row in rows(finished)) == [f"{name}.png" for name in names]
    for row in rows(finished):
        mask = tifffile.imread(finished / "masks" / row["image"].replace(".png", ".tif"))
        assert mask.dtype == np.uint16
        assert np.count_nonzero(mask == int(row["object"])) == pytest.approx(float(row["area_px2"]), rel=0.02)


def test_images_done_as_one_inference_give_the_same_measurements(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    run(*PICTURES, "--out", out, "--workers", 1, env={"WORKER_BATCH_SIZE": "4"})
    assert rows(out) == rows(finished)
    sizes = query(out, "SELECT result ->> 'batch_size' FROM segmentation_results")
    assert sorted(sizes) == [(4,)] * 8
    assert query(finished, "SELECT DISTINCT result ->> 'batch_size' FROM segmentation_results") == [(1,)]


def test_without_a_pixel_size_there_is_no_column_in_um(finished: Path) -> None:
    columns = rows(finished)[0].keys()
    measured = [name for name in columns if not name.startswith("used_")]
    assert not [name for name in measured if re.search(r"_um\d?$", name) and name != "pixel_size_um"]
    assert {row["pixel_size_um"] for row in rows(finished)} == {""}


def test_the_manifest_describes_every_input(finished: Path) -> None:
    content = manifest(finished)
    assert content["counts"] == {"queued": 0, "processing": 0, "completed": 8, "failed": 0, "cancelled": 0}
    assert content["skipped"] == []
    for item in content["inputs"]:
        assert (item["state"], item["attempts"], item["failures"]) == ("completed", 1, [])
        assert re.fullmatch("[0-9a-f]{64}", item["sha256"])
        assert item["model"]["sha256"] == content["asked_for"]["model_sha256"]
        assert set(item["parameters"]) == {
            "threshold",
            "min_area_px",
            "min_area_um2",
            "objects",
            "edge",
            "separate",
        }
        assert item["parameters"]["min_area_px"] > 0, "the value that was used, not the wish"
        assert item["versions"]["spheroseg"] == content["spheroseg"]
        assert (finished / item["overlay"]["path"]).exists()


def test_the_same_command_again_does_nothing_twice(finished: Path) -> None:
    before = query(finished, "SELECT id, task_id, attempt FROM segmentation_results ORDER BY id")
    assert "8 of 8 are completed already" in run(*PICTURES, "--out", finished)
    assert query(finished, "SELECT id, task_id, attempt FROM segmentation_results ORDER BY id") == before
    assert len(rows(finished)) == 8


def test_added_images_are_done_and_removed_ones_leave_no_picture_behind(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    first, second, third = PICTURES[:3]
    shutil.copy(first, folder)
    shutil.copy(second, folder)
    run(folder, "--out", out)
    (folder / first.name).unlink()
    shutil.copy(third, folder)
    run(folder, "--out", out)
    assert sorted(row["image"] for row in rows(out)) == [second.name, third.name]
    assert sorted(path.stem for path in (out / "overlays").iterdir()) == [second.stem, third.stem]
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(3,)]


def test_another_pixel_size_is_another_result_with_its_source(tmp_path: Path) -> None:
    out = tmp_path / "out"
    image = EXAMPLES / "image_08.png"
    run(image, "--out", out)
    run(image, "--out", out, "--pixel-size", "0.65")
    (row,) = rows(out)
    assert (row["pixel_size_um"], row["pixel_size_source"]) == ("0.65", "option")
    assert float(row["area_um2"]) == pytest.approx(float(row["area_px2"]) * 0.4225, rel=1e-4)
    assert float(row["feret_max_um"]) == pytest.approx(float(row["feret_max_px"]) * 0.65, rel=1e-4)
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(2,)]


def test_objects_are_chosen_by_options_and_other_options_are_another_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    cover = coverage(300, 700, 60, 60, 0, (30, 150)) + coverage(300, 700, 40, 40, 0, (340, 150))
    picture = np.asarray(photograph(cover + coverage(300, 700, 50, 50, 0, (580, 150))), np.uint8)
    cv2.imwrite(str(tmp_path / "three.png"), picture)

    def centres(*options: str) -> list[int]:
        run(tmp_path / "three.png", "--out", out, *options)
        return [round(float(row["centroid_x_px"]) / 10) * 10 for row in rows(out)]

    assert sorted(centres()) == [40, 340, 580]
    assert centres("--edge", "discard", "--objects", "largest") == [580]
    assert centres("--objects", "most_central") == [340]
    assert (rows(out)[0]["used_objects"], rows(out)[0]["used_edge"]) == ("most_central", "keep")
    assert sorted(centres("--min-area-um2", "1500", "--pixel-size", "0.5")) == [40, 580]
    assert rows(out)[0]["used_min_area_px"] == "6000.0"
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)]
    assert sorted(centres()) == [40, 340, 580]
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)], "these results exist already"


def test_an_option_that_is_wrong_or_does_not_fit_an_image_says_what_to_do(tmp_path: Path) -> None:
    image = EXAMPLES / "image_08.png"
    assert "all, largest, most_central" in run(image, "--out", tmp_path / "a", "--objects", "smallest", code=2)
    assert "keep, discard" in run(image, "--out", tmp_path / "a", "--edge", "cut", code=2)
    said = run(image, "--out", tmp_path / "b", "--min-area-um2", "500", code=1)
    assert "give the pixel size, or min_area_px" in said
    (item,) = inputs(tmp_path / "b").values()
    assert (item["reason"], item["attempts"]) == ("bad_parameters", 1)


def test_results_of_a_time_with_fewer_parameters_are_not_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(EXAMPLES / "image_08.png", "--out", out)
    with sqlite3.connect(out / ".spheroseg" / "spheroseg.db") as database:
        database.execute(
            "UPDATE segmentation_batches SET parameters = ?", ('{"threshold": 0.5, "min_area_px": null}',)
        )
    assert "1 of 1 are completed already" in run(EXAMPLES / "image_08.png", "--out", out)
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(1,)]


def test_a_pixel_size_in_the_file_is_used(tmp_path: Path) -> None:
    picture = photograph(coverage(200, 240, 50, 50, 0, (120, 100))).astype(np.uint16)
    tifffile.imwrite(tmp_path / "disk.tif", picture, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "micron"})
    run(tmp_path / "disk.tif", "--out", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["pixel_size_um"], row["pixel_size_source"]) == ("0.5", "ImageJ")
    assert float(row["equivalent_diameter_um"]) == pytest.approx(50, rel=0.01)


def test_a_pixel_size_that_the_file_contradicts_is_used_and_reported(tmp_path: Path) -> None:
    picture = photograph(coverage(200, 240, 50, 50, 0, (120, 100))).astype(np.uint16)
    tifffile.imwrite(tmp_path / "disk.tif", picture, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "micron"})
    said = run(tmp_path / "disk.tif", "--out", tmp_path / "out", "--pixel-size", "0.65")
    assert "1 image: the ImageJ tags in the file say 0.5 µm, but --pixel-size says 0.65 µm, which was used." in said
    (item,) = manifest(tmp_path / "out")["inputs"]
    contradicted = {"um": 0.65, "source": "option", "contradicted_by": [{"um": 0.5, "source": "ImageJ"}]}
    assert (item["pixel_size"], item["flags"]) == (contradicted, ["pixel_size_contradiction"])
    assert rows(tmp_path / "out")[0]["qc_flags"] == "pixel_size_contradiction"


def test_a_plane_of_a_stack_is_chosen_and_another_choice_keeps_earlier_results(tmp_path: Path) -> None:
    planes = [photograph(coverage(200, 240, radius, radius, 0, (120, 100))) for radius in (30, 40, 50, 60)]
    pixels = np.asarray(planes, np.uint8).reshape(2, 2, 200, 240)
    path, out = tmp_path / "stack.ome.tif", tmp_path / "out"
    metadata = {"axes": "TCYX", "Channel": {"Name": ["BF", "GFP"]}, "TimeIncrement": 12, "TimeIncrementUnit": "h"}
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=metadata)

    said = run(path, "--out", out, code=1)
    assert "this stack has 2 channels (BF, GFP): choose with --channel, or take all with --channel all" in said
    (item,) = manifest(out)["inputs"]
    assert (item["state"], item["reason"], item["attempts"]) == ("failed", "choose_plane", 0)

    assert "2 of 2 images completed" in run(path, "--out", out, "--channel", "gfp")
    assert [round(float(row["equivalent_diameter_px"]) / 10) * 10 for row in rows(out)] == [80, 120]
    pages = [(item["page"], item["t"], item["channel_name"], item["time_h"]) for item in manifest(out)["inputs"]]
    assert pages == [(2, 1, "GFP", 0), (4, 2, "GFP", 12)]
    assert manifest(out)["asked_for"]["pages"] == {"time": "all", "z": None, "channel": "gfp"}

    assert "Continuing: 2 of 4 are completed already" in run(path, "--out", out, "--channel", "all")
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)]
    assert len(rows(out)) == 4
    assert "1 of 1 images completed" in run(path, "--out", out, "--channel", "1", "--time", "2")
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["stack.ome_p3.tif"]
    assert "no channel 3 in this file: it has channels 1 (BF) and 2 (GFP)" in run(
        path, "--out", out, "--channel", "3", code=1
    )
    assert "must be a number from 1 or all" in run(path, "--out", out, "--z", "0", code=2)


def test_images_of_the_same_name_keep_their_own_outputs(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    picture = cv2.imread(str(EXAMPLES / "image_08.png"))
    assert picture is not None
    for name in ("a/x.png", "b/x.png", "x.bmp", "x.jpg", "x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), picture)
    run(folder, "--out", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert names == {"a__x.jpg", "b__x.jpg", "x.bmp.jpg", "x.jpg.jpg", "x.png.jpg"}


def test_an_edited_output_is_kept_and_a_deleted_one_is_restored(tmp_path: Path) -> None:
    out = tmp_path / "out"
    image = EXAMPLES / "image_08.png"
    run(image, "--out", out)
    mask = out / "masks" / "image_08.tif"
    mask.write_bytes(b"corrected by hand")
    (out / "overlays" / "image_08.jpg").unlink()
    run(image, "--out", out)
    (item,) = manifest(out)["inputs"]
    assert mask.read_bytes() == b"corrected by hand"
    assert (item["mask"]["edited"], item["overlay"]["edited"]) == (True, False)
    assert (out / "overlays" / "image_08.jpg").exists()
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(1,)]
    shutil.rmtree(out / ".spheroseg" / "storage")
    run(image, "--out", out)
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(2,)], "a lost result is made again"


def test_a_moved_folder_is_segmented_once_more_and_then_known(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 2)
    run(folder, "--out", out)
    folder = folder.rename(tmp_path / "moved")
    for _ in range(2):
        run(folder, "--out", out)
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)]


def test_all_real_spheroids_complete(tmp_path: Path) -> None:
    if not SPHEROIDS.is_dir():
        pytest.skip(f"no labelled images at {SPHEROIDS}")
    said = run(SPHEROIDS, "--out", tmp_path / "out")
    assert "36 of 36 images completed" in said
    assert {row["n_objects"] for row in rows(tmp_path / "out")} == {"1"}
