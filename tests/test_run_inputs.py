"""`spheroseg run` with faulty files, names, disks and options."""

import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from .support.runs import EXAMPLES, PICTURES, inputs, manifest, rows, run

pytestmark = pytest.mark.slow


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
        assert item["attempts"] <= 1, "a permanent error is not retried"
        assert words in item["error"]
        assert name in said
        assert item["error"] in said
    completed = {name for name, item in found.items() if item["state"] == "completed"}
    assert completed == {"good.png#1", "blank.png#1", "stack.tif#1", "stack.tif#2", "more.zip/a/inside.png#1"}
    assert sorted(row["image"] for row in rows(out)) == ["good.png", "more.zip/a/inside.png"]
    blank = found["blank.png#1"]
    assert (blank["objects"], blank["flags"]) == (0, ["no_object_found"])


def test_an_unreadable_folder_is_reported_and_the_rest_completes(tmp_path: Path) -> None:
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


def test_a_full_disk_is_a_clear_error_and_the_same_command_continues_afterwards(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(12 * 1024**2))
    said = run(*PICTURES, "--out", small_disk / "out", code=1)
    assert "disk" in said
    assert "free some space" in said
    assert {item["reason"] for item in inputs(small_disk / "out").values()} == {"disk_full"}
    ballast.unlink()
    run(*PICTURES, "--out", small_disk / "out")
    assert len(rows(small_disk / "out")) == 8


def test_a_completely_full_disk_is_an_error_in_words(small_disk: Path) -> None:
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
def test_wrong_usage_says_what_is_wrong_and_writes_nothing(tmp_path: Path, arguments: list[Any], words: str) -> None:
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


def test_a_folder_without_images_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "no images found" in run(tmp_path / "in", "--out", tmp_path / "out", code=2)


def test_files_that_no_run_has_made_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "image_08.tif").write_bytes(b"a student's own work")
    said = run(*PICTURES, "--out", tmp_path, code=2)
    assert "already holds masks" in said
    assert (tmp_path / "masks" / "image_08.tif").read_bytes() == b"a student's own work"


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


def test_each_odd_file_is_one_problem(tmp_path: Path) -> None:
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
