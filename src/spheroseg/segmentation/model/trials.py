"""Runs a network on pictures to test what `model.json` states: values, sizes, batches, margin, time and memory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model.network import Network
from spheroseg.segmentation.model.windows import TILE_SIDE_PX, Grey, round_up

MAX_DIFFERENCE = 1e-3  # by rounding, between two answers that should be equal
MAX_SECONDS = 60.0  # for a picture of 1000 × 1000 px, as MAX_BYTES
MAX_BYTES = 2 * 1000**3


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `detail`: what was found. `remedy`: what to do if it is not ok."""

    name: str
    is_ok: bool
    detail: str
    remedy: str = ""


def passed(name: str, detail: str) -> CheckResult:
    """Return the result of a check that is ok."""
    return CheckResult(name, True, detail)


def failed(name: str, detail: str, remedy: str = "") -> CheckResult:
    """Return the result of a check that is not ok."""
    return CheckResult(name, False, detail, remedy)


def try_network(folder: Path, network: Network) -> Iterator[CheckResult]:
    """Run the network on pictures, and yield one result per trial. Trials that cannot succeed are left out."""
    results = []
    for name, trial in (
        ("values", _try_values),
        ("sizes", _try_sizes),
        ("batch", _try_batch),
        ("margin", _try_margin),
    ):
        try:
            result = trial(network)
        except ModelUnusable as error:
            result = failed(name, str(error))
        results.append(result)
        yield result
        if name in ("values", "sizes") and not result.is_ok:
            return
    if all(result.is_ok for result in results):
        yield _measure_cost(folder)


def _try_values(network: Network) -> CheckResult:
    side = round_up(192, network.card.input.multiple)
    noise = _noise((side, side), 2)
    pictures = {
        "all low": np.full_like(noise, -1),
        "black": np.zeros_like(noise),
        "white": np.ones_like(noise),
        "all high": np.full_like(noise, 2),
        "noise": noise,
        "dark object": 1 - _discs((side, side), 60),
        "bright object": _discs((side, side), 60),
    }
    for name, picture in pictures.items():
        try:
            network.infer(picture[None])
        except ModelUnusable as error:
            remedy = "end the network with what gives 0 to 1 for any input, a sigmoid as a rule"
            return failed("values", f"{name}: {str(error).partition('; run')[0]}", remedy)
    return passed("values", f"0 to 1 on {len(pictures)} pictures: {', '.join(pictures)}")


def _try_sizes(network: Network) -> CheckResult:
    multiple = network.card.input.multiple
    for rows, columns in ((1, 1), (1, 7), (3, 2), (5, 5)):
        try:
            network.infer(_noise((rows * multiple, columns * multiple), 1)[None])
        except ModelUnusable as error:
            remedy = f"raise input.multiple (now {multiple}) until the network takes every multiple of it"
            return failed("sizes", str(error).partition("; run")[0], remedy)
    odd_sizes = [_discs((211, 97), 30) * 200 + 20, _discs((33, 1001), 20) * -3000 + 40_000, np.full((70, 50), 7.0)]
    for picture in odd_sizes:
        network.maps([picture.astype(np.float32)])
    return passed("sizes", f"any multiple of {multiple} px, so pictures of any size: 97 × 211, 1001 × 33, 50 × 70")


def _try_batch(network: Network) -> CheckResult:
    side = round_up(128, network.card.input.multiple)
    pictures = np.stack([_noise((side, side), 3), _discs((side, side), 40), np.zeros((side, side), np.float32)])
    together = network.infer(pictures)
    difference = 0.0
    for number, picture in enumerate(pictures):
        for answer, alone in zip(together, network.infer(picture[None]), strict=True):
            if answer is not None and alone is not None:
                difference = max(difference, float(np.abs(answer[number] - alone[0]).max()))
    if difference > MAX_DIFFERENCE:
        remedy = "export the network in evaluation mode: batch normalisation must not look at the batch"
        return failed(
            "batch", f"the answer for a picture differs by {difference:.2g} with other pictures beside it", remedy
        )
    return passed(
        "batch", f"a picture gets the same answer alone and among others (within {max(difference, 1e-7):.0e})"
    )


