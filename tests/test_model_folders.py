"""Model folders: which are found or refused, what their hash covers, and what a child process loads."""

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from spheroseg.errors import ModelUnusable
from spheroseg.messages import TaskNew
from spheroseg.segmentation.model import DEFAULT_MODEL, catalogue, find_model, known_models, load_model
from spheroseg.storage import ImageStore
from spheroseg.worker.child import Child, child_command
from spheroseg.worker.model_cache import ModelCache

from .support.networks import card, model_folder, network, onnx

EXAMPLE = Path(__file__).parents[1] / "examples" / "spheroids" / "image_08.png"


def test_models_are_found_by_the_names_of_their_folders(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    model_folder(one, "first", version="3")
    model_folder(two, "second")
    (two / "notes").mkdir()
    (two / "readme.txt").write_text("no model")
    known = {model.name: model for model in known_models([one, two])}
    assert next(iter(known)) == "classical-contrast"
    assert {"first", "second"} <= set(known)
    assert "notes" not in known
    assert (known["first"].version, known["first"].licence, known["first"].fault) == ("3", "MIT", None)
    assert load_model("second", [one, two]).sha256 == known["second"].sha256
    with pytest.raises(ModelUnusable, match=r"no model 'third': known are classical-contrast.*first, second"):
        find_model("third", [one, two])
    with pytest.raises(ModelUnusable, match=r"MODEL_DIRS names \S+/three, which is no folder"):
        find_model("third", [one, tmp_path / "three"])


def test_two_models_of_one_name_are_refused_with_both_folders_and_others_work(tmp_path: Path) -> None:
    for place in ("a", "b"):
        model_folder(tmp_path / place, "same")
    model_folder(tmp_path / "b", "other")
    model_folder(tmp_path / "b", "classical-contrast")
    dirs = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(ModelUnusable, match=r"called same: \S+/a/same and \S+/b/same; rename or remove one"):
        load_model("same", dirs)
    with pytest.raises(ModelUnusable, match="the one built in and"):
        load_model("classical-contrast", dirs)
    assert load_model("other", dirs).name == "other"


def test_a_model_with_the_name_of_a_shipped_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SHIPPED", tmp_path / "shipped")
    model_folder(tmp_path / "shipped", "unet")
    assert load_model("unet").name == "unet"
    model_folder(tmp_path / "own", "unet")
    with pytest.raises(ModelUnusable, match=r"shipped/unet and \S+own/unet"):
        find_model("unet", [tmp_path / "own"])


INPUT = card("x")["input"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"licence": None}, "licence: is missing"),
        ({"licence": ""}, "licence: "),
        ({"thresold": 0.4}, "thresold: there is no such field"),
        ({"threshold": 1.0}, "threshold: Input should be less than 1, it is 1.0"),
        ({"name": "another"}, "says that the model is called another, but its folder is blur: rename"),
        ({"name": "../x"}, "name: "),
        ({"input": {**INPUT, "low": 90, "high": 10}}, r"input: low \(90\) must be below high \(10\)"),
        ({"input": {**INPUT, "margin": 600}}, "input: margin must be at most 504"),
        ({"input": {**INPUT, "multiple": "16"}}, "input.multiple: Input should be a valid integer"),
        ({"input": {**INPUT, "mean": 0.5}}, "input.mean: there is no such field"),
        ({"output": {}, "scale": {"side": 8}}, "scale.side: Input should be greater than or equal to 16"),
        ({"scale": {"side": 256, "object_px": 32}}, "object_px and finest go together"),
        ({"scale": {"side": 256, "object_px": 32, "finest": 128}}, r"finest \(128\) must be at least side"),
        ({"scale": {"side": 256, "object_px": 32, "finest": 9000}}, "scale.finest: .*4096"),
        (
            {"scale": {"side": 256, "object_px": 32, "finest": 4096, "large_px": 30.0}},
            r"large_px \(30\) must be above object_px \(32\)",
        ),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_its_fault(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    model_folder(tmp_path, **changes)
    with pytest.raises(ModelUnusable, match=words):
        load_model("blur", [tmp_path])
    assert load_model(DEFAULT_MODEL, [tmp_path]).name == DEFAULT_MODEL


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    model_folder(tmp_path, version=None, threshold=7)
    with pytest.raises(ModelUnusable, match="version: is missing; threshold: "):
        find_model("blur", [tmp_path])


def test_training_and_quality_may_hold_anything(tmp_path: Path) -> None:
    model_folder(tmp_path, training={"anything": [1, {"at": "all"}]}, quality={"sets": {"iou": 0.9}})
    found = find_model("blur", [tmp_path])
    assert found.card is not None
    assert found.card.training == {"anything": [1, {"at": "all"}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be loaded"),
        (b"this is no network" * 99, "cannot be loaded"),
        (network()[:-60], "cannot be loaded"),
        (network(opset=99), "cannot be loaded: .*[Oo]pset 99"),
        (network(shape=(1, 1, 64, 64)), r"fixed size \(n 1, height 64, width 64\); export it with dynamic axes"),
        (network(shape=("n", 3, "h", "w"))[:0] + network(element=onnx.TensorProto.FLOAT16), "float16.*not float32"),
    ],
    ids=["empty", "no network", "cut off", "opset of the future", "fixed size", "half precision"],
)
def test_an_unusable_network_is_refused_with_a_reason(tmp_path: Path, content: bytes, words: str) -> None:
    model_folder(tmp_path, content=content)
    with pytest.raises(ModelUnusable, match=words):
        load_model("blur", [tmp_path])


def test_missing_inputs_and_outputs_are_named(tmp_path: Path) -> None:
    model_folder(tmp_path, "a", input={**INPUT, "name": "picture"})
    model_folder(tmp_path, "b", output={"probability": "p"})
    with pytest.raises(ModelUnusable, match=r"the network takes image, model\.json says picture"):
        load_model("a", [tmp_path])
    with pytest.raises(ModelUnusable, match="gives probability, distance, and no p"):
        load_model("b", [tmp_path])


@pytest.mark.parametrize("missing", ["model.json", "model.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (model_folder(tmp_path) / missing).unlink()
    with pytest.raises(ModelUnusable, match=f"has no {missing}"):
        load_model("blur", [tmp_path])


def test_the_hash_changes_exactly_if_results_may_change(tmp_path: Path) -> None:
    def sha256(content: bytes | None = None, **changes: Any) -> str:
        folder = model_folder(tmp_path, "blur", content, **changes)
        found = find_model("blur", [tmp_path]).sha256
        assert load_model("blur", [tmp_path]).sha256 == found
        shutil.rmtree(folder)
        return found

    usual = sha256()
    assert len(usual) == 64
    same = [
        sha256(description="other words"),
        sha256(licence="CC0-1.0"),
        sha256(training={"epochs": 3}, quality={}),
        sha256(threshold=0.5),
        sha256(least_sure=0.0),
        sha256(input={"multiple": 8, "margin": 16}),
    ]
    assert set(same) == {usual}
    changed = [
        sha256(network(reach=2)),
        sha256(version="2"),
        sha256(threshold=0.4),
        sha256(input={**INPUT, "high": 99.0}),
        sha256(output={"probability": "probability"}),
        sha256(scale={"side": 64}),
        sha256(scale={"side": 64, "large_px": 20.0}),
        sha256(scale=None),
        sha256(debris=0.1),
        sha256(least_sure=0.3),
    ]
    assert len({usual, *changed}) == 1 + len(changed)


def test_a_model_without_a_coarser_pass_keeps_the_hash_of_older_versions(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, scale={"side": 64})
    known = {
        "name": "blur",
        "version": "1",
        "input": {"name": "image", "low": 0.5, "high": 99.5, "multiple": 8, "margin": 16},
        "output": {"probability": "probability", "distance": "distance"},
        "scale": {"side": 64, "object_px": None, "finest": None},
        "threshold": 0.5,
        "debris": 0.0,
    }
    written = json.dumps(known, sort_keys=True, separators=(",", ":"))
    network_sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert (
        find_model("blur", [tmp_path]).sha256 == hashlib.sha256(f"{network_sha256}\n{written}".encode()).hexdigest()
    )


def test_a_network_that_was_replaced_is_hashed_again(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    before = find_model("blur", [tmp_path]).sha256
    (folder / "model.onnx").write_bytes(network(reach=4))
    assert find_model("blur", [tmp_path]).sha256 != before


def test_the_cache_keeps_the_last_two_models_also_when_their_folders_change(tmp_path: Path) -> None:
    for name in ("a", "b"):
        model_folder(tmp_path, name)
    cache = ModelCache([tmp_path])
    a, b = cache.get("a", None), cache.get("b", None)
    assert cache.get("a", a.sha256) is a
    (tmp_path / "a" / "model.json").write_text(json.dumps(card("a", version="2")))
    assert cache.get("a", a.sha256) is a
    newer = find_model("a", [tmp_path]).sha256
    assert cache.get("a", newer).version == "2"
    with pytest.raises(ModelUnusable, match="install the same files"):
        cache.get("b", "0" * 64)
    assert cache.get("b", b.sha256) is not b


async def test_a_child_works_with_several_models(tmp_path: Path) -> None:
    models = tmp_path / "models"
    model_folder(models, "a")
    model_folder(models, "b", output={"probability": "probability"})
    (tmp_path / "storage").mkdir()
    ImageStore(str(tmp_path / "storage")).put("picture.png", EXAMPLE.read_bytes())

    def task(model: str, sha256: str | None = None) -> TaskNew:
        digest = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
        return TaskNew(
            task_id=uuid.uuid4(),
            attempt=1,
            image_key="picture.png",
            image_sha256=digest,
            model=model,
            model_sha256=sha256,
        )

    child = Child(child_command(str(tmp_path / "storage"), DEFAULT_MODEL, [models]))
    try:
        for name in ("a", DEFAULT_MODEL, "b", "a"):
            known = find_model(name, [models])
            answer = await child.perform(task(name, known.sha256))
            assert answer["result"]["model"] == {"name": name, "version": known.version, "sha256": known.sha256}
        gone = (await child.perform(task("c")))["failed"]
        assert (gone["reason"], gone["retryable"]) == ("model_unusable", False)
        assert "known are classical-contrast" in gone["error"]
        other = (await child.perform(task("a", "f" * 64)))["failed"]
        assert (other["reason"], other["retryable"]) == ("model_unusable", False)
        assert "install the same files" in other["error"]
        assert "result" in await child.perform(task("a"))
    finally:
        await child.kill()


async def test_a_child_whose_first_model_is_broken_reports_it_and_does_not_start(tmp_path: Path) -> None:
    model_folder(tmp_path, "broken", b"no network")
    child = Child(child_command(str(tmp_path), "broken", [tmp_path]))
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        await child.start()
