"""Short trainings: the crops, the loss, and a model folder that can be used."""

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model import Network
from spheroseg.segmentation.model.check import check_model
from spheroseg.training.course import MARGIN_PX, TRAINED_ON, Course, make
from spheroseg.training.crops import (
    BORDER_WEIGHT,
    FIRST_SEED,
    KNOWN_WEIGHT,
    SIDE,
    Crops,
    Source,
    sources_from_samples,
    sources_from_scenes,
)
from spheroseg.training.data import MANIFEST, TEST_SEED, Sample, read_samples, scene_samples
from spheroseg.training.train import Recipe, train, tune
from spheroseg.training.unet import MULTIPLE, UNet

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "shared" / "data"
RECIPE = Recipe(steps=50, tuning=15, batch=1, processes=1, scenes=14, seed=4)

SETS = {"spheroids": 6, "nuclei": 6}

needs_data = pytest.mark.skipif(not (DATA / "manifest.csv").exists(), reason="the labelled pictures are not here")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Return a data folder with some of the pictures."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (DATA / MANIFEST).open(newline="") as file:
        header, *rows = csv.reader(file)
    with (folder / MANIFEST).open("w", newline="") as file:
        kept = [row for name, count in SETS.items() for row in [r for r in rows if r[0].startswith(name)][:count]]
        csv.writer(file).writerows([header, *kept])
    for name in SETS:
        (folder / name).symlink_to(DATA / name)
    return folder


def test_crops_follow_from_the_seed_and_hold_the_targets() -> None:
    sources = {"scenes": sources_from_scenes(9, 2)}
    one, again, other = (Crops(sources, seed).batch(6) for seed in (3, 3, 4))
    for crop, twin in zip(one, again, strict=True):
        for part in ("grey", "probability", "distance", "distance_weight"):
            np.testing.assert_array_equal(getattr(crop, part), getattr(twin, part))
            assert getattr(crop, part).shape == (SIDE, SIDE)
        assert -1 <= crop.grey.min() <= crop.grey.max() <= 2
        assert 0 <= crop.probability.min() <= crop.probability.max() <= 1
        assert (crop.distance <= crop.probability + 0.5).all()
    assert any(not np.array_equal(a.grey, b.grey) for a, b in zip(one, other, strict=True))


@needs_data
def test_the_distance_has_no_weight_where_a_mask_may_hold_two_objects() -> None:
    sources = sources_from_samples(read_samples(DATA, ["nuclei"])[:12])
    weights = [source.distance_weight for source in sources]
    assert len(weights) == 12
    assert any((one == 0).any() for one in weights)
    assert all((one == KNOWN_WEIGHT).any() for one in weights)


def test_the_distance_has_a_higher_weight_where_two_objects_meet() -> None:
    sources = sources_from_scenes(28, 2)
    for source in sources:
        between = source.distance_weight == BORDER_WEIGHT
        assert (source.distance_weight[~between] == KNOWN_WEIGHT).all()
        # The distance is near 0 at the border of an object, also where another one begins.
        assert not between.any() or source.distance[between].min() < 64
    assert any((source.distance_weight == BORDER_WEIGHT).any() for source in sources)


def test_no_scene_of_the_training_is_one_of_the_evaluation() -> None:
    assert TEST_SEED < FIRST_SEED


def test_the_loss_falls_and_the_same_seed_gives_the_same_network() -> None:
    losses: list[float] = []
    network = train([], RECIPE, lambda _, loss: losses.append(loss))
    assert len(losses) == 2
    assert losses[1] < losses[0]
    again = train([], RECIPE, lambda *_: None)
    _assert_same(network, again)


def test_training_in_several_processes_is_reproducible() -> None:
    recipe = replace(RECIPE, steps=5, batch=2, processes=2)
    shared, again = (train([], recipe, lambda *_: None) for _ in range(2))
    _assert_same(shared, again)
    # One process alone sees other crops.
    alone = train([], replace(recipe, processes=1), lambda *_: None)
    assert not torch.equal(next(shared.parameters()), next(alone.parameters()))


