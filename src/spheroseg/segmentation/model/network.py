"""A network in ONNX: its maps for pictures of any size, run together where their windows have one shape."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model import signature
from spheroseg.segmentation.model.card import NETWORK, read_card, read_network
from spheroseg.segmentation.model.passes import TILE, Grey, Look, Window, aligned

# What one inference sees at most, px of all its windows together: bounds the memory.
PIXELS_AT_ONCE = 1024 * 1024
# After more px in one inference its memory is given back: what comes next, outlines of a large picture, needs it.
GIVES_BACK_ABOVE = 8 * 256 * 256
# How far outside 0..1 is rounding.
SLACK = 1e-3


class Network:
    """A model folder, loaded. `sha256`: see `Card.identity`; `network_sha256` is that of `model.onnx` alone."""

    def __init__(self, folder: Path, tile: int = TILE) -> None:
        """Raises ModelUnusable where the folder cannot be used. `tile`: px, the longest side of a window."""
        self.card = read_card(folder)
        self._where = folder / NETWORK
        self._tile = tile
        content = read_network(folder)
        self.name, self.version = self.card.name, self.card.version
        self.network_sha256 = hashlib.sha256(content).hexdigest()
        self.sha256 = self.card.identity(self.network_sha256)
        # From the bytes that were hashed, not from the file: so that the hash tells of all weights.
        self.session = open_session(content, self._where)
        for what, step in signature.faults(self.session, self.card):
            raise ModelUnusable(f"{self._where}: {what}; {step}")
        self._most_seen = 0
        side = aligned(64, self.card.input.multiple)
        self._nothing = np.zeros((1, side, side), np.float32)
        # Small, because the memory of the first inference is never given back. And what fails here fails always.
        self.infer(self._nothing)

    def maps(self, pictures: Sequence[Grey]) -> list[Maps]:
        """Grey values (height, width) to probabilities, and distances where the network has them.

        They come at the size of the last pass, of at most 4096 px on the longer side, and are all 0 where a picture
        is of one grey. Raises ModelUnusable where the network answers with something else than maps of 0..1.
        """
        looks = [Look(picture, self.card, self._tile) for picture in pictures]
        waiting = looks
        try:
            while waiting:
                for together in _gathered(waiting):
                    self._see(together)
                waiting = [look for look in waiting if look.goes_on()]
        finally:
            self._give_back()
        return [look.maps() for look in looks]

    def _give_back(self) -> None:
        """Let go of the memory of large inferences; only once their answers are gone, which lie in it."""
        if self._most_seen > GIVES_BACK_ABOVE:
            self._most_seen = 0
            self.infer(self._nothing, gives_back=True)

    def _see(self, together: Sequence[tuple[Look, Window]]) -> None:
        answers = self.infer(np.stack([look.cut(window) for look, window in together]))
        for number, (look, window) in enumerate(together):
            look.put(window, answers[0][number], answers[1][number] if answers[1] is not None else None)

    def infer(self, grey: Grey, *, gives_back: bool = False) -> tuple[Grey, Grey | None]:
        """The network itself: normalised grey values (n, height, width), multiples of `multiple`, to maps."""
        gives = self.card.output
        self._most_seen = max(self._most_seen, grey.size)
        names = [gives.probability, *([gives.distance] if gives.distance else [])]
        try:
            answers = self.session.run(names, {self.card.input.name: grey[:, None]}, _run_options(gives_back))
        except Exception as error:
            # Whatever it raises, memory apart, says that the network does not fit what it is asked.
            if "alloc" in str(error).lower():
                raise MemoryError from error
            raise ModelUnusable(
                f"{self._where} fails on {len(grey)} pictures of {grey.shape[2]} × {grey.shape[1]} px: "
                f"{_reason(error)}; run `spheroseg model check` on its folder"
            ) from error
        maps = [self._checked(name, answer, grey) for name, answer in zip(names, answers, strict=True)]
        return maps[0], maps[1] if len(maps) > 1 else None

    def _checked(self, name: str, answer: Any, grey: Grey) -> Grey:
        fault = None
        if answer.shape != (len(grey), 1, *grey.shape[1:]):
            fault = f"has the shape {answer.shape} for an input of {(len(grey), 1, *grey.shape[1:])}"
        elif not np.isfinite(answer).all():
            fault = "has values that are no numbers"
        elif answer.min() < -SLACK or answer.max() > 1 + SLACK:
            fault = f"has values from {answer.min():.4g} to {answer.max():.4g}, not 0 to 1"
        if fault:
            raise ModelUnusable(
                f"{self._where}: the output {name} {fault}; run `spheroseg model check` on its folder"
            )
        return np.asarray(np.clip(answer[:, 0], 0, 1), np.float32)


def open_session(content: bytes, where: Path) -> Any:
    """ONNX Runtime's session for these bytes, on one thread. Raises ModelUnusable."""
    # Only where a network is really used: the import takes a fifth of a second.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # A slot is one core: several slots that each start a thread per core only get in each other's way.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelUnusable(f"{where} cannot be loaded: {_reason(error)}; export it again") from error


def _run_options(gives_back: bool) -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    if gives_back:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and the place in its own source."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+ .*?\) )?", "", line).rstrip(".")


def _gathered(looks: Sequence[Look]) -> Iterator[list[tuple[Look, Window]]]:
    """The windows of all pictures that are seen in one inference: of one shape, and not too many."""

    def shape(pair: tuple[Look, Window]) -> tuple[int, int]:
        return pair[1].height, pair[1].width

    pairs = sorted(((look, window) for look in looks for window in look.windows()), key=shape)
    for (height, width), alike in groupby(pairs, shape):
        most = max(1, PIXELS_AT_ONCE // (height * width))
        rest = list(alike)
        for begin in range(0, len(rest), most):
            yield rest[begin : begin + most]
