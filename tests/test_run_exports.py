"""`spheroseg run --export`: the files in the output folder, and how they change with the options."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools.coco import COCO
from roifile import roiread

from .support.synthetic import coverage, photograph

pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"), pytest.mark.slow]


def run(*arguments: Any, code: int = 0) -> str:
    command = [sys.executable, "-m", "spheroseg.cli", "run", *map(str, arguments)]
    environment = {**os.environ, "SPHEROSEG_ENV": "development", "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == code, done.stdout
    return done.stdout


def manifest(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spheroids, one of them at the edge; nothing; and a stack of two pages."""
    folder = tmp_path_factory.mktemp("pictures")
    cover = coverage(300, 500, 60, 60, 0, (20, 150)) + coverage(300, 500, 50, 70, 20, (340, 150))
    cv2.imwrite(str(folder / "two.png"), np.asarray(photograph(cover), np.uint8))
    cv2.imwrite(str(folder / "blank.png"), np.full((200, 200), 128, np.uint8))
    page = photograph(coverage(200, 240, 50, 50, 0, (120, 100))).astype(np.uint16)
    stack = np.stack([page, page[::-1]])
    tifffile.imwrite(
        folder / "stack.tif", stack, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "micron", "axes": "TYX"}
    )
    return folder


@pytest.fixture(scope="module")
def everything(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    options = [part for kind in ("rois", "geojson", "coco", "bundle") for part in ("--export", kind)]
    said = run(pictures, "--out", out, *options)
    assert all(str(out / name) in said for name in ("rois/", "geojson/", "coco.json", "bundle.zip"))
    return out


def test_every_export_has_the_objects_of_the_masks(everything: Path) -> None:
    coco = COCO(str(everything / "coco.json"))
    assert len(coco.imgs) == len(manifest(everything)["inputs"]) == 4
    for image, item in zip(coco.imgs.values(), manifest(everything)["inputs"], strict=True):
        assert (image["file_name"], image["page"]) == (item["image"], item["page"])
        labels = tifffile.imread(everything / item["mask"]["path"])
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        features = json.loads((everything / item["geojson"]["path"]).read_text())["features"]
        assert len(annotations) == len(features) == labels.max()
        for annotation, feature in zip(annotations, features, strict=True):
            pixels = np.count_nonzero(labels == annotation["object"])
            assert coco.annToMask(annotation).sum() == pytest.approx(pixels, rel=0.01)
            assert feature["properties"]["measurements"]["area_px2"] == pytest.approx(pixels, rel=0.01)
        if not item["objects"]:
            assert "rois" not in item, "ImageJ refuses a set of no regions"
            continue
        rois = roiread(everything / item["rois"]["path"])
        assert isinstance(rois, list)
        assert [roi.name for roi in rois] == [feature["properties"]["name"] for feature in features]
        assert {roi.position for roi in rois} == {item["page"] if item["image"] == "stack.tif" else 0}
    assert sorted(path.name for path in (everything / "rois").iterdir()) == [
        "stack_p1.zip",
        "stack_p2.zip",
        "two.zip",
    ]


def test_label_images_carry_the_pixel_size(everything: Path) -> None:
    with tifffile.TiffFile(everything / "masks" / "stack_p1.tif") as tiff:
        assert tiff.is_imagej
        assert tiff.imagej_metadata is not None
        assert tiff.imagej_metadata["unit"] == "micron"
        pixels, micrometres = tiff.pages.first.tags["XResolution"].value
        assert pixels / micrometres == 2.0


def test_the_bundle_holds_all_files_of_the_folder(everything: Path) -> None:
    there = {
        path.relative_to(everything).as_posix()
        for path in everything.rglob("*")
        if path.is_file() and ".spheroseg" not in path.parts
    }
    with zipfile.ZipFile(everything / "bundle.zip") as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == there - {"bundle.zip"} | {"ro-crate-metadata.json"}
        files = json.loads(archive.read("manifest.json"))["files"]
    for name in there - {"bundle.zip", "manifest.json"}:
        assert files[name]["sha256"] == sha256(everything / name), name
    exports = manifest(everything)["exports"]
    assert exports["bundle"]["sha256"] == sha256(everything / "bundle.zip")
    assert exports["coco"]["sha256"] == sha256(everything / "coco.json")


def test_the_folder_holds_the_last_exports_and_edited_files(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pictures, "--out", out)
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        "growth.csv",
        "growth.parquet",
        "growth.xlsx",
        "manifest.json",
        "masks",
        "overlays",
        "results.csv",
        "rois",
    ]
    edited = out / "rois" / "two.zip"
    edited.write_bytes(b"corrected by hand")
    run(pictures, "--out", out, "--export", "geojson", "--export", "coco")
    assert [path.name for path in (out / "rois").iterdir()] == ["two.zip"]
    assert {path.name for path in (out / "geojson").iterdir()} == {
        f"{name}.geojson" for name in ("two", "blank", "stack_p1", "stack_p2")
    }
    assert manifest(out)["asked_for"]["exports"] == ["coco", "geojson"]
    run(pictures, "--out", out)
    assert edited.read_bytes() == b"corrected by hand"
    assert not (out / "geojson").exists()
    assert not (out / "coco.json").exists()
    is_edited = {item["image"]: item["rois"]["edited"] for item in manifest(out)["inputs"] if "rois" in item}
    assert is_edited == {"two.png": True, "stack.tif": False}
    with sqlite3.connect(out / ".spheroseg" / "spheroseg.db") as database:
        assert database.execute("SELECT count(*) FROM segmentation_results").fetchone() == (4,), "segmented once"


def test_other_parameters_renew_every_file_that_was_not_edited(pictures: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(pictures / "two.png", folder / name)

    def objects(name: str) -> tuple[int, int, int]:
        rois = roiread(out / "rois" / f"{name}.zip")
        assert isinstance(rois, list)
        features = json.loads((out / "geojson" / f"{name}.geojson").read_text())["features"]
        return int(tifffile.imread(out / "masks" / f"{name}.tif").max()), len(rois), len(features)

    exports = ("--export", "rois", "--export", "geojson")
    run(folder, "--out", out, *exports)
    assert objects("a") == objects("b") == (2, 2, 2)
    mask = out / "masks" / "b.tif"
    tifffile.imwrite(mask, np.full((300, 500), 7, np.uint16))
    # As after a run that kept no journal yet.
    (out / ".spheroseg" / "written").unlink()
    (out / "rois" / "a.zip").unlink()
    (out / "rois" / "b.zip").unlink()
    shutil.rmtree(out / "geojson")
    run(folder, "--out", out, *exports, "--edge", "discard")
    assert objects("a") == (1, 1, 1)
    assert objects("b") == (7, 1, 1)
    assert [item["mask"]["edited"] for item in manifest(out)["inputs"]] == [False, True]
    run(folder, "--out", out, *exports)
    assert objects("a") == (2, 2, 2)
    assert objects("b") == (7, 2, 2)


def test_a_zip_of_a_run_is_no_input_of_the_next(everything: Path) -> None:
    said = run(everything, "--out", everything.parent / "other", code=2)
    assert "no images found" in said


def test_an_unknown_export_is_wrong_usage_and_the_known_ones_are_named(pictures: Path, tmp_path: Path) -> None:
    said = run(pictures, "--out", tmp_path / "out", "--export", "excel", code=2)
    assert all(name in said for name in ("rois", "geojson", "coco", "bundle"))
    assert not (tmp_path / "out").exists()
