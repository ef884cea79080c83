"""The network in float32, float16 and int8: how quick, and how good what is found with it.

The ranges of int8 are taken from real pictures and drawn scenes that nothing is judged by here. Precisions take turns
within a round, and a ratio is taken within its round, because a shared machine drifts.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the folder of a script first, where this file's neighbour would hide the standard library's `queue`.
    sys.path.pop(0)
    sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import itertools
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from benchmarks import networks
from benchmarks.conversion import FLOAT32, PRECISIONS, converted, first_passes
from benchmarks.figures import print_table, spread
from benchmarks.processor import called, only
from spheroseg.segmentation.model import DEFAULT_MODEL, Network, find_model, read_card
from spheroseg.segmentation.model.card import NETWORK
from spheroseg.segmentation.model.passes import Grey
from spheroseg.settings import read_settings
from spheroseg.training.data import TEST_SCENES, TEST_SEED, Sample, read_samples, scene_samples
from spheroseg.training.evaluate import ALL, evaluate, summaries
from spheroseg.training.scores import Score

DESCRIPTION = """Measure the network in float32, float16 and int8: ms a call on 1 and on 2 cores, and the quality on
the spheroids of a data folder and on drawn scenes. Prints Markdown tables. Needs pip install 'spheroseg[dev]'."""

JUDGED = "spheroids"
EVERY = 10  # of the real pictures that are not judged, one of so many gives ranges
RANGE_SCENES, RANGE_SEED = 42, 77  # three of each kind

Folders = Mapping[str, Path]


def compare_speed(folders: Folders, cores: Sequence[int], rounds: int) -> None:
    times: dict[tuple[int, str], list[list[float]]] = {}
    for _, count in itertools.product(range(rounds), cores):
        with only(count):
            for precision, its_times in _one_round(folders, count).items():
                times.setdefault((count, precision), []).append(its_times)
    shapes = [f"{n} × {height} × {width}" for n, height, width in networks.SHAPES]
    head = ["cores", "precision", *shapes]
    print_table("The network alone, ms a call", head, [_spreads(*case, times[case]) for case in times])
    ratios = {
        (count, precision): [
            [float32 / its for float32, its in zip(*both, strict=True)]
            for both in zip(times[count, FLOAT32], its_times, strict=True)
        ]
        for (count, precision), its_times in times.items()
        if precision != FLOAT32
    }
    print_table("Times as quick as float32", head, [_spreads(*case, ratios[case]) for case in ratios])


def _one_round(folders: Folders, threads: int) -> dict[str, list[float]]:
    """ms a call of each precision, by shape."""
    case = networks.Case("ONNX Runtime", threads, networks.OPTIMISATIONS[-1])
    runs = {precision: networks.opened(case, folder / NETWORK) for precision, folder in folders.items()}
    times: dict[str, list[float]] = {precision: [] for precision in runs}
    for shape in networks.SHAPES:
        for precision, run in runs.items():
            times[precision].append(networks.milliseconds(run, shape, threads))
    return times


def _spreads(cores: int, precision: str, rounds: Sequence[Sequence[float]]) -> list[str]:
    return [str(cores), precision, *map(spread, zip(*rounds, strict=True))]


def compare_quality(folders: Folders, samples: Iterable[Sample], jobs: int) -> None:
    factories = {precision: partial(Network, folder) for precision, folder in folders.items()}
    scores = [score for of_one in evaluate(samples, factories, jobs) for score in of_one if score.kept == ALL]
    print_table(
        "What is found",
        ["set", "precision", "n", "mean IoU", "median", "worst", "F1", "objects", "most lost", "CPU ms an image"],
        [
            [
                row.set,
                row.model,
                str(row.pictures),
                *(f"{value:.4f}" for value in (row.mean, row.median, row.worst, row.f1) if value is not None),
                str(row.objects),
                f"{_most_lost(scores, row.set, row.model):.3f}",
                f"{1000 * row.seconds:.0f}",
            ]
            for row in summaries(scores)
        ],
    )


def _most_lost(scores: Sequence[Score], set_: str, precision: str) -> float:
    """By how much the IoU is below that of float32, on the picture where that is most."""
    ious = {(score.model, score.name): score.iou or 0.0 for score in scores if score.set == set_}
    return max(ious[FLOAT32, name] - iou for (model, name), iou in ious.items() if model == precision)


def _pictures(data: Path) -> Iterator[Grey]:
    """What int8 takes its ranges from."""
    real = [sample for sample in read_samples(data) if sample.set != JUDGED]
    for sample in itertools.chain(real[::EVERY], scene_samples(RANGE_SCENES, RANGE_SEED)):
        yield sample.read()[0]


def main(arguments: argparse.Namespace) -> None:
    here = len(os.sched_getaffinity(0))
    print(f"{here} cores, {called()}; load average {os.getloadavg()[0]:.1f} at the beginning")
    source = find_model(arguments.model, read_settings().model_folders).folder
    if source is None:
        raise SystemExit(f"{arguments.model} has no network in ONNX: name another with --model")
    with tempfile.TemporaryDirectory() as place:
        seen = list(first_passes(_pictures(arguments.data), read_card(source)))
        folders = {precision: converted(source, precision, seen, Path(place)) for precision in PRECISIONS}
        if arguments.rounds:
            compare_speed(folders, [count for count in (1, 2) if count <= here], arguments.rounds)
        if arguments.scenes:
            scenes = scene_samples(arguments.scenes, arguments.seed)
            compare_quality(folders, itertools.chain(read_samples(arguments.data, [JUDGED]), scenes), here)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="its name (%(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with manifest.csv (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the network alone (%(default)s); 0: only quality")
    parser.add_argument("--scenes", type=int, default=TEST_SCENES, help="drawn (%(default)s); 0: only speed")
    parser.add_argument("--seed", type=int, default=TEST_SEED, help="of the scenes (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    # That networks ought to be prepared first: ours has nothing left to be folded.
    logging.disable(logging.WARNING)
    main(_parse())
