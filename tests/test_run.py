"""`spheroseg run`, as a person starts it: real processes, real images, kills at any moment."""

import csv
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from spheroseg.segmentation import classical
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model

from .synthetic import coverage, photograph

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "spheroids"
PICTURES = sorted(EXAMPLES.glob("*.png"))
SPHEROIDS = ROOT.parent / "shared" / "data" / "spheroids" / "images"

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


def test_the_manifest_tells_all_about_every_input(finished: Path) -> None:
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


def test_another_pixel_size_is_another_result_and_its_source_is_told(tmp_path: Path) -> None:
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
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)], "known already"


def test_a_wrong_option_or_one_that_an_image_cannot_serve_says_what_to_do(tmp_path: Path) -> None:
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


def test_a_pixel_size_that_the_file_contradicts_is_used_and_told(tmp_path: Path) -> None:
    picture = photograph(coverage(200, 240, 50, 50, 0, (120, 100))).astype(np.uint16)
    tifffile.imwrite(tmp_path / "disk.tif", picture, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "micron"})
    said = run(tmp_path / "disk.tif", "--out", tmp_path / "out", "--pixel-size", "0.65")
    assert "1 image: the ImageJ tags in the file say 0.5 µm, but --pixel-size says 0.65 µm, which was used." in said
    (item,) = manifest(tmp_path / "out")["inputs"]
    contradicted = {"um": 0.65, "source": "option", "contradicted_by": [{"um": 0.5, "source": "ImageJ"}]}
    assert (item["pixel_size"], item["flags"]) == (contradicted, ["pixel_size_contradiction"])
    assert rows(tmp_path / "out")[0]["qc_flags"] == "pixel_size_contradiction"


def test_a_plane_of_a_stack_is_chosen_and_another_choice_keeps_what_is_done(tmp_path: Path) -> None:
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
    told = [(item["page"], item["t"], item["channel_name"], item["time_h"]) for item in manifest(out)["inputs"]]
    assert told == [(2, 1, "GFP", 0), (4, 2, "GFP", 12)]
    assert manifest(out)["asked_for"]["pages"] == {"time": "all", "z": None, "channel": "gfp"}

    assert "Going on: 2 of 4 are completed already" in run(path, "--out", out, "--channel", "all")
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)]
    assert len(rows(out)) == 4
    assert "1 of 1 images completed" in run(path, "--out", out, "--channel", "1", "--time", "2")
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["stack.ome_p3.tif"]
    assert "no channel 3 in this file: it has channels 1 (BF) and 2 (GFP)" in run(
        path, "--out", out, "--channel", "3", code=1
    )
    assert "must be a number from 1 or all" in run(path, "--out", out, "--z", "0", code=2)


