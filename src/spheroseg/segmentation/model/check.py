"""Whether a model folder can be used: every promise of `model.json` is tried on pictures."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model import signature
from spheroseg.segmentation.model.card import NETWORK, Card, read_card, read_network
from spheroseg.segmentation.model.catalogue import known_models
from spheroseg.segmentation.model.network import Network, open_session
from spheroseg.segmentation.model.passes import TILE, Grey, aligned

ROUNDING = 1e-3
MOST_SECONDS = 60.0
MOST_BYTES = 2 * 1000**3


@dataclass(frozen=True)
class Line:
    """One thing that was looked at; `step` says what to do where it is not ok."""

    name: str
    is_ok: bool
    what: str
    step: str = ""


def _ok(name: str, what: str) -> Line:
    return Line(name, True, what)


def _fail(name: str, what: str, step: str) -> Line:
    return Line(name, False, what, step)


def _refused(name: str, error: ModelUnusable) -> Line:
    return Line(name, False, str(error))


def check(folder: Path) -> Iterator[Line]:
    """Look at the model in `folder`, line by line; what cannot be told after a failure is left out. Some seconds."""
    try:
        card = read_card(folder)
    except ModelUnusable as error:
        yield _refused("model.json", error)
        return
    yield _ok("model.json", f"{card.name} {card.version}, licence {card.licence}")
    yield from _name(card, folder)
    try:
        content = read_network(folder)
    except ModelUnusable as error:
        yield _refused("model.onnx", error)
        return
    opset = signature.opset(content)
    if opset is not None and opset < signature.LEAST_OPSET:
        step = f"export the network with opset {signature.LEAST_OPSET} or later"
        yield _fail("opset", f"the network is written in opset {opset}", step)
    try:
        session = open_session(content, folder / NETWORK)
    except ModelUnusable as error:
        yield _refused("model.onnx", error)
        return
    yield _ok("model.onnx", f"can be loaded, {len(content) / 1e6:.1f} MB, opset {opset}")
    faults = list(signature.faults(session, card))
    for what, step in faults:
        yield _fail("inputs and outputs", what, step)
    if faults:
        return
    gives = ", ".join(filter(None, (card.output.probability, card.output.distance)))
    yield _ok("inputs and outputs", f"{card.input.name} to {gives}, float32, any number and size")
    try:
        network = Network(folder)
    except ModelUnusable as error:
        yield _refused("values", error)
        return
    yield from _tried(folder, network)


def _name(card: Card, folder: Path) -> Iterator[Line]:
    others = [model for model in known_models() if model.name == card.name and not _is_same(model.folder, folder)]
    if others:
        place = others[0].folder or "built in"
        yield _fail("name", f"a model called {card.name} comes with spheroseg ({place})", "give it another name")


def _is_same(known: Path | None, folder: Path) -> bool:
    return known is not None and known.resolve() == folder.resolve()


def _tried(folder: Path, network: Network) -> Iterator[Line]:
    lines = []
    for name, look in (("values", _values), ("sizes", _sizes), ("batch", _batch), ("margin", _margin)):
        try:
            line = look(network)
        except ModelUnusable as error:
            line = _refused(name, error)
        lines.append(line)
        yield line
        if name in ("values", "sizes") and not line.is_ok:
            return
    if all(line.is_ok for line in lines):
        yield _cost(folder)


def _values(network: Network) -> Line:
    side = aligned(192, network.card.input.multiple)
    noise = _field((side, side), 2)
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
            step = "end the network with what gives 0 to 1 for any input, a sigmoid as a rule"
            return _fail("values", f"{name}: {str(error).partition('; run')[0]}", step)
    return _ok("values", f"0 to 1 on {len(pictures)} pictures: {', '.join(pictures)}")


def _sizes(network: Network) -> Line:
    multiple = network.card.input.multiple
    for rows, columns in ((1, 1), (1, 7), (3, 2), (5, 5)):
        try:
            network.infer(_field((rows * multiple, columns * multiple), 1)[None])
        except ModelUnusable as error:
            step = f"raise input.multiple (now {multiple}) until the network takes every multiple of it"
            return _fail("sizes", str(error).partition("; run")[0], step)
    odd = [_discs((211, 97), 30) * 200 + 20, _discs((33, 1001), 20) * -3000 + 40_000, np.full((70, 50), 7.0)]
    for picture in odd:
        network.maps([picture.astype(np.float32)])
    return _ok("sizes", f"any multiple of {multiple} px, so pictures of any size: 97 × 211, 1001 × 33, 50 × 70")


def _batch(network: Network) -> Line:
    side = aligned(128, network.card.input.multiple)
    pictures = np.stack([_field((side, side), 3), _discs((side, side), 40), np.zeros((side, side), np.float32)])
    together = network.infer(pictures)
    worst = 0.0
    for number, picture in enumerate(pictures):
        for answer, alone in zip(together, network.infer(picture[None]), strict=True):
            if answer is not None and alone is not None:
                worst = max(worst, float(np.abs(answer[number] - alone[0]).max()))
    if worst > ROUNDING:
        step = "export the network in evaluation mode: batch normalisation must not look at the batch"
        return _fail("batch", f"the answer for a picture differs by {worst:.2g} with other pictures beside it", step)
    return _ok("batch", f"a picture gets the same answer alone and among others (within {max(worst, 1e-7):.0e})")


def _margin(network: Network) -> Line:
    """How far from a cut the answer is another one than without the cut."""
    takes = network.card.input
    half = TILE // 2 // takes.multiple * takes.multiple
    across = aligned(128, takes.multiple)
    needed = 0
    for seed in range(2):
        # Strong contrast, at all scales: what makes far pixels matter.
        field = _field((across, 2 * half), 4 + seed)
        for turned in (False, True):
            needed = max(needed, _reach(network, field.T.copy() if turned else field, half, turned))
    margin = aligned(takes.margin, takes.multiple)
    if needed > (half - takes.multiple):
        return _fail(
            "margin",
            f"what is {needed} px away and more still changes the answer: no margin would do",
            "leave out what looks at the whole picture (global pooling, instance normalisation, attention)",
        )
    if needed > margin:
        step = f"set input.margin to {aligned(needed, takes.multiple)}"
        return _fail("margin", f"tiles with a margin of {takes.margin} px would leave seams", step)
    return _ok("margin", f"tiled equals untiled with {takes.margin} px; {needed} would do")


def _reach(network: Network, field: Grey, half: int, turned: bool) -> int:
    whole = network.infer(field[None])
    reach = 0
    for part in (slice(0, half), slice(half, None)):
        cut = np.s_[part, :] if turned else np.s_[:, part]
        for answer, alone in zip(whole, network.infer(field[cut][None].copy()), strict=True):
            if answer is None or alone is None:
                continue
            differs = (np.abs(answer[0][cut] - alone[0]) > ROUNDING).any(axis=1 if turned else 0)
            if differs.any():
                # From the cut: the end of the first part, the beginning of the second.
                places = np.flatnonzero(differs)
                reach = max(reach, int(half - places.min() if part.start == 0 else places.max() + 1))
    return reach


def _cost(folder: Path) -> Line:
    """Time and memory in a process of its own, as a worker's child has them."""
    command = [sys.executable, "-m", "spheroseg.segmentation.model.cost", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own program)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        what = f"a picture of 1000 × 1000 px ends the process with {done.returncode}: {last}"
        return _fail("time and memory", what, "memory is the usual cause: make the network smaller")
    cost = json.loads(done.stdout)
    what = f"{cost['seconds']:.2f} s and {cost['bytes'] / 1e6:.0f} MB for small objects on 1000 × 1000 px, one core"
    if cost["bytes"] > MOST_BYTES or cost["seconds"] > MOST_SECONDS:
        step = f"make the network smaller: {MOST_BYTES / 1e9:g} GB and {MOST_SECONDS:g} s are the most"
        return _fail("time and memory", what, step)
    return _ok("time and memory", what)


def _field(shape: tuple[int, int], seed: int) -> Grey:
    """Normalised noise at all scales, -1 to 2."""
    rng = np.random.default_rng(seed)
    field = np.zeros(shape, np.float32)
    for scale in (1, 4, 16, 64):
        coarse = rng.normal(0.0, 0.5, (shape[0] // scale + 2, shape[1] // scale + 2)).astype(np.float32)
        field += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(field + 0.5, -1, 2), np.float32)


def _discs(shape: tuple[int, int], apart: int) -> Grey:
    """Soft discs, 1 on 0, on a grid of so many px."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    distance = np.hypot(x % apart - apart / 2, y % apart - apart / 2)
    return np.asarray(np.clip(apart / 4 - distance + 0.5, 0, 1), np.float32)
