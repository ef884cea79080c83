"""The work of a child process on the tasks of one request, without the process."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spheroseg.errors import BadImage, ModelUnusable
from spheroseg.messages import TaskNew
from spheroseg.segmentation.classical import ClassicalModel
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model import Model
from spheroseg.storage import ImageStore
from spheroseg.worker.child_server import IndexedResult
from spheroseg.worker.segment import MAX_PIXELS_TOGETHER, segment_tasks

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "spheroids").glob("*.png"))
OWN = ("durations_ms", "batch_size", "mask", "overlay", "image_sha256")


class RecordingModel(ClassicalModel):
    """The classical model, which records the number of pictures of each run.

    breaks_on: the number of pictures from which it runs out of memory. bad: the shape of a picture on which it fails.
    """

    def __init__(self, name: str = "noting", breaks_on: int = 1000, bad: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.name = name
        self.breaks_on = breaks_on
        self.bad = bad
        self.runs: list[int] = []

    def maps(self, pictures: Sequence[npt.NDArray[np.float32]]) -> list[Maps]:
        self.runs.append(len(pictures))
        if len(pictures) >= self.breaks_on:
            raise MemoryError
        if any(picture.shape == self.bad for picture in pictures):
            raise RuntimeError("cannot work on this")
        return super().maps(pictures)


def lookup(*models: Model) -> Callable[[TaskNew], Model]:
    known = {model.name: model for model in models}

    def model_of(task: TaskNew) -> Model:
        if task.model not in known:
            raise ModelUnusable(f"there is no model {task.model!r}")
        return known[task.model]

    return model_of


def task_for(path: Path, model: str = "noting", **parameters: Any) -> TaskNew:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return TaskNew(
        task_id=uuid.uuid4(),
        attempt=1,
        image_key=path.as_uri(),
        image_sha256=sha256,
        model=model,
        parameters=parameters,
    )


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "storage"))


def by_number(outcomes: Sequence[IndexedResult]) -> list[Any]:
    assert sorted(number for number, _ in outcomes) == list(range(len(outcomes))), "each has one outcome"
    return [outcome for _, outcome in sorted(outcomes, key=lambda outcome: outcome[0])]


def test_pictures_run_together_give_the_same_results_as_alone(store: ImageStore) -> None:
    model = RecordingModel()
    tasks = [task_for(path) for path in EXAMPLES[:3]]
    together = by_number(list(segment_tasks(tasks, store, lookup(model))))
    assert model.runs == [3]
    for task, record in zip(tasks, together, strict=True):
        (alone,) = by_number(list(segment_tasks([task], store, lookup(model))))
        assert (record["batch_size"], alone["batch_size"]) == (3, 1)
        assert {name: record[name] for name in record if name not in OWN} == {
            name: alone[name] for name in alone if name not in OWN
        }
        assert record["mask"] == alone["mask"]
        assert record["objects"] != []
        assert store.require_local_path(f"{task.result_key}/overlay.jpg").exists()


def test_the_time_of_an_inference_is_shared_by_its_pictures(store: ImageStore) -> None:
    records = by_number(
        list(segment_tasks([task_for(path) for path in EXAMPLES[:2]], store, lookup(RecordingModel())))
    )
    assert len({record["durations_ms"]["inference"] for record in records}) == 1
    assert set(records[0]["durations_ms"]) == {"decode", "inference", "outlines", "writing"}


def test_an_unreadable_image_fails_alone_and_is_not_counted(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "no image.png").write_bytes(b"no image")
    model = RecordingModel()
    tasks = [
        task_for(tmp_path / "no image.png"),
        task_for(EXAMPLES[0]),
        task_for(EXAMPLES[1], threshold=7),
        task_for(EXAMPLES[2], model="another"),
        task_for(EXAMPLES[3]),
    ]
    bad, first, wrong, unknown, second = by_number(list(segment_tasks(tasks, store, lookup(model))))
    assert isinstance(bad, BadImage)
    assert "threshold" in str(wrong)
    assert isinstance(unknown, ModelUnusable)
    assert (first["batch_size"], second["batch_size"]) == (2, 2)
    assert model.runs == [2]


def test_a_picture_on_which_the_model_breaks_fails_alone(store: ImageStore, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "bad.png"), np.full((40, 50), 7, np.uint8))
    model = RecordingModel(bad=(40, 50))
    tasks = [task_for(EXAMPLES[0]), task_for(tmp_path / "bad.png"), task_for(EXAMPLES[1])]
    first, bad, second = by_number(list(segment_tasks(tasks, store, lookup(model))))
    assert isinstance(bad, RuntimeError)
    assert (first["batch_size"], second["batch_size"]) == (1, 1), "each was done alone"
    assert model.runs == [3, 1, 1, 1]


def test_pictures_too_large_together_are_done_one_by_one(store: ImageStore) -> None:
    model = RecordingModel(breaks_on=2)
    records = by_number(list(segment_tasks([task_for(path) for path in EXAMPLES[:3]], store, lookup(model))))
    assert [record["batch_size"] for record in records] == [1, 1, 1]


def test_tasks_of_two_models_are_grouped_by_model(store: ImageStore) -> None:
    one, other = RecordingModel("one"), RecordingModel("other")
    tasks = [task_for(EXAMPLES[n], model=("one", "other")[n % 2]) for n in range(5)]
    records = by_number(list(segment_tasks(tasks, store, lookup(one, other))))
    assert [record["model"]["name"] for record in records] == ["one", "other", "one", "other", "one"]
    assert (one.runs, other.runs) == ([3], [2])


def test_no_more_pixels_than_the_limit_are_run_together_but_a_larger_picture_is_run_alone(store: ImageStore) -> None:
    model = RecordingModel()
    tasks = [task_for(EXAMPLES[0]) for _ in range(5)]
    (one,) = by_number(list(segment_tasks(tasks[:1], store, lookup(model))))
    pixels = one["width"] * one["height"]
    model.runs.clear()
    list(segment_tasks(tasks, store, lookup(model), 2 * pixels))
    assert model.runs == [2, 2, 1]
    model.runs.clear()
    list(segment_tasks(tasks[:2], store, lookup(model), pixels - 1))
    assert model.runs == [1, 1]
    assert 2 * pixels <= MAX_PIXELS_TOGETHER
