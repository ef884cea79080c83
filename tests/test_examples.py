"""The scripts of `examples/`, as a reader starts them."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spheroseg.segmentation import classical

from .conftest import eventually
from .support.ports import free_port
from .support.processes import Service
from .support.runs import PICTURES, ROOT

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.slow


def start(*words: str | Path, folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, "MODEL": classical.NAME, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_script_is_tested_here() -> None:
    scripts = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".mjs", ".sh")}
    assert scripts == {"segment_array.py", "run_folder.py", "submit_and_wait.py", "producer.mjs"}


def test_one_array_is_segmented_and_its_labels_are_measured(tmp_path: Path) -> None:
    said = start(sys.executable, EXAMPLES / "segment_array.py", folder=tmp_path)
    assert "1 objects by" in said
    assert "object 1 from the labels:" in said


def test_a_folder_is_run_and_its_growth_printed(tmp_path: Path) -> None:
    said = start(sys.executable, EXAMPLES / "run_folder.py", folder=tmp_path)
    assert "30 of 30 images" in said
    assert "control: doubling time" in said
    assert (tmp_path / "results" / "growth.csv").is_file()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """The address of `spheroseg serve`, and the environment with a token for it."""
    port = free_port()
    env = {
        **os.environ,
        "MODEL": classical.NAME,
        "SPHEROSEG_DATA_DIR": str(tmp_path / "data"),
        "BACKEND_PORT": str(port),
        "WORKER_CONCURRENCY": "1",
    }
    service = Service("serve", ["spheroseg.cli", "serve"], env, tmp_path / "log")
    service.start()
    try:
        await eventually(lambda: "token of the administrator:" in service.tail(), within=60)
        token = service.tail().partition("token of the administrator: ")[2].split()[0]
        yield f"http://127.0.0.1:{port}", {"TOKEN": token}
    finally:
        service.kill()


@pytest.mark.servers
async def test_images_are_submitted_to_a_server_and_waited_for(
    server: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, env = server
    said = start(sys.executable, EXAMPLES / "submit_and_wait.py", address, *PICTURES[:2], folder=tmp_path, env=env)
    assert "completed" in said
    assert "results.csv: 2 objects" in said
    assert (tmp_path / "results.csv").is_file()


@pytest.mark.servers
async def test_a_producer_in_another_language_goes_through_http(
    server: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    address, env = server
    said = start(node, EXAMPLES / "producer.mjs", address, *PICTURES[:2], folder=tmp_path, env=env)
    assert "completed" in said
    assert f"{PICTURES[0].name}: 1 objects" in said
