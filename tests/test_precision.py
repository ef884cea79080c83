"""The benchmark of precisions: what it compares is one network, and its tables say what was found."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks import networks
from benchmarks.conversion import FLOAT32, INT8_7_BITS, PRECISIONS, converted, first_passes
from benchmarks.precision import compare_quality, compare_speed
from spheroseg.segmentation.model import Network, read_card
from spheroseg.training.data import Sample, Truth
from tests.support.networks import model_folder
from tests.support.synthetic import Picture, coverage

SIDE = 96
DISK = coverage(SIDE, SIDE, 20, 20, 0, (48, 40))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("precisions")
    source = model_folder(place)
    seen = list(first_passes([DISK], read_card(source)))
    return {precision: converted(source, precision, seen, place / "made") for precision in PRECISIONS}


def test_every_precision_answers_nearly_as_float32_does(folders: dict[str, Path]) -> None:
    maps: dict[str, Picture] = {name: Network(folder).maps([DISK])[0].probability for name, folder in folders.items()}
    for found in maps.values():
        assert np.abs(found - maps[FLOAT32]).max() < 0.1


def test_weights_of_7_bits_cannot_overflow_16_bits_in_pairs(folders: dict[str, Path]) -> None:
    stored = onnx.load(folders[INT8_7_BITS] / "model.onnx").graph.initializer
    weights = [array for array in map(numpy_helper.to_array, stored) if array.dtype == np.int8 and array.ndim == 4]
    assert weights
    assert all(2 * 255 * np.abs(array.astype(int)).max() < 2**15 for array in weights)


def test_the_tables_have_a_row_for_each_precision(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(networks, "LEAST_SECONDS", 0.0)
    truth = (DISK > 0.5).astype(np.uint16)
    sample = Sample("drawn", "drawn/1", "disk", "here", "MIT", Truth.INSTANCES, lambda: (DISK, truth))
    compare_speed(folders, [1], 1)
    compare_quality(folders, [sample], 1)
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert [row[1] for row in rows if row[0] == "1"] == [*PRECISIONS, *PRECISIONS[1:]]
    found = [row for row in rows if row[0] == "drawn"]
    assert [row[1] for row in found] == list(PRECISIONS)
    assert all(float(row[6]) == 1 and abs(float(row[8])) < 0.1 for row in found)
