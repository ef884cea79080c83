"""The task system with a real model: the cost of the queue, of batches, of decoding and of writing.

Prints medians (minimum to maximum) of the rounds. What is compared alternates within a round, and a ratio is taken
within its round, because the speed of a shared machine drifts.
"""

import sys
from pathlib import Path

# Python puts the folder of a script first on its path, where queue.py would hide the standard library's `queue`.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict

import cv2

from benchmarks import bare_loop, full_queue
from benchmarks.databases import sqlite
from benchmarks.figures import print_table, spread
from benchmarks.processor import Rate, limit_cores
from spheroseg.logs import log_to
from spheroseg.run.inputs import find_inputs
from spheroseg.segmentation.image import decode
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.settings import read_settings
from spheroseg.storage import ImageStore

DESCRIPTION = """Measure images per second through the whole queue (SQLite) over a bare loop on the same images,
batches, and the shares of decoding, inference, outlines and writing, on 1 and on 2 cores. Prints Markdown tables."""

ROOT = Path(__file__).parents[1]
BARE, WRITING, QUEUE, BATCHES = "bare loop", "bare loop that writes", "queue", "queue, batches of 8"
BATCH_SIZE = 8
Round = dict[str, Rate]


async def compare_with_queue(
    images: Sequence[Path], model: bare_loop.ModelChoice, cores: Sequence[int], repeats: int, folder: Path
) -> None:
    """Print the rates of the queue and of the bare loop, and the time of each part of the work."""
    rows, shares = [], []
    for count in cores:
        rounds, laps = [], bare_loop.Laps(0, 0, 0, 0)
        with limit_cores(count):
            for repeat in range(repeats):
                rates, round_laps = await _one_round(images, model, count, folder / f"{count}_{repeat}")
                rounds.append(rates)
                laps += round_laps
        rows += [[str(count), name, *_spreads([rates[name] for rates in rounds])] for name in rounds[0]]
        compared = [(QUEUE, BARE), (QUEUE, WRITING), (BATCHES, QUEUE)]
        rows += [
            [
                str(count),
                f"**{over} to {under}**",
                spread([rates[over].per_second / rates[under].per_second for rates in rounds]),
                spread([rates[over].milliseconds / rates[under].milliseconds for rates in rounds]),
            ]
            for over, under in compared
        ]
        total = sum(asdict(laps).values())
        shares += [
            [part, str(count), f"{seconds / total:.1%}", spread([1000 * seconds / len(images) / repeats])]
            for part, seconds in asdict(laps).items()
        ]
    print_table(
        f"{len(images)} images, model {model.name}", ["cores", "what", "images/s", "processor ms an image"], rows
    )
    print_table(
        "Where the time of an image goes, in the bare loop that writes", ["part", "cores", "share", "ms"], shares
    )


async def _one_round(
    images: Sequence[Path], model: bare_loop.ModelChoice, cores: int, folder: Path
) -> tuple[Round, bare_loop.Laps]:
    rates: Round = {}
    rates[BARE], _ = bare_loop.measure(images, model, cores, None)
    with sqlite() as databases:
        for name, batch_size in ((QUEUE, 1), (BATCHES, BATCH_SIZE)):
            url = await databases.create(f"batch_{batch_size}")
            storage = folder / f"queue_{batch_size}"
            rates[name] = await full_queue.measure(url, images, model, cores, batch_size, storage)
    rates[WRITING], laps = bare_loop.measure(images, model, cores, folder / "bare")
    return rates, laps


def _spreads(rates: Sequence[Rate]) -> list[str]:
    return [spread([rate.per_second for rate in rates]), spread([rate.milliseconds for rate in rates])]


def _images(source: Path, count: int, side: int | None, folder: Path) -> list[Path]:
    """Write `count` images of `source`, repeated if there are fewer, as files of their own. Return their paths."""
    inputs = [item for item in find_inputs([source]).inputs if not item.problem]
    if not inputs:
        raise SystemExit(f"there are no images in {source}: name a folder with --images")
    made = []
    store = ImageStore(folder)
    for number in range(count):
        item = inputs[number % len(inputs)]
        with store.open(item.storage_key) as file:
            if side is None:
                content = file.read()
            else:
                pixels = decode(file, item.page).pixels
                scale = side / max(pixels.shape)
                interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
                resized = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation)
                content = cv2.imencode(".png", resized.clip(0, 255).astype("uint8"))[1].tobytes()
        path = folder / "images" / f"{number:04d}{'.png' if side else Path(item.name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        made.append(path)
    return made


def main(arguments: argparse.Namespace) -> None:
    available = os.sched_getaffinity(0)
    cores = [count for count in (1, 2) if count <= len(available)]
    print(f"{len(available)} cores, load average {os.getloadavg()[0]:.1f} at the beginning")
    dirs = read_settings().model_folders
    model = find_model(arguments.model, dirs)
    with tempfile.TemporaryDirectory() as folder:
        images = _images(arguments.images, arguments.count, arguments.side, Path(folder))
        choice = bare_loop.ModelChoice(model.name, dirs)
        asyncio.run(compare_with_queue(images, choice, cores, arguments.repeats, Path(folder)))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument(
        "--images", type=Path, default=ROOT / "examples" / "spheroids", help="folder of images (examples/spheroids/)"
    )
    parser.add_argument("--count", type=int, default=100, help="images in a measurement (%(default)s)")
    parser.add_argument("--side", type=int, help="resize them to this longer side, px; by default as they are")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="its name (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    with open(os.devnull, "w") as log:
        # Log entries are rendered as usual and then discarded.
        log_to(log)
        main(_parse())