def _try_margin(network: Network) -> CheckResult:
    """Compare the margin of the card with the distance from a cut within which the answer depends on the cut."""
    settings = network.card.input
    half = TILE_SIDE_PX // 2 // settings.multiple * settings.multiple
    across = round_up(128, settings.multiple)
    needed = 0
    for seed in range(2):
        # With strong contrast at all scales, distant pixels have the largest effect.
        noise = _noise((across, 2 * half), 4 + seed)
        for turned in (False, True):
            needed = max(needed, _measure_reach(network, noise.T.copy() if turned else noise, half, turned))
    margin = round_up(settings.margin, settings.multiple)
    if needed > (half - settings.multiple):
        return failed(
            "margin",
            f"what is {needed} px away and more still changes the answer: no margin would do",
            "leave out what looks at the whole picture (global pooling, instance normalisation, attention)",
        )
    if needed > margin:
        remedy = f"set input.margin to {round_up(needed, settings.multiple)}"
        return failed("margin", f"tiles with a margin of {settings.margin} px would leave seams", remedy)
    return passed("margin", f"tiled equals untiled with {settings.margin} px; {needed} would do")


def _measure_reach(network: Network, picture: Grey, half: int, turned: bool) -> int:
    """Cut the picture in the middle. Return the distance, px, from the cut within which the answer changes."""
    whole = network.infer(picture[None])
    reach = 0
    for part in (slice(0, half), slice(half, None)):
        cut = np.s_[part, :] if turned else np.s_[:, part]
        for answer, alone in zip(whole, network.infer(picture[cut][None].copy()), strict=True):
            if answer is None or alone is None:
                continue
            differs = (np.abs(answer[0][cut] - alone[0]) > MAX_DIFFERENCE).any(axis=1 if turned else 0)
            if differs.any():
                # The cut is the end of the first part and the beginning of the second.
                indices = np.flatnonzero(differs)
                reach = max(reach, int(half - indices.min() if part.start == 0 else indices.max() + 1))
    return reach


def _measure_cost(folder: Path) -> CheckResult:
    """Measure time and memory in a separate process, like the child process of a worker."""
    command = [sys.executable, "-m", "spheroseg.segmentation.model.cost", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own program)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        detail = f"a picture of 1000 × 1000 px ends the process with {done.returncode}: {last}"
        return failed("time and memory", detail, "memory is the usual cause: make the network smaller")
    cost = json.loads(done.stdout)
    detail = f"{cost['seconds']:.2f} s and {cost['bytes'] / 1e6:.0f} MB for small objects on 1000 × 1000 px, one core"
    if cost["bytes"] > MAX_BYTES or cost["seconds"] > MAX_SECONDS:
        remedy = f"make the network smaller: {MAX_BYTES / 1e9:g} GB and {MAX_SECONDS:g} s are the most"
        return failed("time and memory", detail, remedy)
    return passed("time and memory", detail)


def _noise(shape: tuple[int, int], seed: int) -> Grey:
    """Return normalised noise at all scales, -1 to 2."""
    rng = np.random.default_rng(seed)
    noise = np.zeros(shape, np.float32)
    for scale in (1, 4, 16, 64):
        coarse = rng.normal(0.0, 0.5, (shape[0] // scale + 2, shape[1] // scale + 2)).astype(np.float32)
        noise += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(noise + 0.5, -1, 2), np.float32)


def _discs(shape: tuple[int, int], spacing: int) -> Grey:
    """Return soft discs, 1 on 0, on a grid of `spacing` px."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    distance = np.hypot(x % spacing - spacing / 2, y % spacing - spacing / 2)
    return np.asarray(np.clip(spacing / 4 - distance + 0.5, 0, 1), np.float32)
