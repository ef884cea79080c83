"""The shipped network: it is complete, it is the default, and it is as good as its card states."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from spheroseg.segmentation.model import DEFAULT_MODEL, Network, find_model, load_model
from spheroseg.segmentation.model.check import check_model
from spheroseg.training.composed import field_samples
from spheroseg.training.data import Sample, read_samples, scene_samples
from spheroseg.training.evaluate import ALL, evaluate, summaries
from spheroseg.training.scores import Summary

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "shared" / "data"


def network() -> Network:
    model = load_model(DEFAULT_MODEL)
    assert isinstance(model, Network)
    return model


def score(samples: Sequence[Sample]) -> Summary:
    scores = [score for of_one in evaluate(samples, {DEFAULT_MODEL: network}) for score in of_one]
    return next(row for row in summaries(scores) if row.kept == ALL)


def test_the_default_is_a_network_that_passes_every_check() -> None:
    folder = find_model(DEFAULT_MODEL).folder
    assert folder is not None
    assert [line for line in check_model(folder) if not line.is_ok] == []


def test_the_card_states_data_licences_recipe_and_the_quality_of_three_folds() -> None:
    card = network().card
    assert {entry["licence"] for entry in card.training["data"]} == {"MIT", "CC0-1.0"}
    assert card.training["recipe"]["seed"] == 1
    folds = [rows for name, rows in card.quality.items() if "folds" in name]
    assert len(folds) == 3
    assert all(rows[0]["folds"] == 3 for rows in folds)


@pytest.mark.skipif(not (DATA / "manifest.csv").exists(), reason="the labelled pictures are not here")
def test_spheroids_are_outlined_as_well_as_people_do_it() -> None:
    found = score(read_samples(DATA, ["spheroids"]))
    assert found.mean is not None
    assert found.f1 is not None
    # Two people agree to about 0.90.
    assert found.mean > 0.95
    assert found.f1 > 0.9


@pytest.mark.skipif(not (DATA / "manifest.csv").exists(), reason="the labelled pictures are not here")
def test_many_spheroids_in_a_picture_are_separated() -> None:
    found = score(list(field_samples(read_samples(DATA, ["spheroids"]), 9)))
    assert found.mean is not None
    assert found.f1 is not None
    assert found.mean > 0.9
    assert found.f1 > 0.97


def test_drawn_scenes_have_the_quality_of_the_card() -> None:
    (saved,) = network().card.quality["shipped network on test scenes"]
    found = score(list(scene_samples()))
    # The card states the results of exactly these scenes, so a change in any later step would show here.
    assert found.mean == pytest.approx(saved["mean"], abs=0.01)
    assert found.f1 == pytest.approx(saved["f1"], abs=0.02)
