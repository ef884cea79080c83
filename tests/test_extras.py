"""Optional dependencies: the core works without them, and a command that needs one says how to install it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spheroseg.extras import MODULES, describe_missing, extra_of, is_installed

ROOT = Path(__file__).parents[1]
# Starts the program as if the modules of its first argument were not installed.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = sys.argv.pop(1).split(",")
sys.meta_path.insert(0, Absent())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in missing else find_spec(name)
from spheroseg.cli import main
main()
"""
ALL_EXTRAS = [module for modules in MODULES.values() for module in modules]


def spheroseg_without(modules: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, ",".join(modules), *arguments]
    path = f"{ROOT / 'src'}"
    return subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": path, "COLUMNS": "200", **environment}
    )


def test_every_extra_is_one_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(MODULES) == set(declared) - {"all", "dev"}


@pytest.mark.parametrize("extra", MODULES)
def test_an_extra_that_is_installed_is_found(extra: str) -> None:
    assert is_installed(extra)


def test_a_missing_module_leads_to_its_extra() -> None:
    assert extra_of(ModuleNotFoundError("No module named 'aio_pika'", name="aio_pika")) == "rabbitmq"
    assert extra_of(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")) == "train"
    assert extra_of(ModuleNotFoundError("No module named 'spherosag'", name="spherosag")) is None
    assert describe_missing("server", "spheroseg serve") == (
        "spheroseg serve needs the extra 'server': pip install 'spheroseg[server]'"
    )


def test_every_command_helps_without_any_extra() -> None:
    done = spheroseg_without(ALL_EXTRAS, "--help")
    assert done.returncode == 0, done.stderr
    assert "worker-http" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "extra"),
    [
        (["serve"], {}, "server"),
        (["exporter"], {}, "server"),
        (["worker-http"], {}, "server"),
        (["collect"], {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "postgres"),
        (["relay"], {"ENABLE_MESSAGE_QUEUE": "true"}, "rabbitmq"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_without_its_extra_says_how_to_install_it(
    arguments: list[str], environment: dict[str, str], extra: str, tmp_path: Path
) -> None:
    done = spheroseg_without(ALL_EXTRAS, *arguments, SPHEROSEG_DATA_DIR=str(tmp_path), **environment)
    assert done.returncode == 2, done.stderr
    assert describe_missing(extra, f"spheroseg {arguments[0]}") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_without_any_extra_writes_all_tables_but_parquet_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "plate"
    folder.mkdir()
    for name in ("A01_t000h.tif", "A01_t072h.tif"):
        (folder / name).symlink_to(ROOT / "examples" / "plate" / name)
    out = tmp_path / "results"
    done = spheroseg_without(ALL_EXTRAS, "run", str(folder), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "growth.parquet needs the extra 'parquet'" in done.stdout
    assert (out / "growth.xlsx").exists()
    assert not (out / "growth.parquet").exists()
    assert (out / "fits.csv").exists()
    assert not (out / "charts").exists()
    not_written = json.loads((out / "manifest.json").read_text())["not_written"]
    assert not_written.keys() == {"growth.parquet", "charts", "contact"}
    assert "pip install 'spheroseg[parquet]'" in not_written["growth.parquet"]
    assert "pip install 'spheroseg[charts]'" in not_written["charts"]
    assert done.stdout.count("pip install 'spheroseg[charts]'") == 1
