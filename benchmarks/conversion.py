"""One network in several precisions: model folders that differ in nothing else."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from spheroseg.segmentation.model.card import CARD, NETWORK, Card, read_card
from spheroseg.segmentation.model.planner import PassPlanner
from spheroseg.segmentation.model.windows import Grey

FLOAT32, FLOAT16, INT8, INT8_7_BITS = "float32", "float16", "int8", "int8-weights-of-7-bits"
PRECISIONS = (FLOAT32, FLOAT16, INT8, INT8_7_BITS)
# The sigmoid at the end stays in float32: in 256 steps its maps would say little about where an outline runs.
QUANTISED = ["Conv", "Relu", "MaxPool", "Resize", "Concat"]


def first_passes(pictures: Iterable[Grey], card: Card) -> Iterator[Grey]:
    """What the network sees of each picture first, (1, 1, height, width), normalised as in earnest."""
    for picture in pictures:
        look = Look(picture, card)
        for window in look.windows():
            yield look.cut(window)[None, None]


def converted(source: Path, precision: str, seen: Sequence[Grey], place: Path) -> Path:
    """The model of `source` in that precision: a folder in `place`. `seen`: int8 takes its ranges from these."""
    folder = place / precision
    folder.mkdir(parents=True)
    card = json.loads((source / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_text(json.dumps({**card, "name": precision}), encoding="utf-8")
    network = onnx.load(source / NETWORK)
    if precision in (INT8, INT8_7_BITS):
        quantize_static(
            network,
            folder / NETWORK,
            _Reader(read_card(folder).input.name, seen),
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            # Without VNNI two products are added in 16 bits, which weights of 8 bits overflow.
            reduce_range=precision == INT8_7_BITS,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return folder
    if precision == FLOAT16:
        network = convert_float_to_float16(network, keep_io_types=True)
    onnx.save(network, folder / NETWORK)
    return folder


class _Reader:
    """As ONNX Runtime asks for them: one input after the other, then None."""

    def __init__(self, name: str, seen: Sequence[Grey]) -> None:
        self._inputs = iter([{name: grey} for grey in seen])

    def get_next(self) -> dict[str, Grey] | None:
        return next(self._inputs, None)
