"""The wheel: complete, and a working program where it is installed."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Not __version__: that is what is installed here, as it was when it was installed.
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# What the build reads.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "copy").mkdir(exist_ok=True)
            shutil.copy(source, folder / "copy" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "copy")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_types_the_models_and_the_revisions(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "spheroseg/py.typed" in names
    assert {"spheroseg/models/spheroid-unet/model.onnx", "spheroseg/models/spheroid-unet/model.json"} <= names
    package = ROOT / "src" / "spheroseg"
    sources = {
        f"spheroseg/{file.relative_to(package)}"
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert sources <= names
    assert {name for name in names if name.startswith("spheroseg/database/migrations/versions/0")} >= {
        "spheroseg/database/migrations/versions/009_base.py",
        "spheroseg/database/migrations/versions/010_add_message_queue_tables.py",
    }


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"spheroseg-{VERSION}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(f"spheroseg-{VERSION}.dist-info/METADATA").decode()
    for line in ("License-Expression: MIT", "Author: The spheroseg developers", "Classifier: Typing :: Typed"):
        assert line in metadata
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {VERSION} - " in (ROOT / "CHANGELOG.md").read_text()


def test_an_installed_wheel_turns_a_picture_into_results(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True)
    # The dependencies are those of this environment. Only the folder is added, not what its own .pth files name, such
    # as an editable install of this checkout.
    (Path(packages) / "dependencies.pth").write_text(str(distribution("numpy").locate_file("")) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(folder / "bin" / command[0]), *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("python", "-c", "import spheroseg; print(spheroseg.__file__)").startswith(str(folder))
    assert run("spheroseg", "--version") == f"{VERSION}\n"
    run("spheroseg", "run", str(ROOT / "examples" / "spheroids" / "image_08.png"), "--out", "results")
    (entry,) = json.loads((tmp_path / "results" / "manifest.json").read_text())["inputs"]
    assert entry["state"] == "completed"
    run("spheroseg", "db", "upgrade")
