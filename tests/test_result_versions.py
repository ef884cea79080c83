"""Images that were segmented in several ways, and which tasks of a run are repeated."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from .support.backend import Backend
from .support.plates import add_images, add_project
from .support.runs import EXAMPLES, inputs, manifest, query, rows, run

pytestmark = pytest.mark.slow

ONE, TWO = "image_08.png", "image_12.png"


def history(out: Path, code: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", "history", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    here = tmp_path / "images"
    here.mkdir()
    shutil.copy(EXAMPLES / ONE, here)
    return here


def test_every_way_of_segmenting_is_a_version_that_is_restored_without_work(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, "--out", out)
    first = rows(out)
    run(folder, "--out", out, "--threshold", 0.6, "--pixel-size", 2)
    assert manifest(out)["result_version"] == 2
    versions = history(out)
    assert [(v["version"], v["completed"], v["failed"], v["pixel_size_um"]) for v in versions] == [
        (1, 1, 0, None),
        (2, 1, 0, 2.0),
    ]
    assert [v["parameters"]["threshold"] for v in versions] == [0.5, 0.6]
    run(folder, "--out", out)
    assert manifest(out)["result_version"] == 1
    assert rows(out) == first
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(2,)]


def test_only_failed_repeats_failed_tasks_and_adds_none(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = folder / "bad.png"
    bad.write_bytes((EXAMPLES / TWO).read_bytes()[:9000])
    run(folder, "--out", out, code=1)
    before = inputs(out)
    shutil.copy(EXAMPLES / TWO, folder / "new.png")
    said = run(folder, "--out", out, "--only", "failed", code=1)
    assert "Images left out because of --only failed: 1" in said
    after = inputs(out)
    assert after.keys() == {f"{ONE}#1", "bad.png#1"}
    assert after[f"{ONE}#1"]["task_id"] == before[f"{ONE}#1"]["task_id"]
    assert after["bad.png#1"]["attempts"] == before["bad.png#1"]["attempts"] + 1
    shutil.copy(EXAMPLES / TWO, bad)
    run(folder, "--out", out, "--only", "failed")
    assert inputs(out)["bad.png#1"]["state"] == "completed"
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(2,)]


def test_only_changed_adds_changed_images_and_repeats_none(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = folder / "other.png"
    other.write_bytes((EXAMPLES / TWO).read_bytes()[:9000])
    run(folder, "--out", out, code=1)
    attempts = inputs(out)["other.png#1"]["attempts"]
    shutil.copy(EXAMPLES / TWO, folder / ONE)
    run(folder, "--out", out, "--only", "changed", code=1)
    assert inputs(out)["other.png#1"]["attempts"] == attempts
    assert inputs(out)[f"{ONE}#1"]["state"] == "completed"
    assert query(out, "SELECT count(*) FROM segmentation_results") == [(2,)]


def test_only_without_an_earlier_run_is_refused_with_advice(folder: Path, tmp_path: Path) -> None:
    said = run(folder, "--out", tmp_path / "out", "--only", "failed", code=2)
    assert "leave out --only" in said
    assert "name the folder" in history(tmp_path, code=2)


async def test_a_server_lists_the_versions_of_a_project(backend: Backend, ada: httpx.AsyncClient) -> None:
    project = await add_project(backend.engine, "ada")
    await add_images(backend.engine, project, 2)
    batches = []
    for threshold in (0.5, 0.6, 0.5):
        asked = {"project_id": str(project), "parameters": {"threshold": threshold}}
        batches.append((await ada.post("/api/segmentation/batches", json=asked)).json()["id"])
    versions = (await ada.get(f"/api/projects/{project}/result-versions")).json()["items"]
    assert [(v["number"], v["parameters"]["threshold"], v["completed"]) for v in versions] == [
        (1, 0.5, 0),
        (2, 0.6, 0),
    ]
    assert [v["batch_ids"] for v in versions] == [[batches[0], batches[2]], [batches[1]]]
    assert (await ada.get(f"/api/projects/{batches[0]}/result-versions")).status_code == 404
