"""Networks in model folders: their answers, for one picture or many, whole or in tiles."""

import asyncio
import hashlib
import json
import math
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spheroseg.errors import ModelUnusable
from spheroseg.messages import TaskNew
from spheroseg.segmentation.instances import object_areas
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model import Network
from spheroseg.segmentation.model.cleaning import remove_doubtful
from spheroseg.segmentation.model.passes import typical_diameter
from spheroseg.segmentation.model.windows import MAX_PASS_SIDE_PX, round_up, split_side
from spheroseg.storage import ImageStore
from spheroseg.worker.child import Child, child_command

from .support.networks import card, model_folder, network
from .support.synthetic import Picture

OWN_SIZE: dict[str, Any] = {"scale": None, "input": {"name": "image", "multiple": 8, "margin": 8}}


def discs(height: int, width: int, spacing: int, *, noise: float = 3.0) -> Picture:
    """Return bright discs on dark background, half as wide as their spacing, px."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(x % spacing - spacing / 2, y % spacing - spacing / 2)
    picture = 40 + 150 * np.clip(spacing / 4 - distance + 0.5, 0, 1)
    return np.asarray(picture + np.random.default_rng(1).normal(0, noise, picture.shape), np.float32)


@pytest.mark.parametrize("shape", [(300, 301), (97, 643), (16, 900)], ids=str)
def test_tiled_equals_untiled(tmp_path: Path, shape: tuple[int, int]) -> None:
    folder = model_folder(tmp_path, **OWN_SIZE)
    picture = discs(*shape, 30, noise=20)
    (whole,), (tiled,) = Network(folder).maps([picture]), Network(folder, tile=64).maps([picture])
    assert whole.probability.shape == tiled.probability.shape == shape
    np.testing.assert_allclose(whole.probability, tiled.probability, atol=1e-5)
    assert whole.distance is not None
    assert tiled.distance is not None
    np.testing.assert_allclose(whole.distance, tiled.distance, atol=1e-5)


def test_a_margin_below_what_the_network_sees_leaves_seams(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, content=network(reach=30), **OWN_SIZE)
    picture = discs(200, 200, 100)
    (whole,), (tiled,) = Network(folder).maps([picture]), Network(folder, tile=64).maps([picture])
    assert np.abs(whole.probability - tiled.probability).max() > 0.01


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500, 1023, 1024, 1025, 4096])
@pytest.mark.parametrize(("multiple", "margin"), [(1, 0), (8, 9), (16, 144)])
def test_windows_keep_each_pixel_once_and_their_margin_from_every_cut(
    length: int, multiple: int, margin: int
) -> None:
    windows = split_side(length, multiple, margin)
    assert [pixel for _, _, kept in windows for pixel in range(length)[kept]] == list(range(length))
    padded = round_up(length, multiple)
    for begin, size, kept in windows:
        assert begin % multiple == size % multiple == 0
        assert size <= 1024
        assert begin == 0 or kept.start - begin >= margin
        assert begin + size == padded or begin + size - kept.stop >= margin


def test_a_picture_gets_the_same_answer_alone_and_among_others(tmp_path: Path) -> None:
    loaded = Network(model_folder(tmp_path))
    pictures = [
        discs(300, 400, 80),
        discs(300, 400, 20),
        np.full((50, 60), 7, np.float32),
        discs(400, 300, 12),
        discs(300, 400, 40) * 100,
        discs(33, 47, 20),
    ]
    for together, picture in zip(loaded.maps(pictures), pictures, strict=True):
        (alone,) = loaded.maps([picture])
        np.testing.assert_allclose(together.probability, alone.probability, atol=1e-5)


def test_pictures_of_one_shape_run_as_one_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Network(model_folder(tmp_path, scale={"side": 64}))
    seen: list[int] = []
    infer = loaded.infer

    def count_pictures(grey: Picture, **_: Any) -> tuple[Picture, Picture | None]:
        seen.append(len(grey))
        return infer(grey)

    monkeypatch.setattr(loaded, "infer", count_pictures)
    loaded.maps([discs(200, 200, 50), discs(100, 200, 50), discs(300, 300, 50), discs(150, 300, 50)])
    assert seen == [2, 2]


def test_small_objects_get_a_finer_pass(tmp_path: Path) -> None:
    loaded = Network(model_folder(tmp_path))
    coarse, fine = loaded.maps([discs(600, 600, 400), discs(600, 600, 40)])
    assert coarse.probability.shape == (64, 64)
    typical = typical_diameter(object_areas(fine, 0.5))
    assert typical is not None
    assert 12 <= typical <= 1.6 * 12
    finest = loaded.maps([discs(1200, 900, 8)])[0].probability.shape
    assert finest == (512, 384)


def test_a_picture_without_a_finding_gets_a_finer_pass_but_never_beyond_its_own_size(tmp_path: Path) -> None:
    scale = card("blur")["scale"] | {"finest": 4096}
    faint = model_folder(tmp_path, scale=scale, input={"name": "image", "low": 0.5, "high": 100.0, "margin": 8})
    point = np.random.default_rng(1).normal(10, 1, (1500, 2000)).astype(np.float32)
    point[700, 700] = 4000
    loaded = Network(faint)
    assert loaded.maps([point])[0].probability.shape == (768, 1024)
    assert loaded.maps([point[600:900, 600:900]])[0].probability.shape == (300, 300)


def test_a_small_picture_is_enlarged_and_a_huge_one_reduced(tmp_path: Path) -> None:
    small, huge = model_folder(tmp_path, "small"), model_folder(tmp_path, "huge", **OWN_SIZE)
    assert Network(small).maps([discs(20, 32, 16)])[0].probability.shape == (40, 64)
    assert Network(huge).maps([discs(64, 6000, 60)])[0].probability.shape == (
        round(64 * MAX_PASS_SIDE_PX / 6000),
        4096,
    )


@pytest.mark.parametrize("grey", [0.0, 7.0, 65535.0])
def test_a_flat_picture_has_no_object_whatever_the_network_answers(tmp_path: Path, grey: float) -> None:
    loaded = Network(model_folder(tmp_path, content=network(last="Relu")))
    (found,) = loaded.maps([np.full((100, 120), grey, np.float32)])
    assert not found.probability.any()
    assert found.distance is not None
    assert not found.distance.any()


def test_a_little_light_in_a_black_picture_is_seen(tmp_path: Path) -> None:
    loaded = Network(model_folder(tmp_path, scale=None))
    picture = np.zeros((400, 400), np.float32)
    picture[100:118, 200:218] = 90
    (found,) = loaded.maps([picture])
    assert found.probability[109, 209] > 0.9
    assert np.count_nonzero(found.probability > 0.5) == pytest.approx(18 * 18, rel=0.2)


def test_grey_values_of_any_range_give_the_same_answer(tmp_path: Path) -> None:
    loaded = Network(model_folder(tmp_path))
    picture = discs(200, 200, 60)
    maps = loaded.maps([picture, picture * 250, picture / 1e6, picture * 100 + 30_000])
    for other in maps[1:]:
        np.testing.assert_allclose(maps[0].probability, other.probability, atol=1e-2)


@pytest.mark.parametrize(
    ("last", "words"), [("Relu", "not 0 to 1"), ("Log", "no numbers")], ids=["out of range", "not a number"]
)
def test_an_answer_that_is_no_probability_is_refused(tmp_path: Path, last: str, words: str) -> None:
    folder = model_folder(tmp_path, content=network(last=last))
    with pytest.raises(ModelUnusable, match=words):
        Network(folder).maps([discs(100, 100, 40)])


def test_objects_up_to_the_typical_diameter_hold_half_of_the_area() -> None:
    mask = np.zeros((300, 300), np.uint8)
    cv2.circle(mask, (100, 100), 40, 1, -1)
    for at in range(10, 290, 20):
        cv2.circle(mask, (at, 280), 3, 1, -1)
    areas = object_areas(Maps(mask.astype(np.float32)), 0.5)
    assert len(areas) == 15
    assert typical_diameter(areas) == pytest.approx(80, rel=0.03)
    assert typical_diameter(areas[:0]) is None
    assert typical_diameter(np.array([100.0])) == pytest.approx(2 * math.sqrt(100 / math.pi))


async def test_a_large_image_takes_little_memory_in_the_child(tmp_path: Path) -> None:
    """3000 × 3000 with the limit in proportion; 10,000 × 10,000 stays below 2 GB."""
    model_folder(tmp_path / "models", content=network(reach=1), scale={"side": 1500})
    picture = cv2.resize(discs(300, 300, 60), (3000, 3000)).clip(0, 255).astype(np.uint8)
    png = bytes(cv2.imencode(".png", picture)[1])
    (tmp_path / "storage").mkdir()
    ImageStore(str(tmp_path / "storage")).put("large.png", png)
    child = Child(child_command(str(tmp_path / "storage"), "blur", [tmp_path / "models"]))
    task = TaskNew(
        task_id=uuid.uuid4(),
        attempt=1,
        image_key="large.png",
        image_sha256=hashlib.sha256(png).hexdigest(),
        model="blur",
    )
    try:
        await child.start()
        idle = _peak_memory(child)
        async with asyncio.timeout(60):
            answer = await child.perform(task)
        assert len(answer["result"]["objects"]) == 25, json.dumps(answer)[:500]
        one_tile = 200e6  # as much for any image
        assert _peak_memory(child) - idle < 2e9 * (3000 / 10_000) ** 2 + one_tile
    finally:
        await child.kill()


def _peak_memory(child: Child) -> int:
    """Return the most memory, bytes, that the process ever had. Needs Linux."""
    assert child._process is not None
    status = Path(f"/proc/{child._process.pid}/status")
    if not status.exists():
        pytest.skip("only Linux reports the memory of another process")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_regions_that_are_too_small_are_removed() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[10:50, 10:50] = 0.95  # 1600 px²
    probability[60:70, 10:20] = 0.95  # 100 px², 6 %
    probability[80:85, 10:15] = 0.95  # 25 px², 2 %
    probability[79, 9:16] = 0.3  # its faint rim goes with it
    probability[10:90, 100:190] = 0.6  # large, and unsure
    kept = probability.copy()
    remove_doubtful(kept, 0.5, 0.0, 0.0)
    np.testing.assert_array_equal(kept, probability)
    remove_doubtful(kept, 0.5, 50, 0.0)
    assert not kept[75:90, 5:20].any()
    probability[75:90, 5:20] = 0
    np.testing.assert_array_equal(kept, probability)


def test_regions_with_few_confident_pixels_are_removed() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[10:50, 10:50] = 0.6
    probability[10:50, 10:20] = 0.8  # a quarter
    probability[9, 10:50] = 0.3
    probability[10:50, 100:140] = 0.6
    probability[10:50, 100:120] = 0.8  # a half
    remove_doubtful(probability, 0.5, 0.0, 0.33)
    assert not probability[:, :90].any()
    assert (probability[10:50, 100:140] > 0.5).all()
