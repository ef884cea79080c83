"""`from spheroseg import run_images, segment, measure`: arrays and files in, typed results out."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import spheroseg
from spheroseg import Parameters, PlaneChoice, PlateOptions, RunProgress, measure, run_images, segment
from spheroseg.errors import BadImage, BadParameters, ModelUnusable, OutputUnusable, UnreadableInput
from spheroseg.segmentation import classical
from tests.support.runs import EXAMPLES, PICTURES, many_images, rows
from tests.support.synthetic import coverage, photograph

ONE = EXAMPLES / "image_08.png"


def test_importing_the_package_loads_nothing_that_it_may_not_need() -> None:
    script = (
        "import sys, spheroseg\n"
        "assert {*spheroseg.__all__} <= {*dir(spheroseg)}\n"
        "print(*sorted({'numpy', 'cv2', 'scipy', 'sqlalchemy', 'onnxruntime', 'typer'} & set(sys.modules)))\n"
        "from spheroseg import *\n"
        "print(run_images.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "spheroseg.run.run_images"]


def test_every_public_name_exists_and_an_unknown_one_is_an_attribute_error() -> None:
    assert all(hasattr(spheroseg, name) for name in spheroseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segments'"):
        spheroseg.segments  # noqa: B018


def test_an_array_a_path_and_bytes_give_the_same_objects() -> None:
    import cv2

    pixels = cv2.imread(str(ONE), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    results = [segment(image) for image in (pixels, ONE, str(ONE), ONE.read_bytes())]
    first = results[0]
    assert first.labels.dtype == np.uint16
    assert first.labels.shape == pixels.shape[:2]
    assert len(first.outlines) == len(first.measurements) == len(first.object_flags) == 1
    assert first.outlines[0].outer.shape[1] == 2
    assert first.pixel_size is None
    assert not [name for name in first.measurements[0] if name.endswith(("_um", "_um2", "_um3"))]
    for result in results[1:]:
        assert result.measurements == first.measurements
        assert np.array_equal(result.labels, first.labels)


def test_a_pixel_size_and_parameters_are_used_and_stated() -> None:
    picture = photograph(coverage(200, 240, 50, 50, 0, (120, 100)))
    result = segment(picture, model=classical.NAME, pixel_size_um=2, parameters=Parameters(threshold=0.5))
    (row,) = result.measurements
    assert row["equivalent_diameter_um"] == pytest.approx(200, rel=0.01)
    assert row["area_um2"] == pytest.approx(4 * row["area_px2"], rel=1e-4)
    assert (result.pixel_size, result.model_name) == (
        spheroseg.segmentation.pixel_size.PixelSize(2.0, "option"),
        classical.NAME,
    )
    assert result.parameters["threshold"] == 0.5


def test_an_image_without_a_spheroid_has_no_row_and_a_flag() -> None:
    result = segment(np.full((200, 200), 128, np.uint8))
    assert (result.measurements, result.outlines, result.flags) == ([], (), ("no_object_found",))


def test_a_page_of_a_stack_is_chosen_by_its_number(tmp_path: Path) -> None:
    pages = [photograph(coverage(200, 240, radius, radius, 0, (120, 100))) for radius in (30, 50)]
    tifffile.imwrite(tmp_path / "stack.tif", np.asarray(pages, np.uint8), photometric="minisblack")
    (row,) = segment(tmp_path / "stack.tif", page=1, model=classical.NAME).measurements
    assert row["equivalent_diameter_px"] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.zeros(100), {}, BadImage, r"shape \(100,\); it must be \(height, width\)"),
        (np.zeros((5, 100, 100)), {}, BadImage, "planes of a stack one by one"),
        (np.zeros((100, 100), complex), {}, BadImage, "dtype complex128"),
        (np.full((100, 100), np.nan), {}, BadImage, "NaN"),
        (np.zeros((4, 100)), {}, BadImage, "100 × 4"),
        (np.zeros((100, 100)), {"page": 1}, BadImage, "no page 1"),
        (np.zeros((100, 100)), {"pixel_size_um": -1}, BadParameters, "positive number of µm"),
        (np.zeros((100, 100)), {"model": "magic"}, ModelUnusable, "no model 'magic'"),
        (b"no image", {}, BadImage, "text file"),
        ("nowhere.png", {}, UnreadableInput, "cannot read nowhere.png: No such file"),
    ],
)
def test_what_cannot_be_segmented_is_an_error_with_a_reason(
    image: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        segment(image, **options)


def disc(side: int, radius: float, centre: tuple[float, float]) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:side, :side] + 0.5
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint32])
def test_labels_of_any_integer_type_are_measured_with_their_numbers(dtype: Any) -> None:
    labels = np.zeros((200, 200), dtype)
    labels[disc(200, 40, (60, 60))] = 7
    labels[disc(200, 30, (140, 150))] = 120
    first, second = measure(labels, pixel_size_um=0.5)
    assert (first["object"], second["object"]) == (7, 120)
    assert first["area_px2"] == pytest.approx(math.pi * 40**2, rel=0.005)
    assert second["area_um2"] == pytest.approx(math.pi * 30**2 / 4, rel=0.005)
    assert (second["centroid_x_px"], second["centroid_y_px"]) == pytest.approx((140, 150), abs=0.01)
    assert first["perimeter_px"] == pytest.approx(1.055 * 2 * math.pi * 40, rel=0.01), "as the documentation says"


def test_touching_labels_holes_and_the_edge_of_the_image_are_measured() -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[:50, :50] = 1
    labels[:50, 50:] = 2
    labels[10:20, 10:20] = 0
    first, second = measure(labels)
    assert (first["n_holes"], second["n_holes"]) == (1, 0)
    assert first["area_px2"] == pytest.approx(2400, rel=0.001)
    assert second["bbox_x1_px"] == 100
    assert measure(np.zeros((10, 10), int)) == []


def test_outlines_give_the_measurements_that_they_came_with() -> None:
    result = segment(ONE, pixel_size_um=0.65)
    assert measure(result.outlines, pixel_size_um=0.65) == result.measurements
    polygon = result.outlines[0].outer
    closed = np.vstack([polygon, polygon[:1]])
    assert measure([polygon[::-1].tolist(), closed])[0]["area_px2"] == result.measurements[0]["area_px2"]
    assert measure(result.labels)[0]["area_px2"] == pytest.approx(result.measurements[0]["area_px2"], rel=0.01)


TWO_PARTS = np.array([[1, 1, 1, 0, 1, 1, 1]] * 3)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (np.zeros((3, 3)), "dtype float64; it must hold integers"),
        (np.zeros(3, int), r"shape \(3,\)"),
        (np.full((3, 3), -1), "holds -1"),
        (TWO_PARTS, "object 1 has 2 separate parts"),
        (np.pad([[1]], 2), "too small to measure"),
        ([np.zeros((2, 3))], r"outline 1 has the shape \(2, 3\)"),
        ([[(0, 0), (1, 1), (0, 0)]], "outline 1 has 2 different points"),
        ([[(0, 0), (1, 1), (2, 2)]], "encloses no area"),
        ([[(0, 0), (1, math.inf), (2, 2)]], "not finite"),
        ([["a"]], "not an array of numbers"),
    ],
)
def test_what_cannot_be_measured_is_an_error_with_a_reason(objects: Any, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        measure(objects)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", classical.NAME)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_folder_of_images_gives_outcomes_and_the_paths_of_tables(tmp_path: Path) -> None:
    seen: list[RunProgress] = []
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = run_images(
        [*PICTURES[:2], tmp_path / "bad.png"], tmp_path / "out", pixel_size_um=0.65, progress=seen.append
    )
    assert result.is_finished
    assert [len(images) for images in (result.images, result.completed, result.failed)] == [3, 2, 1]
    assert (result.failed[0].reason, result.failed[0].objects) == ("bad_image", ())
    assert "text file" in (result.failed[0].error or "")
    assert (seen[-1].completed, seen[-1].failed, seen[-1].total) == (2, 1, 3)
    assert set(result.tables) == {"results", "growth"}
    assert [row["object"] for row in result.objects] == [1] * len(rows(tmp_path / "out"))
    for image in result.completed:
        assert image.mask is not None
        assert tifffile.imread(image.mask).max() == len(image.objects)
        assert image.overlay is not None
        assert image.overlay.is_file()
        assert image.pixel_size == {"um": 0.65, "source": "option"}


@pytest.mark.slow
async def test_it_runs_in_a_notebook_whose_event_loop_is_running(tmp_path: Path, quick: None) -> None:
    asyncio.get_running_loop()
    first = run_images(ONE, tmp_path / "out")
    assert len(first.completed) == 1
    again = run_images(str(ONE), str(tmp_path / "out"), only="changed")
    assert again.objects == first.objects


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_plate_gives_growth_rows(tmp_path: Path) -> None:
    plate = tmp_path / "plate"
    plate.mkdir()
    for hours, radius in ((0, 40), (24, 50), (48, 60)):
        picture = photograph(coverage(200, 200, radius, radius, 0, (100, 100)))
        tifffile.imwrite(plate / f"A01_t{hours:03}h.tif", np.asarray(picture, np.uint8))
    (plate / "drugs.csv").write_text("well,drug\nA01,none\n")
    result = run_images(
        plate,
        tmp_path / "out",
        conditions=plate / "drugs.csv",
        plate=PlateOptions(pattern="plain"),
        planes=PlaneChoice(),
        exports=(),
    )
    wells = result.growth.tables.wells
    assert [row["time_h"] for row in wells] == [0, 24, 48]
    assert {row["condition"] for row in wells} == {"none"}
    assert {"wells", "conditions", "fits"} <= set(result.tables)


@pytest.mark.parametrize(
    ("paths", "options", "error", "message"),
    [
        ("nowhere", {}, UnreadableInput, "no such file or folder"),
        ([], {}, UnreadableInput, "no images found"),
        (ONE, {"exports": ["excel"]}, BadParameters, "exports has 'excel'; it must be one of rois"),
        (ONE, {"only": "new"}, BadParameters, "only has 'new'; it must be one of failed, changed"),
        (ONE, {"workers": 0}, BadParameters, "number of workers is 0"),
        (ONE, {"pixel_size_um": 0}, BadParameters, "positive number"),
        (ONE, {"model": "magic"}, ModelUnusable, "no model 'magic'"),
        (ONE, {"conditions": "no.csv"}, UnreadableInput, "cannot read no.csv"),
    ],
)
def test_a_wrong_argument_is_an_error_and_nothing_is_written(
    tmp_path: Path, paths: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_images(paths, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_an_error_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputUnusable, match="is a file, not a folder"):
        run_images(ONE, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["run()", "asyncio.run(in_a_loop())"], ids=["script", "notebook"])
def test_interrupted_it_stops_and_the_same_call_continues(tmp_path: Path, call: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    # So many that the first is finished long before the last, on a busy machine too.
    many_images(folder, 120)
    script = f"""
import asyncio, sys
from spheroseg import run_images
def run():
    try:
        print("completed", len(run_images({str(folder)!r}, {str(out)!r}, workers=1).completed))
    except KeyboardInterrupt:
        sys.exit(5)
async def in_a_loop():
    run()
{call}
"""
    environment = {**os.environ, "MODEL": classical.NAME}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob(".spheroseg/storage/**/mask.tif")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 5
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "completed 120\n"
    assert done.stderr == ""
