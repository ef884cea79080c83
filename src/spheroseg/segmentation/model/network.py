"""Computes the maps of pictures with an ONNX network. Windows of several pictures share an inference if they fit."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model import signature
from spheroseg.segmentation.model.card import NETWORK, read_card, read_network
from spheroseg.segmentation.model.passes import Pass
from spheroseg.segmentation.model.planner import PassPlanner
from spheroseg.segmentation.model.session import describe, make_run_options, open_session
from spheroseg.segmentation.model.windows import TILE_SIDE_PX, Grey, Window, round_up

MAX_PIXELS_PER_INFERENCE = 1024 * 1024  # of all windows of one inference together; it bounds the memory
# After a larger inference, its memory is freed, because tracing the outlines of a large picture needs it.
SHRINK_ABOVE_PIXELS = 8 * 256 * 256
ROUNDING = 1e-3  # an answer may lie this far outside 0..1


class Network:
    """A loaded model folder.

    `sha256` identifies the model (see `Card.identity`), `network_sha256` is the hash of `model.onnx` alone.
    """

    def __init__(self, folder: Path, tile: int = TILE_SIDE_PX) -> None:
        """Load the model. Raise ModelUnusable if it cannot be used. `tile`: the longest side of a window, px."""
        self.card = read_card(folder)
        self._path = folder / NETWORK
        self._tile = tile
        content = read_network(folder)
        self.name, self.version = self.card.name, self.card.version
        self.network_sha256 = hashlib.sha256(content).hexdigest()
        self.sha256 = self.card.identity(self.network_sha256)
        # Load the bytes that were hashed and not the file, so that the hash covers all weights.
        self.session = open_session(content, self._path)
        for mismatch in signature.find_mismatches(self.session, self.card):
            raise ModelUnusable(f"{self._path}: {mismatch.problem}; {mismatch.remedy}")
        self._largest_inference = 0
        side = round_up(64, self.card.input.multiple)
        self._small_input = np.zeros((1, side, side), np.float32)
        # Run once on a small input, because the memory of the first inference is never freed. If this fails, every
        # inference fails.
        self.infer(self._small_input)

    def maps(self, pictures: Sequence[Grey]) -> list[Maps]:
        """Compute the probabilities of pictures (float32, height, width), and distances if the network has them.

        The maps have the size of the last pass, at most 4096 px on the longer side. They are 0 everywhere if a
        picture has a single grey value. Raise ModelUnusable if the network answers with anything but maps of 0..1.
        """
        planners = [PassPlanner(picture, self.card, self._tile) for picture in pictures]
        unfinished = planners
        try:
            while unfinished:
                for batch in _batches([planner.current for planner in unfinished]):
                    self._fill(batch)
                unfinished = [planner for planner in unfinished if planner.next_pass() is not None]
        finally:
            self._shrink_memory()
        return [planner.maps() for planner in planners]

    def _shrink_memory(self) -> None:
        """Free the memory of large inferences. Their answers lie in it, so no reference to them may be left."""
        if self._largest_inference > SHRINK_ABOVE_PIXELS:
            self._largest_inference = 0
            self.infer(self._small_input, shrinks_memory=True)

    def _fill(self, batch: Sequence[tuple[Pass, Window]]) -> None:
        probability, distance = self.infer(np.stack([pass_.cut(window) for pass_, window in batch]))
        for number, (pass_, window) in enumerate(batch):
            pass_.put(window, probability[number], None if distance is None else distance[number])

    def infer(self, grey: Grey, *, shrinks_memory: bool = False) -> tuple[Grey, Grey | None]:
        """Run the network on normalised grey values (n, height, width) whose sides are multiples of `multiple`.

        Return the probability and, if the network has it, the distance: float32 0..1, of the same shape. Raise
        ModelUnusable if the network fails or its answer is something else, MemoryError if memory runs out.
        """
        output = self.card.output
        self._largest_inference = max(self._largest_inference, grey.size)
        names = [output.probability, *([output.distance] if output.distance else [])]
        options = make_run_options(shrinks_memory=shrinks_memory)
        try:
            answers = self.session.run(names, {self.card.input.name: grey[:, None]}, options)
        except Exception as error:
            # Any error except for a lack of memory means that the network does not fit this input.
            if "alloc" in str(error).lower():
                raise MemoryError from error
            raise ModelUnusable(
                f"{self._path} fails on {len(grey)} pictures of {grey.shape[2]} × {grey.shape[1]} px: "
                f"{describe(error)}; run `spheroseg model check` on its folder"
            ) from error
        maps = [self._check_answer(name, answer, grey) for name, answer in zip(names, answers, strict=True)]
        return maps[0], maps[1] if len(maps) > 1 else None

    def _check_answer(self, name: str, answer: npt.NDArray[np.float32], grey: Grey) -> Grey:
        """Return the answer (n, 1, height, width) as (n, height, width), clipped to 0..1. Raise ModelUnusable."""
        fault = None
        if answer.shape != (len(grey), 1, *grey.shape[1:]):
            fault = f"has the shape {answer.shape} for an input of {(len(grey), 1, *grey.shape[1:])}"
        elif not np.isfinite(answer).all():
            fault = "has values that are no numbers"
        elif answer.min() < -ROUNDING or answer.max() > 1 + ROUNDING:
            fault = f"has values from {answer.min():.4g} to {answer.max():.4g}, not 0 to 1"
        if fault:
            raise ModelUnusable(f"{self._path}: the output {name} {fault}; run `spheroseg model check` on its folder")
        return np.asarray(np.clip(answer[:, 0], 0, 1), np.float32)


def _batches(passes: Sequence[Pass]) -> Iterator[list[tuple[Pass, Window]]]:
    """Group the windows of all passes into inferences: windows of one shape, and not too many pixels."""

    def shape(pair: tuple[Pass, Window]) -> tuple[int, int]:
        return pair[1].height, pair[1].width

    pairs = sorted(((pass_, window) for pass_ in passes for window in pass_.windows()), key=shape)
    for (height, width), group in groupby(pairs, shape):
        max_count = max(1, MAX_PIXELS_PER_INFERENCE // (height * width))
        alike = list(group)
        for begin in range(0, len(alike), max_count):
            yield alike[begin : begin + max_count]
