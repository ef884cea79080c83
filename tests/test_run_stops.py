"""`spheroseg run` killed at any moment, interrupted, without a reader, and beside another run."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest

from .support.runs import PICTURES, QUICK, command, manifest, many_images, query, rows, run

pytestmark = pytest.mark.slow


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


def test_killed_at_any_moment_and_started_again_it_continues(tmp_path: Path) -> None:
    chance = random.Random(20261124)
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 40)
    kills, patience = 0, 3.0
    for _ in range(60):
        hardy = {"TASK_MAX_RETRIES": "20"}
        with begun(folder, "--out", out, "--workers", "2", env=hardy, stdout=DEVNULL, stderr=PIPE) as process:
            end = time.monotonic() + chance.uniform(0.3, patience)
            # A slow machine may need longer than that to start.
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
    assert process.returncode == 0, "it never finished"
    assert kills >= 2, "the test killed nothing"
    check_once_each(out, 40)


def wait_for_the_first_mask(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((out / ".spheroseg" / "storage").rglob("mask.tif")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_interrupted_from_the_keyboard_it_stops_gracefully_and_continues_later(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 60)
    with begun(folder, "--out", out, "--workers", "1", stdout=PIPE, start_new_session=True) as process:
        wait_for_the_first_mask(out)
        # As a terminal does: the signal goes to the whole foreground group.
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Run the same command again to continue." in said
    counts = manifest(out)["counts"]
    assert 0 < counts["completed"] < 60
    assert counts["completed"] + counts["queued"] == 60
    assert len(rows(out)) == counts["completed"]
    run(folder, "--out", out)
    check_once_each(out, 60)


def test_a_closed_or_full_output_stream_does_not_stop_the_work(tmp_path: Path) -> None:
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


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    many_images(folder, 60)
    with begun(folder, "--out", out, "--workers", "1", stdout=DEVNULL):
        wait_for_the_first_mask(out)
        assert "another run is writing" in run(folder, "--out", out, code=2)


def test_a_file_that_changes_after_it_was_listed_is_not_segmented_under_its_old_checksum(tmp_path: Path) -> None:
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
