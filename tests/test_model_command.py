"""`spheroseg model`: list, show, check, as a person types them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spheroseg.segmentation.model import find_model
from spheroseg.segmentation.model.check import check_model

from .support.networks import card, model_folder, network, onnx

pytestmark = pytest.mark.slow

NO_SIDES = ("n", 1, "height", 64)


def spheroseg(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", *map(str, words)],
        env={**os.environ, "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
    )


def test_models_are_listed_and_shown_to_people_and_programs(tmp_path: Path) -> None:
    model_folder(tmp_path, "mine", quality={"plates": {"iou": [0.91, 0.93]}})
    model_folder(tmp_path, "bad", licence=None)
    env = {"MODEL_DIRS": f"{tmp_path}{os.pathsep}{tmp_path / 'nowhere'}", "MODEL": "mine"}
    listed = spheroseg("model", "list", **env)
    assert listed.returncode == 0
    assert "classical-contrast" in listed.stdout
    assert "licence: is missing" in listed.stdout
    assert "nowhere, which is not a folder" in listed.stderr
    rows: list[dict[str, Any]] = json.loads(spheroseg("model", "list", "--json", **env).stdout)
    (mine,) = [row for row in rows if row["name"] == "mine"]
    found = find_model("mine", [tmp_path])
    assert (mine["sha256"], mine["default"], mine["where"]) == (found.sha256, True, str(tmp_path / "mine"))
    shown = spheroseg("model", "show", "mine", **env)
    for words in (found.sha256, str(found.network_sha256), "plates", "0.91, 0.93", "99.5", "bright is an object"):
        assert words in shown.stdout
    told = json.loads(spheroseg("model", "show", "mine", "--json", **env).stdout)
    assert told["quality"] == {"plates": {"iou": [0.91, 0.93]}}
    assert told["model.onnx sha256"] == found.network_sha256
    unknown = spheroseg("model", "show", "theirs", **env)
    assert unknown.returncode == 2
    assert "known are classical-contrast" in unknown.stderr


def test_check_ends_with_0_for_a_good_model_and_with_1_for_another(tmp_path: Path) -> None:
    good = spheroseg("model", "check", model_folder(tmp_path))
    assert good.returncode == 0, good.stdout + good.stderr
    assert "FAIL" not in good.stdout
    for name in ("model.json", "model.onnx", "inputs and outputs", "sizes", "values", "batch", "margin", "time"):
        assert f"ok    {name}" in good.stdout
    bad = spheroseg("model", "check", model_folder(tmp_path, "old", network(opset=12)), "--json")
    assert bad.returncode == 1
    (fault,) = [line for line in json.loads(bad.stdout) if not line["ok"]]
    assert fault == {
        "name": "opset",
        "ok": False,
        "what": "the network is written in opset 12",
        "what_to_do": "export the network with opset 13 or later",
    }
    assert spheroseg("model", "check", tmp_path / "nothing").returncode == 1


@pytest.mark.parametrize(
    ("content", "changes", "name", "words"),
    [
        (network(reach=25), {}, "margin", "set input.margin to 32"),
        (network(pools=True), {}, "margin", "no margin would do"),
        (network(last="Relu"), {}, "values", "a sigmoid as a rule"),
        (network(last="Log"), {}, "values", "no numbers"),
        (network(opset=40), {}, "model.onnx", "cannot be loaded"),
        (network(shape=NO_SIDES), {}, "inputs and outputs", "dynamic axes"),
        (network(element=onnx.TensorProto.FLOAT16), {}, "inputs and outputs", "with float32"),
        (b"broken", {}, "model.onnx", "cannot be loaded"),
        (None, {"output": {"probability": "objects"}}, "inputs and outputs", "output.probability"),
        (None, {"threshold": 2}, "model.json", "threshold"),
        (None, {"name": "classical-contrast"}, "model.json", "rename"),
    ],
    ids=[
        "margin too small",
        "sees all",
        "out of range",
        "not a number",
        "opset of the future",
        "fixed width",
        "half precision",
        "broken",
        "other output",
        "bad field",
        "name of another",
    ],
)
def test_check_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, content: bytes | None, changes: dict[str, Any], name: str, words: str
) -> None:
    folder = model_folder(tmp_path, "blur", content, **changes)
    faults = [line for line in check_model(folder) if not line.is_ok]
    assert {fault.name for fault in faults} == {name}
    assert words in " ".join(f"{fault.detail} {fault.remedy}" for fault in faults)


def test_a_name_that_is_taken_and_a_multiple_that_is_too_small_are_told(tmp_path: Path) -> None:
    (taken,) = [line for line in check_model(model_folder(tmp_path, "classical-contrast")) if not line.is_ok]
    assert taken.name == "name"
    halves = network(halves=True)
    folder = model_folder(tmp_path, "halves", halves, input={**card("x")["input"], "multiple": 1})
    assert "raise input.multiple" in " ".join(line.remedy for line in check_model(folder) if line.name == "sizes")