def test_tuning_starts_from_the_base_and_does_not_change_it() -> None:
    torch.manual_seed(1)
    base = UNet()
    before = UNet()
    before.load_state_dict(base.state_dict())
    one, again, other = (tune(base, [], RECIPE, lambda *_: None, part) for part in (0, 0, 1))
    _assert_same(base, before)
    _assert_same(one, again)
    weights = [next(network.parameters()) for network in (one, other, base)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@needs_data
def test_the_base_is_trained_without_spheroids_even_if_it_gets_some(
    monkeypatch: pytest.MonkeyPatch, few: Path
) -> None:
    used_sets: list[str] = []

    def record_sets(samples: Iterable[Sample]) -> list[Source]:
        received = list(samples)
        used_sets.extend(sample.set for sample in received)
        return sources_from_samples(received[:2])

    monkeypatch.setattr("spheroseg.training.crops.sources_from_samples", record_sets)
    samples = read_samples(few, TRAINED_ON)
    base = train(samples, replace(RECIPE, steps=25), lambda *_: None)
    assert set(used_sets) == {"nuclei"}
    tune(base, samples, RECIPE, lambda *_: None)
    assert set(used_sets) == {"nuclei", "spheroids"}


def test_the_network_reaches_no_further_than_the_margin() -> None:
    torch.manual_seed(0)
    network = UNet().eval()
    grey = torch.rand(1, 1, 2 * 160, 2 * 160)
    changed = grey.clone()
    changed[..., :MULTIPLE] = 5
    with torch.no_grad():
        differ = (network(grey) != network(changed)).any(dim=1)[0]
    reach = int(torch.nonzero(differ)[:, 1].max()) - MULTIPLE
    assert 64 < reach <= MARGIN_PX


@needs_data
def test_a_course_makes_a_usable_model_with_its_quality(tmp_path: Path, few: Path) -> None:
    folder = tmp_path / "mine"
    reports: list[str] = []
    card = make(
        Course(
            "mine",
            "7",
            few,
            Recipe(steps=25, tuning=25, batch=1, scenes=9, seed=4),
            folds=1,
            test_scenes=2,
            parts=tmp_path / "parts",
        ),
        folder,
        jobs=2,
        progress=lambda name, step, loss: reports.append(f"{name} {step}"),
    )
    assert sorted(reports) == ["base 25", "fold 1 25", "shipped 25"]
    assert json.loads((folder / "model.json").read_text()) == card
    assert {entry["licence"] for entry in card["training"]["data"]} == {"MIT", "CC0-1.0"}
    assert len(card["quality"]) == 4
    for part in ("base", "fold-1"):
        assert Network(tmp_path / "parts" / part / "mine").name == "mine"
    network = Network(folder)
    assert (network.name, network.version) == ("mine", "7")
    (scene,) = scene_samples(1)
    (maps,) = network.maps([scene.read()[0]])
    assert maps.distance is not None
    faults = [line for line in check_model(folder) if not line.is_ok]
    assert not faults


@needs_data
@pytest.mark.parametrize(
    ("folder", "words"), [("a name with spaces", "name"), ("taken", "already"), ("file/below", "another folder")]
)
def test_faults_of_the_folder_are_reported_before_the_training(tmp_path: Path, folder: str, words: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "model.onnx").write_bytes(b"years of work")
    (tmp_path / "file").touch()
    target = tmp_path / folder
    with pytest.raises(ModelUnusable, match=words):
        make(Course(target.name, "1", DATA, RECIPE), target, jobs=1, progress=lambda *_: None)
    assert (tmp_path / "taken" / "model.onnx").read_bytes() == b"years of work"


@needs_data
@pytest.mark.parametrize(("place", "words"), [("parts", "not empty"), ("parts/base", "another folder with --parts")])
def test_a_folder_for_parts_that_is_not_new_is_reported_before_the_training(
    tmp_path: Path, place: str, words: str
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "base").touch()
    parts = tmp_path / place
    with pytest.raises(ModelUnusable, match=words):
        make(Course("mine", "1", DATA, RECIPE, parts=parts), tmp_path / "mine", jobs=1, progress=lambda *_: None)
    assert not (tmp_path / "mine").exists()


def _assert_same(one: UNet, two: UNet) -> None:
    for first, second in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
