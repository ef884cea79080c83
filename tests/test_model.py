"""The classical model, on pictures with known truth and on real ones."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.contours import trace
from spheroseg.segmentation.measure import Measurements, measure
from spheroseg.segmentation.model import known_models, load_model
from spheroseg.segmentation.parameters import Parameters
from tests.support.segmenting import segment
from tests.support.synthetic import Picture, coverage, photograph

DATA = Path(__file__).parents[1].parent / "shared/data"
MODEL = load_model("classical-contrast")
Y, X = np.mgrid[0:600, 0:800].astype(np.float32)
R = np.hypot(X - 400, Y - 300)


def noise(scale: float) -> Picture:
    return np.asarray(np.random.default_rng(1).normal(0, scale, Y.shape), np.float32)


def measure_objects(pixels: Picture) -> list[Measurements]:
    probability = MODEL.maps([pixels.astype(np.float32)])[0].probability
    assert probability.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1
    return [measure(outline) for outline in trace(probability, 0.5, 50)[1]]


def test_a_model_is_loaded_by_name_and_an_unknown_name_lists_the_known() -> None:
    assert known_models()[0].name == "classical-contrast"
    with pytest.raises(ModelUnusable, match="known are classical-contrast"):
        load_model("unet")


def test_the_hash_names_this_model_and_stays_the_same() -> None:
    # Stored results name this hash.
    assert MODEL.sha256 == "beecf2a38401f8f7f9d115c5e848479c3cb200773d3e459632d53c54cc24399f"
    assert load_model(MODEL.name).sha256 == MODEL.sha256


@pytest.mark.parametrize(
    ("ground", "object_"), [(200, 80), (60, 180), (210, 190), (3, 11)], ids=["dark", "bright", "pale", "dim"]
)
def test_dark_and_bright_objects_are_found_without_a_setting(ground: float, object_: float) -> None:
    (m,) = measure_objects(photograph(coverage(600, 800, 90, 90, 0, (380.3, 290.6)), ground, object_))
    assert m.area == pytest.approx(math.pi * 90**2, rel=5e-3)
    assert (m.centroid_x, m.centroid_y) == pytest.approx((380.3, 290.6), abs=0.2)


def test_the_outline_of_a_blurred_object_is_at_half_height() -> None:
    (m,) = measure_objects(photograph(coverage(600, 800, 120, 120, 0, (400, 300)), blur=6))
    assert m.area == pytest.approx(math.pi * 120**2, rel=5e-3)


def test_noise_hardly_moves_the_outline() -> None:
    (m,) = measure_objects(photograph(coverage(600, 800, 100, 100, 0, (400, 300)), 150, 100, noise=8))
    assert m.area == pytest.approx(math.pi * 100**2, rel=0.02)
    assert m.solidity > 0.97


@pytest.mark.parametrize("sign", [-1, 1], ids=["dark", "bright"])
def test_uneven_light_is_compensated(sign: int) -> None:
    light = 140 + 50 * (X / 800) - 40 * (R / 500) ** 2
    picture = light + sign * 45 * coverage(600, 800, 80, 80, 0, (250, 330)) + noise(1)
    (m,) = measure_objects(picture)
    assert m.area == pytest.approx(math.pi * 80**2, rel=0.02)


def test_a_spheroid_with_a_dark_rim_is_filled() -> None:
    rim = coverage(600, 800, 100, 100, 0, (400, 300)) - coverage(600, 800, 85, 85, 0, (400, 300))
    (m,) = measure_objects(200 - 100 * rim + noise(3))
    assert m.n_holes == 0
    assert m.area == pytest.approx(math.pi * 100**2, rel=0.02)


def test_a_bright_ring_keeps_its_hole() -> None:
    ring = coverage(600, 800, 100, 100, 0, (400, 300)) - coverage(600, 800, 40, 40, 0, (400, 300))
    (m,) = measure_objects(20 + 150 * ring)
    assert m.n_holes == 1
    assert m.hole_area == pytest.approx(math.pi * 40**2, rel=0.01)


def test_each_of_several_objects_is_outlined_at_its_own_contrast() -> None:
    spots = [(150, 150, 60, 150), (550, 180, 70, 60), (350, 450, 50, 100)]
    picture = np.full(Y.shape, 20, np.float32)
    for x, y, radius, contrast in spots:
        picture += contrast * coverage(600, 800, radius, radius, 0, (x, y))
    areas = sorted(m.area for m in measure_objects(photograph((picture / 255).astype(np.float32), 0, 255)))
    assert areas == pytest.approx(sorted(math.pi * r**2 for _, _, r, _ in spots), rel=0.01)


def test_an_object_that_fills_most_of_the_picture_is_found() -> None:
    (m,) = measure_objects(photograph(coverage(600, 600, 270, 270, 0, (300, 300))))
    assert m.area == pytest.approx(math.pi * 270**2, rel=5e-3)


def test_the_wall_of_a_well_is_ignored() -> None:
    inside_well = coverage(600, 800, 420, 330, 0, (400, 300))
    picture = 40 + 150 * inside_well - 60 * coverage(600, 800, 70, 70, 0, (420, 310)) + noise(2)
    (m,) = measure_objects(picture)
    assert m.area == pytest.approx(math.pi * 70**2, rel=0.02)


def test_a_touching_fibre_is_cut_off() -> None:
    fibre = coverage(600, 800, 300, 8, 30, (300, 200))
    spheroid = coverage(600, 800, 80, 80, 0, (400, 300))
    areas = [m.area for m in measure_objects(photograph(np.maximum(fibre * 0.7, spheroid)))]
    assert areas == pytest.approx([math.pi * 80**2], rel=0.1)


EMPTY = {
    "constant": np.full(Y.shape, 130),
    "black": np.zeros(Y.shape),
    "gaussian noise": 120 + noise(12),
    "photons": np.random.default_rng(2).poisson(4, Y.shape),
    "slope": X / 4,
    "slope with noise": X / 5 + noise(3),
    "vignette": 200 - R**2 / 2000,
    "strong vignette with noise": 200 * np.cos(R / 900) ** 4 + noise(3),
    "cone": 200 - R / 3,
    "broad glow": 60 + 100 * np.exp(-(R**2) / 2 / 250**2) + noise(2),
    "waves": 100 + 30 * np.sin(X / 150) + 20 * np.cos(Y / 200) + noise(3),
}


@pytest.mark.parametrize("picture", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("digitised", [False, True], ids=["exact", "8 bit"])
def test_an_empty_picture_has_no_object(picture: Picture, digitised: bool) -> None:
    assert measure_objects(np.clip(np.round(picture), 0, 255) if digitised else picture) == []


def test_the_outlines_of_real_spheroids_agree_with_their_masks() -> None:
    if not DATA.is_dir():
        pytest.skip(f"the labelled images are not in {DATA}")
    scores = {}
    with (DATA / "manifest.csv").open() as manifest:
        for row in csv.DictReader(manifest):
            if row["image"].startswith("spheroids/"):
                with (DATA / row["image"]).open("rb") as file:
                    found_mask = segment(file, MODEL, Parameters())[0].labels > 0
                mask = np.asarray(Pillow.open(DATA / row["mask"])) > 127
                scores[row["image"]] = float((found_mask & mask).sum() / (found_mask | mask).sum())
    assert len(scores) == 36
    assert np.mean(list(scores.values())) >= 0.95, scores
    assert np.median(list(scores.values())) >= 0.96, scores
    assert min(scores.values()) >= 0.75, scores