def png_bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(b"\0" * 30_001) for _ in range(30_000)) + packer.flush()
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_each_bad_input_has_its_own_clear_error_and_the_rest_completes(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    good = (EXAMPLES / "image_08.png").read_bytes()
    bad = {
        "corrupt.png": (good[: len(good) // 2], "bad_image", "damaged or incomplete"),
        "text.png": (b"this is not an image", "bad_image", "text file"),
        "empty.png": (b"", "bad_image", "empty"),
        "bomb.png": (png_bomb(), "image_too_large", "30000 × 30000"),
        "one.png": (cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes(), "bad_image", "1 × 1"),
        "film.czi": (b"ZISRAWFILE" + bytes(100), "unsupported_image", "export"),
        "broken.zip": (b"PK\x03\x04 no archive", "unreadable", "zip"),
    }
    for name, (content, _, _) in bad.items():
        (folder / name).write_bytes(content)
    (folder / "good.png").write_bytes(good)
    cv2.imwrite(str(folder / "blank.png"), np.full((200, 200), 128, np.uint8))
    tifffile.imwrite(folder / "stack.tif", np.zeros((2, 60, 60), np.uint16), photometric="minisblack")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("a/inside.png", good)
    said = run(folder, "--out", out, code=1)
    assert "7 failed" in said
    found = inputs(out)
    for name, (_, reason, words) in bad.items():
        item = found[f"{name}#1"]
        assert (item["state"], item["reason"]) == ("failed", reason), item
        assert item["attempts"] <= 1, "what cannot get better is not tried again"
        assert words in item["error"]
        assert name in said
        assert item["error"] in said
    completed = {name for name, item in found.items() if item["state"] == "completed"}
    assert completed == {"good.png#1", "blank.png#1", "stack.tif#1", "stack.tif#2", "more.zip/a/inside.png#1"}
    assert sorted(row["image"] for row in rows(out)) == ["good.png", "more.zip/a/inside.png"]
    blank = found["blank.png#1"]
    assert (blank["objects"], blank["flags"]) == (0, ["no_object_found"])


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


def test_a_folder_that_may_not_be_read_is_named_and_the_rest_completes(tmp_path: Path) -> None:
    locked, out = tmp_path / "locked", tmp_path / "out"
    locked.mkdir()
    locked.chmod(0)
    shutil.copy(EXAMPLES / "image_08.png", tmp_path)
    # Root reads everything, unless it gives up that privilege.
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    said = run(tmp_path, "--out", out, code=1, before=without)
    item = inputs(out)["locked#1"]
    assert (item["reason"], item["attempts"]) == ("unreadable", 0)
    assert "Permission denied" in said
    assert len(rows(out)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_a_clear_error_and_the_same_command_goes_on_afterwards(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(12 * 1024**2))
    said = run(*PICTURES, "--out", small_disk / "out", code=1)
    assert "disk" in said
    assert "free some space" in said
    assert {item["reason"] for item in inputs(small_disk / "out").values()} == {"disk_full"}
    ballast.unlink()
    run(*PICTURES, "--out", small_disk / "out")
    assert len(rows(small_disk / "out")) == 8


def test_a_disk_without_room_for_anything_is_told_in_words(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    said = run(*PICTURES, "--out", small_disk / "out", code=1)
    assert "Traceback" not in said
    assert "full" in said or "No space left" in said
    (small_disk / "ballast").unlink()
    run(*PICTURES, "--out", small_disk / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--out", "{out}"], "no such file or folder: nowhere"),
        ([EXAMPLES], "Missing option '--out'"),
        ([EXAMPLES, "--out", "{out}", "--pixel-size", "-1"], "positive number"),
        ([EXAMPLES, "--out", "{out}", "--pixel-size", "nan"], "positive number"),
        ([EXAMPLES, "--out", "{out}", "--threshold", "1.5"], "between 0 and 1"),
        ([EXAMPLES, "--out", "{out}", "--model", "magic"], "no model 'magic'"),
        ([EXAMPLES.parent / "README.md", "--out", "{readme}"], "not a folder"),
    ],
)
def test_wrong_use_says_what_is_wrong_and_leaves_nothing(tmp_path: Path, arguments: list[Any], words: str) -> None:
    (tmp_path / "readme").write_text("a file")
    places = {"out": tmp_path / "out", "readme": tmp_path / "readme"}
    said = run(*(str(argument).format(**places) for argument in arguments), code=2, env={"COLUMNS": "200"})
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_wrong_settings_are_all_named_together(tmp_path: Path) -> None:
    wrong = {"TASK_TIMEOUT_SECONDS": "soon", "TASK_MAX_RETRIES": "-1"}
    said = run(*PICTURES, "--out", tmp_path / "out", code=2, env=wrong)
    assert "TASK_TIMEOUT_SECONDS='soon'" in said
    assert "TASK_MAX_RETRIES='-1'" in said


def test_a_folder_without_images_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "No images" in run(tmp_path / "in", "--out", tmp_path / "out", code=2)


def test_files_that_no_run_has_made_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "image_08.tif").write_bytes(b"a student's own work")
    said = run(*PICTURES, "--out", tmp_path, code=2)
    assert "already holds masks" in said
    assert (tmp_path / "masks" / "image_08.tif").read_bytes() == b"a student's own work"


def many_images(folder: Path, count: int) -> None:
    folder.mkdir()
    examples = PICTURES
    for number in range(count):
        shutil.copy(examples[number % len(examples)], folder / f"image_{number:03}.png")


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@contextmanager
def begun(*arguments: Any, env: dict[str, str] | None = None, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A run in the background, which does not outlive the test."""
    process = subprocess.Popen(command(*arguments), env={**os.environ, **QUICK, **(env or {})}, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def check_once_each(out: Path, count: int) -> None:
    counts = manifest(out)["counts"]
    assert counts["completed"] == count, counts
    assert len(rows(out)) == len({row["image"] for row in rows(out)}) == count
    applied = "SELECT task_id, count(*) FROM segmentation_results WHERE NOT superseded GROUP BY task_id"
    assert [number for _, number in query(out, applied)] == [1] * count
    assert query(out, "SELECT count(*) FROM segmentation_tasks") == [(count,)]
    assert query(out, "SELECT count(*) FROM segmentation_queue") == [(0,)]
    assert len(list((out / "overlays").iterdir())) == len(list((out / "masks").iterdir())) == count
    assert not list((out / ".spheroseg").rglob(".part-*")), "no half-written file is left"


def test_killed_at_any_moment_and_started_again_it_goes_on(tmp_path: Path) -> None:
    chance = random.Random(20261124)
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 40)
    kills, patience = 0, 3.0
    for _ in range(60):
        hardy = {"TASK_MAX_RETRIES": "20"}
        with begun(folder, "--out", out, "--workers", "2", env=hardy, stdout=DEVNULL, stderr=PIPE) as process:
            end = time.monotonic() + chance.uniform(0.3, patience)
            # A slow machine may need longer than that only to begin.
            patience *= 1.1
            while process.poll() is None and time.monotonic() < end:
                time.sleep(chance.uniform(0.2, 0.6))
                if chance.random() < 0.5 and (children := children_of(process.pid)):
                    # Also while they start.
                    os.kill(chance.choice(children), signal.SIGKILL)
            if process.poll() is None:
                process.kill()
                kills += 1
            _, complaint = process.communicate()
        assert "Traceback" not in complaint
        if process.returncode == 0:
            break
        # A child that is killed ten times before it has begun is given up.
        assert process.returncode == -signal.SIGKILL or "was killed by SIGKILL" in complaint, complaint
    assert process.returncode == 0, "it never came to its end"
    assert kills >= 2, "the test killed nothing"
    check_once_each(out, 40)


def wait_for_the_first_mask(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((out / ".spheroseg" / "storage").rglob("mask.tif")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_interrupted_from_the_keyboard_it_stops_in_order_and_goes_on_later(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 60)
    with begun(folder, "--out", out, "--workers", "1", stdout=PIPE, start_new_session=True) as process:
        wait_for_the_first_mask(out)
        # As a terminal does: the whole foreground group is told.
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "goes on from here" in said
    counts = manifest(out)["counts"]
    assert 0 < counts["completed"] < 60
    assert counts["completed"] + counts["queued"] == 60
    assert len(rows(out)) == counts["completed"]
    run(folder, "--out", out)
    check_once_each(out, 60)


def test_a_reader_that_goes_away_does_not_stop_the_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begun(*PICTURES, "--out", out, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        complaint = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, complaint) == (0, "")
    with open("/dev/full", "w") as full, begun(*PICTURES, "--out", out, stdout=full, stderr=PIPE) as process:
        _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")
    assert len(rows(out)) == 8


def test_the_outputs_of_a_run_are_never_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(EXAMPLES / "image_08.png", folder)
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, folder / "results", tmp_path / "link" / ".." / "in"):
        for _ in range(2):
            run(folder, "--out", out)
            assert [item["image"] for item in manifest(out)["inputs"]] == ["image_08.png"]
        if out != folder:
            shutil.rmtree(folder / "results", ignore_errors=True)


def test_odd_files_and_names_are_one_problem_each(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    good = (EXAMPLES / "image_08.png").read_bytes()
    Path(os.fsdecode(os.fsencode(folder) + b"/Sph\xe4roid%20.png")).write_bytes(good)
    (folder / f"{'long' * 40}").mkdir()
    for name in ("a.png", "b.png"):
        (folder / ("long" * 40) / f"{'name' * 20}{name}").write_bytes(good)
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    (folder / "round").symlink_to(folder)
    with zipfile.ZipFile(folder / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.bmp", bytes(200_000))
        archive.writestr("y.png", good)
    content = bytearray((folder / "damaged.zip").read_bytes())
    content[60:120] = bytes(60)
    (folder / "damaged.zip").write_bytes(content)
    said = run(folder, "--out", out, code=1)
    assert "Traceback" not in said
    failed = {item["image"] for item in manifest(out)["inputs"] if item["state"] == "failed"}
    assert failed == {"pipe.png", "broken.png", "damaged.zip/x.bmp"}
    assert {row["image"] for row in rows(out)} >= {"Sph\\xe4roid%20.png", "damaged.zip/y.png"}
    assert len(rows(out)) == 4
    assert len(list((out / "overlays").iterdir())) == 4


def test_an_output_that_somebody_edited_is_left_alone_and_a_lost_one_comes_back(tmp_path: Path) -> None:
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
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(2,)], "what is lost is made again"


def test_a_folder_that_was_moved_is_done_once_more_and_then_known(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 2)
    run(folder, "--out", out)
    folder = folder.rename(tmp_path / "moved")
    for _ in range(2):
        run(folder, "--out", out)
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(4,)]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 60)
    with begun(folder, "--out", out, "--workers", "1", stdout=DEVNULL):
        wait_for_the_first_mask(out)
        assert "another run is writing" in run(folder, "--out", out, code=2)


def test_a_file_changed_after_it_was_listed_does_not_lend_its_name_to_other_pixels(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 60)
    with begun(folder, "--out", out, "--workers", "1", stdout=PIPE) as process:
        wait_for_the_first_mask(out)
        shutil.copy(folder / "image_000.png", folder / "image_059.png")
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "changed after it was listed" in said
    run(folder, "--out", out)
    assert manifest(out)["counts"]["completed"] == 60


def test_all_real_spheroids_complete(tmp_path: Path) -> None:
    if not SPHEROIDS.is_dir():
        pytest.skip(f"no labelled images at {SPHEROIDS}")
    said = run(SPHEROIDS, "--out", tmp_path / "out")
    assert "36 of 36 images completed" in said
    assert {row["n_objects"] for row in rows(tmp_path / "out")} == {"1"}
